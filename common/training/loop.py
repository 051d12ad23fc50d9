# SPDX-License-Identifier: Apache-2.0
"""The training loop: next batch, step, then log, save and evaluate, each on its stated interval."""

import functools
import math
import signal
import threading

import tensorflow as tf

from common.BaseModel import TRAIN
from common.errors import RunError
from common.training.progress import Progress


class StopRequest:
    """Turns SIGINT and SIGTERM into a flag that the loop polls between steps. A context manager.

    A second signal acts at once, as Python's default handlers would.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self):
        self.signal_number = None

    def __enter__(self):
        self.previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                self.previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exception):
        self._restore()

    def __bool__(self):
        return self.signal_number is not None

    def _on_signal(self, number, frame):
        del frame
        self.signal_number = number
        self._restore()

    def _restore(self):
        for number, handler in self.previous.items():
            signal.signal(number, handler)


def one_program_per_shape(step):
    """Compiles a step into one TensorFlow program for every shape of its features.

    A single tf.function would do so too, but warn at every new shape, and could settle on unknown
    lengths, which cannot be compiled ahead.
    """
    programs = {}

    @functools.wraps(step)
    def run(features, *rest):
        shape = tuple(features["input_ids"].shape)
        if shape not in programs:
            function = tf.function(step, autograph=False)
            programs[shape] = function.get_concrete_function(features, *rest)
        return programs[shape](features, *rest)

    return run


def make_train_step(model_fn, params, model, optimizer):
    """Returns train_step(features, labels) -> figures.

    Args:
        model_fn: as in `model.py`.
        params: complete Params.
        model: BaseModel.
        optimizer: AdamW over the model's weights, by neutral name.
    """

    @one_program_per_shape
    def train_step(features, labels):
        """One optimizer update. labels: <int32>[B]. Returns {name: <float32>[]} to log."""
        model.clock.step.assign(tf.cast(optimizer.step, tf.int32))
        with tf.GradientTape() as tape:
            spec = model_fn(features, labels, TRAIN, params, model)
            scaled_loss = optimizer.scale_loss(spec.loss)
        variables = [variable.value for variable in spec.trainable_variables]
        gradients = tape.gradient(scaled_loss, variables)
        return {"train/cost_cls": spec.loss, **optimizer.apply(gradients)}

    return train_step


def train(train_step, batches, first_step, last_step, run, reports, save, evaluate=None):
    """Trains from first_step to last_step and saves at the end.

    Args:
        train_step: of make_train_step.
        batches: iterable of (features, labels), one for each step.
        first_step, last_step: int. Global steps done before and after.
        run: RunParams: the intervals.
        reports: Reports.
        save: called with the global step.
        evaluate: called with the global step after each save, or None.
    Returns:
        (global step reached, signal number or None).
    Raises:
        RunError: the loss became infinite or not a number; found before anything is saved.
    """
    losses, saved = [], None
    step = first_step
    with (
        StopRequest() as stop,
        Progress(last_step, initial=first_step, log_every=run.log_steps) as progress,
    ):
        for features, labels in batches:
            figures = train_step(features, labels)
            step += 1
            losses.append(figures["train/cost_cls"])
            is_last = step == last_step or bool(stop)
            shown = {"loss": figures["train/cost_cls"], "learning_rate": figures["train/lr"]}
            progress.update(**shown)

            if step % run.save_summary_steps == 0 or is_last:
                _check_finite(losses, step)
                # The mean since the last line: one batch of a small loss says little.
                values = {name: float(value) for name, value in figures.items()}
                values["train/cost_cls"] = sum(map(float, losses)) / len(losses)
                rate = progress.rate()
                if rate is not None:
                    values["train/examples_per_second"] = rate * labels.shape[0]
                reports.scalars("train", step, values)
                losses = []
            if step % run.save_checkpoints_steps == 0 or is_last:
                _check_finite(losses, step)
                save(step)
                saved = step
                if evaluate is not None and not stop:
                    evaluate(step)
            if is_last:
                break
    assert saved == step or step == first_step  # every way out of the loop has saved
    return step, stop.signal_number


def _check_finite(losses, step):
    """losses: those of the steps up to `step`, the newest last."""
    for n, loss in enumerate(losses, start=step - len(losses) + 1):
        if not math.isfinite(float(loss)):
            raise RunError(
                f"the loss of step {n} is {float(loss)}; what was saved before is whole. A lower "
                "learning rate, a longer warm-up or max_gradient_norm helps; with mixed_float16, "
                "loss_scaling_factor: dynamic"
            )
