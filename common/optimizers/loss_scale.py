# SPDX-License-Identifier: Apache-2.0
"""Loss scaling: keeps float16 gradients above the smallest number float16 can hold."""

import tensorflow as tf


class FixedLossScale:
    """Multiplies the loss by a constant; 1.0 changes nothing."""

    skips_overflow = False

    def __init__(self, factor):
        self.factor = tf.constant(factor, tf.float32)
        self.state = {}

    def update(self, is_finite):
        """Nothing to adapt. is_finite: <bool>[]."""


class DynamicLossScale:
    """Doubles while gradients stay finite, halves when too many overflow.

    The original's rule: after `steps_per_increase` finite updates in a row the factor doubles; when
    the share of overflows since the factor last changed exceeds `overflow_tolerance`, it halves.
    An update with an overflow is skipped.

    Args:
        initial, smallest, largest: float > 0, powers of two so that scaling rounds nothing.
        steps_per_increase: int > 0.
        overflow_tolerance: float in [0, 1).
    Attributes:
        factor: <float32> variable [].
        state: {name: variable}, to be saved with the optimizer.
    """

    skips_overflow = True

    def __init__(self, initial, smallest, largest, steps_per_increase, overflow_tolerance):
        self.smallest, self.largest = smallest, largest
        self.steps_per_increase = steps_per_increase
        self.overflow_tolerance = overflow_tolerance
        self.factor = tf.Variable(initial, dtype=tf.float32, trainable=False)
        self.good_steps = tf.Variable(0, dtype=tf.int32, trainable=False)  # in a row
        self.steps = tf.Variable(0, dtype=tf.int32, trainable=False)  # since the last change
        self.overflows = tf.Variable(0, dtype=tf.int32, trainable=False)  # among them
        self.state = {
            "loss_scale/factor": self.factor,
            "loss_scale/good_steps": self.good_steps,
            "loss_scale/steps": self.steps,
            "loss_scale/overflows": self.overflows,
        }

    def update(self, is_finite):
        """Counts one update and adapts the factor. is_finite: <bool>[], of all its gradients."""
        good_steps = tf.where(is_finite, self.good_steps + 1, 0)
        overflows = self.overflows + tf.where(is_finite, 0, 1)
        steps = self.steps + 1
        overflow_share = tf.cast(overflows, tf.float32) / tf.cast(steps, tf.float32)
        halve = ~is_finite & (overflow_share > self.overflow_tolerance)
        double = good_steps >= self.steps_per_increase
        factor = tf.where(halve, self.factor / 2, tf.where(double, self.factor * 2, self.factor))
        changed = halve | double
        self.factor.assign(tf.clip_by_value(factor, self.smallest, self.largest))
        self.good_steps.assign(tf.where(changed, 0, good_steps))
        self.steps.assign(tf.where(changed, 0, steps))
        self.overflows.assign(tf.where(changed, 0, overflows))


def make_loss_scale(cfg):
    """Returns the loss scale that OptimizerParams `cfg` describe."""
    if cfg.loss_scaling_factor != "dynamic":
        return FixedLossScale(cfg.loss_scaling_factor)
    return DynamicLossScale(
        cfg.initial_loss_scale,
        cfg.min_loss_scale,
        cfg.max_loss_scale,
        cfg.steps_per_increase,
        cfg.overflow_tolerance,
    )
