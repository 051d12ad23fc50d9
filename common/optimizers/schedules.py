# SPDX-License-Identifier: Apache-2.0
"""Learning-rate schedules: `optimizer.learning_rate` of the params as a function of the step.

The formulas are those of tf.compat.v1.train, which the original called; the step is the number of
updates before this one, from 0.
"""

import math

import tensorflow as tf


def _constant(cfg, step):
    del step
    return tf.constant(cfg.learning_rate, tf.float32)


def _piecewise_constant(cfg, step):
    """values[i] up to and with step boundaries[i], as tf.train.piecewise_constant has it."""
    passed = tf.reduce_sum(tf.cast(step > tf.constant(cfg.boundaries, tf.float32), tf.int32))
    return tf.gather(tf.constant(cfg.values, tf.float32), passed)


def _exponential(cfg, step):
    """initial * decay_rate^(step / decay_steps), as tf.train.exponential_decay has it."""
    periods = step / cfg.decay_steps
    periods = tf.floor(periods) if cfg.staircase else periods
    return cfg.initial_learning_rate * tf.constant(cfg.decay_rate, tf.float32) ** periods


def _inverse_exponential_time(cfg, step):
    """initial / (1 + decay_rate * step^step_exponent / decay_steps), of the original's R0.9."""
    # Before its turn in a list a schedule sees steps below 0, of which not every power exists.
    periods = tf.maximum(step, 0.0) ** cfg.step_exponent / cfg.decay_steps
    periods = tf.floor(periods) if cfg.staircase else periods
    return cfg.initial_learning_rate / (1.0 + cfg.decay_rate * periods)


def _cosine(cfg, step):
    """initial * ((1 - alpha) * (1 + cos(pi * step / decay_steps)) / 2 + alpha), then alpha's."""
    share_done = tf.clip_by_value(step / cfg.decay_steps, 0.0, 1.0)
    wave = 0.5 * (1.0 + tf.cos(math.pi * share_done))
    return cfg.initial_learning_rate * ((1.0 - cfg.alpha) * wave + cfg.alpha)


def _polynomial(cfg, step):
    """(initial - end) * (1 - step / steps)^power + end, as tf.train.polynomial_decay has it."""
    steps = tf.constant(cfg.steps, tf.float32)
    if cfg.cycle:
        # The way grows to the next multiple of `steps` that lies ahead; at step 0 it is `steps`.
        steps = steps * tf.maximum(1.0, tf.math.ceil(step / steps))
    share_left = 1.0 - tf.clip_by_value(step, 0.0, steps) / steps
    span = cfg.initial_learning_rate - cfg.end_learning_rate
    return span * share_left ** getattr(cfg, "power", 1.0) + cfg.end_learning_rate


SCHEDULES = {
    "Constant": _constant,
    "PiecewiseConstant": _piecewise_constant,
    "Exponential": _exponential,
    "InverseExponentialTimeDecay": _inverse_exponential_time,
    "Linear": _polynomial,
    "Polynomial": _polynomial,
    "Cosine": _cosine,
}


def make_schedule(learning_rate, disable_lr_steps_reset=False):
    """Returns a function from the global step, <int>[], to the learning rate, <float32>[].

    Args:
        learning_rate: `OptimizerParams.learning_rate`: a number, one schedule, or a tuple of
            schedules in which each but the last holds for its `length`.
        disable_lr_steps_reset: bool. False: each schedule of a tuple sees the steps since its own
            start. True: each sees the global step, so that they overlap (as Google's BERT warms up
            while it already decays).
    """
    if isinstance(learning_rate, float | int):
        return lambda step: tf.constant(learning_rate, tf.float32)
    stages = learning_rate if isinstance(learning_rate, tuple | list) else (learning_rate,)
    starts = [sum(stage.length for stage in stages[:n]) for n in range(len(stages))]

    def rate(step):
        step = tf.cast(step, tf.float32)
        values = [
            SCHEDULES[stage.scheduler](stage, step if disable_lr_steps_reset else step - start)
            for stage, start in zip(stages, starts, strict=True)
        ]
        # From the last stage back to the first: each holds until its successor starts.
        value = values.pop()
        for earlier, end in zip(reversed(values), reversed(starts), strict=False):
            value = tf.where(step < end, earlier, value)
        return value

    return rate
