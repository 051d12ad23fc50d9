# SPDX-License-Identifier: Apache-2.0
"""Learning-rate schedules: `optimizer.learning_rate` of the params as a function of the step."""

import tensorflow as tf


def _constant(cfg, step):
    del step
    return tf.constant(cfg.learning_rate, tf.float32)


def _polynomial(cfg, step):
    """(initial - end) * (1 - step / steps)^power + end, as tf.train.polynomial_decay has it."""
    steps = tf.constant(cfg.steps, tf.float32)
    if getattr(cfg, "cycle", False):
        # The way grows to the next multiple of `steps` that lies ahead; at step 0 it is `steps`.
        steps = steps * tf.maximum(1.0, tf.math.ceil(step / steps))
    share_left = 1.0 - tf.clip_by_value(step, 0.0, steps) / steps
    span = cfg.initial_learning_rate - cfg.end_learning_rate
    return span * share_left ** getattr(cfg, "power", 1.0) + cfg.end_learning_rate


SCHEDULES = {"Constant": _constant, "Linear": _polynomial, "Polynomial": _polynomial}


def make_schedule(learning_rate, disable_lr_steps_reset=False):
    """Returns a function from the global step, <int>[], to the learning rate, <float32>[].

    Args:
        learning_rate: `OptimizerParams.learning_rate`: a number, one schedule, or a tuple of
            schedules in which each but the last holds for its `steps`.
        disable_lr_steps_reset: bool. False: each schedule of a tuple sees the steps since its own
            start. True: each sees the global step, so that they overlap (as Google's BERT warms up
            while it already decays).
    """
    if isinstance(learning_rate, float | int):
        return lambda step: tf.constant(learning_rate, tf.float32)
    stages = learning_rate if isinstance(learning_rate, tuple | list) else (learning_rate,)
    starts = [sum(stage.steps for stage in stages[:n]) for n in range(len(stages))]

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
