# SPDX-License-Identifier: Apache-2.0
"""Loss scaling: keeps float16 gradients above the smallest float16 number."""

import tensorflow as tf


class FixedLossScale:
    """Multiplies the loss by `factor`, <float32>[]; 1.0 changes nothing.

    `state`, {name: variable}, is saved with the optimizer.
    """

    skips_overflow = False

    def __init__(self, factor):
        self.factor = tf.constant(factor, tf.float32)
        self.state = {}

    def update(self, is_finite):
        """Does nothing. is_finite: <bool>[]."""


class DynamicLossScale:
    """Doubles while gradients stay finite, halves when too many overflow.

    The rule of the original's CSDynamicLossScale: the factor halves when the share of overflows
    since it last changed exceeds `overflow_tolerance`, and doubles `steps_per_increase` steps after
    its last change, tolerated overflows included. An update with an overflow is skipped. With a
    tolerance of 0 it is the rule of tf.mixed_precision's and Keras' dynamic scale: halve at every
    overflow, double after so many finite steps in a row.

    initial, smallest, largest: float > 0, powers of two, so that scaling does not round.
    steps_per_increase: int > 0. overflow_tolerance: float in [0, 1).
    """

    skips_overflow = True

    def __init__(self, initial, smallest, largest, steps_per_increase, overflow_tolerance):
        self.smallest, self.largest = smallest, largest
        self.steps_per_increase = steps_per_increase
        self.overflow_tolerance = overflow_tolerance
        self.factor = tf.Variable(initial, dtype=tf.float32, trainable=False)
        self.steps = tf.Variable(0, dtype=tf.int32, trainable=False)  # since the last change
        self.overflows = tf.Variable(0, dtype=tf.int32, trainable=False)  # among them
        self.state = {
            "loss_scale/factor": self.factor,
            "loss_scale/steps": self.steps,
            "loss_scale/overflows": self.overflows,
        }

    def update(self, is_finite):
        """Counts one update and adapts the factor. is_finite: <bool>[], of all its gradients."""
        overflows = self.overflows + tf.where(is_finite, 0, 1)
        steps = self.steps + 1
        overflow_share = tf.cast(overflows, tf.float32) / tf.cast(steps, tf.float32)
        halve = overflow_share > self.overflow_tolerance
        double = ~halve & (steps >= self.steps_per_increase)
        factor = tf.where(halve, self.factor / 2, tf.where(double, self.factor * 2, self.factor))
        changed = halve | double
        self.factor.assign(tf.clip_by_value(factor, self.smallest, self.largest))
        self.steps.assign(tf.where(changed, 0, steps))
        self.overflows.assign(tf.where(changed, 0, overflows))


def make_loss_scale(cfg):
    """Returns the loss scale that OptimizerParams `cfg` describe."""
    if not isinstance(cfg.loss_scaling_factor, str):
        return FixedLossScale(cfg.loss_scaling_factor)
    return DynamicLossScale(
        cfg.initial_loss_scale,
        cfg.loss_scale_setting("min_loss_scale"),
        cfg.loss_scale_setting("max_loss_scale"),
        cfg.steps_per_increase,
        cfg.loss_scale_setting("overflow_tolerance"),
    )
