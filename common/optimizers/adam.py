# SPDX-License-Identifier: Apache-2.0
"""Adam as TF1 computes it, and AdamW as the original Cerebras model and google-research/bert do."""

import math
from typing import ClassVar

import tensorflow as tf

from common.optimizers.base import Optimizer


def one_minus_power(beta, exponent):
    """1 - beta^exponent, without the cancellation that loses four digits of float32 at 0.999^1."""
    return -tf.math.expm1(exponent * (math.log(beta) if beta else -math.inf))


class Adam(Optimizer):
    """Kingma & Ba 2015 in the form that ends their section 2; tf.compat.v1.train.AdamOptimizer.

        m       = beta1 * m + (1 - beta1) * g
        v       = beta2 * v + (1 - beta2) * g^2
        update  = r * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + epsilon)     step t from 1

    Epsilon is outside the root and not corrected for t, unlike in the paper's algorithm 1.
    """

    name = "adam"
    first_values: ClassVar = {"m": 0.0, "v": 0.0}

    @staticmethod
    def rule(gradient, slots, numbers):
        m = numbers["beta1"] * slots["m"] + numbers["one_minus_beta1"] * gradient
        v = numbers["beta2"] * slots["v"] + numbers["one_minus_beta2"] * gradient * gradient
        step_size = numbers["rate"] * numbers["correction"]
        return step_size * m / (tf.sqrt(v) + numbers["epsilon"]), {"m": m, "v": v}

    def rule_numbers(self):
        cfg = self.cfg
        # 1 - beta in Python's float64: in float32, 1 - 0.999 has a relative error of 5e-5.
        return {
            "beta1": cfg.beta1,
            "one_minus_beta1": 1.0 - cfg.beta1,
            "beta2": cfg.beta2,
            "one_minus_beta2": 1.0 - cfg.beta2,
            "epsilon": cfg.epsilon,
            "correction": self.correction(),
        }

    def correction(self):
        """Returns the bias correction, a factor on the rate, <float32>[]: the means start at 0."""
        t = tf.cast(self.step + 1, tf.float32)
        beta1, beta2 = self.cfg.beta1, self.cfg.beta2
        return tf.sqrt(one_minus_power(beta2, t)) / one_minus_power(beta1, t)


class AdamW(Adam):
    """Adam with decoupled weight decay as google-research/bert (optimization.py) computes it.

    It differs from the paper (Loshchilov & Hutter 2019) and from Keras: no bias correction unless
    `use_bias_correction` is true, and epsilon outside the root. Without the correction
    the first step moves an element by (1 - beta1) / sqrt(1 - beta2) = 3.16 times the rate.
    """

    name = "adamw"

    def correction(self):
        return super().correction() if self.cfg.use_bias_correction else tf.constant(1.0)
