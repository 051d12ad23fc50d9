# SPDX-License-Identifier: Apache-2.0
"""The step around the rule of every optimizer: unscale, clip, decay, average, count, state.

An optimizer is a subclass that names its slots and computes the update of a weight from them and
the gradient, in a file of its own; `factory.py` has the table.
"""

import contextlib
import functools
from typing import ClassVar

import keras
import tensorflow as tf

from common.optimizers.loss_scale import make_loss_scale
from common.optimizers.schedules import is_decayed, layer_rate_factor, make_schedule
from common.optimizers.update import TableGradient, gradient_of, half_square, update_weight

WORD_TABLE = "embeddings/word_embeddings"


class Optimizer:
    """One step: clip all gradients together, update every weight by the rule, advance `step`.

        g        = gradient / loss scale, clipped
        update   = rule(g, slots), with the learning rate r of the weight
        w       -= update + r * weight_decay_rate * w    decay unless the name is excluded
        average += (1 - d) * (w - average)               d = min(moving_average_decay,
                                                                 (1 + t) / (10 + t)), step t from 1

    With `lazy_word_embeddings`, rows of the word table with gradient 0 keep their values and slots.

    Decay is decoupled from the gradient (Loshchilov & Hutter 2019) under every rule. The average is
    that of tf.train.ExponentialMovingAverage with `num_updates`. It starts at the weights at the
    construction of the optimizer, so they have to be loaded before.

    Args:
        weights: {neutral name: tf.Variable <float32>} to train.
        num_layers: int, of the encoder, trained or not; for `layer_wise_lr_decay`.
    Attributes:
        step: <int64> variable []: number of updates so far, the global step.
        rate: <float32> variable []: the learning rate that `set_rate` sets.
        slots: {slot: {neutral name: variable}}.
        averages: {neutral name: variable}; empty without `moving_average_decay`.
        state: {name: variable}: what a checkpoint saves besides the weights.
    """

    name = None  # prefix of its slots in `state`
    first_values: ClassVar = {}  # slot -> initial value of its elements

    def __init__(self, weights, cfg, num_layers=0):
        self.cfg = cfg
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.learning_rate = make_schedule(cfg, keras.ops)
        self.rate = tf.Variable(0.0, trainable=False)
        self.loss_scale = make_loss_scale(cfg)
        self.weights = dict(weights)
        self.slots = {
            slot: {
                name: tf.Variable(tf.fill(w.shape, tf.constant(first, w.dtype)), trainable=False)
                for name, w in weights.items()
            }
            for slot, first in self.first_values.items()
        }
        self.averages = {}
        if cfg.moving_average_decay is not None:
            self.averages = {name: tf.Variable(w, trainable=False) for name, w in weights.items()}
        self.decayed = {name for name in weights if is_decayed(name, cfg)}
        self.rate_factors = {
            name: layer_rate_factor(name, cfg.layer_wise_lr_decay, num_layers) for name in weights
        }
        # Of `first_nonfinite`: the step and the index in `weights`; -1, -1: none.
        self._nonfinite = tf.Variable([-1, -1], dtype=tf.int64, trainable=False)
        self._was_finite = tf.Variable(True, trainable=False)
        self._last_scale = tf.Variable(1.0, trainable=False)  # of gradients; never read

    @staticmethod
    def rule(gradient, slots, numbers):
        """The update of one weight. Traced once for each shape of weight.

        Args:
            gradient: <float32>[...], unscaled and clipped.
            slots: {slot: <float32>[...]} before this step.
            numbers: {name: <float32>[]}: "rate", the weight's learning rate, and those of
                `rule_numbers`.
        Returns:
            what to subtract from the weight, <float32>[...]; {slot: its new value, which may depend
            on its old value and on those of earlier slots}.
        """
        raise NotImplementedError

    def rule_numbers(self):
        """Returns {name: float or <float32>[]} that `rule` needs besides the rate."""
        return {}

    def rate_ratio(self, name, gradient, names, numbers):
        """Returns the factor of one weight's own on its rate and decay, <float32>[]; None: none.

        names, numbers: as of `update.update_weight`; gradient: of `update.gradient_of`.
        """
        return None

    @property
    def state(self):
        slots = {
            f"{self.name}/{slot}/{name}": variable
            for slot, variables in self.slots.items()
            for name, variable in variables.items()
        }
        # The weights of a checkpoint are the averages; training continues from the raw weights.
        raw = {f"raw/{name}": self.weights[name] for name in self.averages}
        return {"global_step": self.step, **slots, **raw, **self.loss_scale.state}

    def slots_of(self, name):
        """Returns {slot: variable} of the weight of this neutral name."""
        return {slot: variables[name] for slot, variables in self.slots.items()}

    def scale_loss(self, loss):
        """Returns the loss whose gradients `apply` takes. loss: <float>[]."""
        return loss * tf.cast(self.loss_scale.factor, loss.dtype)

    def set_rate(self):
        """Sets `rate` to the schedule's value at `step`.

        A program that reads `rate` does not depend on the schedule.
        """
        self.rate.assign(self.learning_rate(tf.cast(self.step, tf.float32)))

    def apply(self, gradients, rate=None):
        """Makes one update and advances `step`.

        Args:
            gradients: tensors or IndexedSlices of the scaled loss, in the order of `weights`.
            rate: <float32>[], the learning rate; None: the schedule's value at `step`.
        Returns:
            {"train/lr", "train/unclipped_grad_norm", "train/loss_scale"}: <float32>[], as used;
            {} without `log_summaries`.
        """
        cfg = self.cfg
        gradients = list(map(gradient_of, self.weights.values(), gradients))
        squares = tf.stack([half_square(gradient) for gradient in gradients])
        norm = tf.sqrt(2.0 * tf.reduce_sum(squares)) / self.loss_scale.factor
        is_finite = tf.math.is_finite(norm)
        scale = 1.0 / self.loss_scale.factor
        if cfg.max_gradient_norm is not None:
            scale *= cfg.max_gradient_norm / tf.maximum(norm, cfg.max_gradient_norm)
        rate = self.learning_rate(tf.cast(self.step, tf.float32)) if rate is None else rate
        numbers = {"scale": scale, **self.rule_numbers()}
        if cfg.max_gradient_value is not None:
            numbers["max_value"] = cfg.max_gradient_value
        if self.averages:
            t = tf.cast(self.step + 1, tf.float32)
            # 1 - (1 + t) / (10 + t) = 9 / (10 + t)
            numbers["average_share"] = tf.maximum(1.0 - cfg.moving_average_decay, 9.0 / (10.0 + t))
        names = ("rate", "decay", *numbers)

        @functools.cache
        def numbers_at(factor, has_decay):
            decay = rate * factor * cfg.weight_decay_rate if has_decay else 0.0
            return tf.stack([rate * factor, decay, *numbers.values()])

        def update_one(name, gradient):
            # One operation for each weight, so that it can wait alone: see `update_all`.
            own = tf.identity(numbers_at(self.rate_factors[name], name in self.decayed))
            ratio = self.rate_ratio(name, gradient, names, own)
            if ratio is not None:
                own = tf.concat([own[:2] * ratio, own[2:]], axis=0)  # rate and decay
            update_weight(
                self.rule,
                self.weights[name],
                self.slots_of(name),
                self.averages.get(name),
                gradient,
                names,
                own,
                is_lazy=cfg.lazy_word_embeddings and name == WORD_TABLE,
            )

        def update_all():
            pairs = list(zip(self.weights, gradients, strict=True))
            tables = [pair for pair in pairs if isinstance(pair[1], TableGradient)]
            for pair in tables:
                update_one(*pair)
            # The update of a table takes as long as all others together. The others depend on the
            # scale through another operation, so that they start after the table's update and the
            # big table does not run last on one core.
            with tf.control_dependencies([self._last_scale.assign(scale)] if tables else []):
                for name, gradient in pairs:
                    if not isinstance(gradient, TableGradient):
                        update_one(name, gradient)

        # Only a dynamic scale may skip an update; otherwise a non-finite number must be visible.
        # A choice element by element, within the loop, doubles the time of every update.
        if self.loss_scale.skips_overflow:
            tf.cond(is_finite, update_all, lambda: None)
        else:
            update_all()
        report = {}
        if cfg.log_summaries:
            report = {
                "train/lr": rate,
                "train/unclipped_grad_norm": norm,
                "train/loss_scale": tf.identity(self.loss_scale.factor),
            }
        self._record_nonfinite(squares)
        self.loss_scale.update(is_finite)
        self.step.assign_add(1)
        return report

    def _record_nonfinite(self, squares):
        """Records where gradients became non-finite. squares: <float32>[weights]."""
        is_bad = ~tf.math.is_finite(squares)
        # The last weight is the nearest to the loss: the backward pass reaches it first.
        place = tf.reduce_max(tf.where(is_bad, tf.range(len(self.weights)), -1))
        place_now = tf.stack([self.step + 1, tf.cast(place, tf.int64)])
        is_finite = place < 0
        became_nonfinite = self._was_finite & ~is_finite
        self._nonfinite.assign(tf.where(became_nonfinite, place_now, self._nonfinite))
        self._was_finite.assign(is_finite)

    def first_nonfinite(self):
        """Returns where the gradients first became non-finite: (global step, from 1; neutral name
        of the weight nearest to the loss), or None.

        In a run that continues (a dynamic loss scale skips such a step), where they last did.
        """
        step, place = self._nonfinite.numpy()
        return None if step < 0 else (int(step), list(self.weights)[place])

    @contextlib.contextmanager
    def averaged_weights(self):
        """Context manager: the model has the averages as weights, if there are any."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self):
        for name, average in self.averages.items():
            value = tf.identity(self.weights[name])
            self.weights[name].assign(average)
            average.assign(value)
