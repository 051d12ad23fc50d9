# SPDX-License-Identifier: Apache-2.0
"""LAMB: Adam whose step in each weight is as long as a share, the rate, of the weight itself."""

import tensorflow as tf

from common.optimizers.adam import Adam, one_minus_power
from common.optimizers.update import TableGradient, half_square, squares_of_step


class Lamb(Adam):
    """You et al. 2020 (arXiv 1904.00962), algorithm 2, with phi the identity.

        m       = beta1 * m + (1 - beta1) * g
        v       = beta2 * v + (1 - beta2) * g^2
        u       = m / c1 / (sqrt(v / c2) + epsilon) + weight_decay_rate * w
        w      -= r * |w| / |u| * u

    With `use_bias_correction`, c1 = 1 - beta1^t and c2 = 1 - beta2^t, step t from 1, as in the
    paper; without, both are 1, as in google-research/albert lamb_optimizer.py. As there, a weight
    that is excluded from weight decay has the rate r itself in place of r * |w| / |u|, and so has a
    weight where either norm is 0.
    """

    name = "lamb"

    @staticmethod
    def rule(gradient, slots, numbers):
        m = numbers["beta1"] * slots["m"] + numbers["one_minus_beta1"] * gradient
        v = numbers["beta2"] * slots["v"] + numbers["one_minus_beta2"] * gradient * gradient
        root = tf.sqrt(v * numbers["correction_of_v"]) + numbers["epsilon"]
        return numbers["rate"] * numbers["correction"] * m / root, {"m": m, "v": v}

    def rule_numbers(self):
        t, beta2 = tf.cast(self.step + 1, tf.float32), self.cfg.beta2
        is_corrected = self.cfg.use_bias_correction
        of_v = 1.0 / one_minus_power(beta2, t) if is_corrected else tf.constant(1.0)
        return {**super().rule_numbers(), "correction_of_v": of_v}

    def correction(self):
        t = tf.cast(self.step + 1, tf.float32)
        is_corrected = self.cfg.use_bias_correction
        return 1.0 / one_minus_power(self.cfg.beta1, t) if is_corrected else tf.constant(1.0)

    def rate_ratio(self, name, gradient, names, numbers):
        """|w| / |u| of a weight that decays, <float32>[]; None for the others."""
        if name not in self.decayed:
            return None
        if isinstance(gradient, TableGradient):  # one program for batches of any number of words
            gradient = gradient._replace(ids=None)
        # At the rate 1, so that a warm-up from 0 does not divide by 0.
        numbers = tf.concat([[1.0, self.cfg.weight_decay_rate], numbers[2:]], axis=0)
        weight = self.weights[name]
        squares = squares_of_step(self.rule, weight, self.slots_of(name), gradient, names, numbers)
        of_step = tf.sqrt(tf.reduce_sum(squares))
        of_weight = tf.sqrt(2.0 * half_square(weight.read_value()))
        has_both = (of_weight > 0) & (of_step > 0)
        return tf.where(has_both, of_weight / tf.where(has_both, of_step, 1.0), 1.0)
