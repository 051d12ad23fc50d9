# SPDX-License-Identifier: Apache-2.0
"""The training loop: what happens at which step, how it stops, and that a tiny network learns."""

import os
import signal
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from common.errors import RunError
from common.optimizers.adamw import AdamW
from common.params import OptimizerParams, RunParams
from common.training.loop import StopRequest, make_train_step, one_program_per_shape, train
from model import make_model, model_fn
from tests.reference.tiny_bert import tiny_params
from tests.reference.toy_rows import toy_tokens, toy_train_batches

BATCH_SIZE = 3


class Recorder:
    """In the place of Reports, save and evaluate: notes what was asked for, in order."""

    def __init__(self):
        self.events = []
        self.values = {}

    def scalars(self, split, step, values):
        assert split == "train"
        self.events.append(("report", step))
        self.values[step] = values

    def save(self, step):
        self.events.append(("save", step))

    def evaluate(self, step):
        self.events.append(("evaluate", step))

    def steps(self, kind):
        return [step for what, step in self.events if what == kind]


def run_loop(
    last_step, first_step=0, losses=None, during=None, evaluate=True, save_every=4, report_every=3
):
    """Runs the loop over a step that only counts; its loss is the number of the step.

    losses: {step: loss} in place of that. during: {step: function called within that step}.
    Returns what `train` returns, and the Recorder.
    """
    recorder, step = Recorder(), [first_step]

    def train_step(features, labels):
        assert features["input_ids"].shape == (*labels.shape, 2)
        step[0] += 1
        (during or {}).get(step[0], lambda: None)()
        loss = (losses or {}).get(step[0], float(step[0]))
        return {"train/cost_cls": tf.constant(loss), "train/lr": tf.constant(0.5)}

    batch = {"input_ids": np.zeros((BATCH_SIZE, 2), np.int32)}, np.zeros(BATCH_SIZE, np.int32)
    run = RunParams(save_checkpoints_steps=save_every, save_summary_steps=report_every)
    result = None
    try:
        result = train(
            train_step,
            [batch] * (last_step - first_step),
            first_step,
            last_step,
            run,
            recorder,
            recorder.save,
            recorder.evaluate if evaluate else None,
        )
    except RunError as error:
        recorder.error = error
    return result, recorder


# ---- Intervals -----------------------------------------------------------------------------------


def test_logging_saving_and_evaluating_come_on_their_intervals_and_at_the_last_step():
    result, recorder = run_loop(last_step=10)
    assert result == (10, None)
    assert recorder.events == [
        ("report", 3),
        ("save", 4),
        ("evaluate", 4),
        ("report", 6),
        ("save", 8),
        ("evaluate", 8),
        ("report", 9),
        ("report", 10),
        ("save", 10),
        ("evaluate", 10),
    ]


def test_a_last_step_on_the_interval_saves_once():
    assert run_loop(last_step=8)[1].steps("save") == [4, 8]


def test_intervals_count_global_steps_after_a_resume():
    result, recorder = run_loop(first_step=7, last_step=13)
    assert result == (13, None)
    assert recorder.steps("save") == [8, 12, 13] and recorder.steps("report") == [9, 12, 13]


def test_nothing_is_evaluated_unless_asked_for():
    assert run_loop(last_step=9, evaluate=False)[1].steps("evaluate") == []


def test_the_loss_reported_is_the_mean_since_the_last_report():
    _, recorder = run_loop(last_step=7)
    losses = {step: values["train/cost_cls"] for step, values in recorder.values.items()}
    assert losses == {3: 2.0, 6: 5.0, 7: 7.0}  # (1 + 2 + 3) / 3, (4 + 5 + 6) / 3, 7
    assert recorder.values[6]["train/lr"] == 0.5
    assert recorder.values[6]["train/examples_per_second"] > 0


def test_progress_is_shown_to_the_last_step(capsys):
    run_loop(last_step=7)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("train step 7/7 · loss 7.0000 · lr 0.5")


# ---- A loss that is not finite -------------------------------------------------------------------


@pytest.mark.parametrize("loss", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("step", [1, 5, 6, 7, 8, 10])
def test_a_loss_that_is_not_finite_ends_the_run_before_anything_is_saved(loss, step):
    result, recorder = run_loop(last_step=10, losses={step: loss})
    assert result is None
    assert f"the loss of step {step} is {loss}" in str(recorder.error)
    assert recorder.steps("save") == [saved for saved in (4, 8) if saved < step]
    assert all(np.isfinite(v["train/cost_cls"]) for v in recorder.values.values())


# ---- Signals -------------------------------------------------------------------------------------


def send(number):
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_the_step_and_saves(number):
    handlers = [signal.getsignal(n) for n in StopRequest.SIGNALS]
    result, recorder = run_loop(last_step=10, during={6: send(number)})
    assert result == (6, number)
    # Saved at once, and not evaluated: whoever sent the signal waits.
    assert recorder.events[-2:] == [("report", 6), ("save", 6)]
    assert [signal.getsignal(n) for n in StopRequest.SIGNALS] == handlers


def test_a_second_signal_acts_at_once():
    class Stopped(Exception):
        pass

    def stop(number, frame):
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with pytest.raises(Stopped):
            run_loop(
                last_step=9,
                during={2: lambda: [send(signal.SIGTERM)() for _ in range(2)]},
            )
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_loop_runs_outside_the_main_thread_where_signals_cannot_be_caught():
    results = []
    thread = threading.Thread(target=lambda: results.append(run_loop(last_step=5)[0]))
    thread.start()
    thread.join()
    assert results == [(5, None)]


# ---- One training step ---------------------------------------------------------------------------


def test_a_step_is_compiled_once_for_every_shape():
    traced = []

    @one_program_per_shape
    def step(features, factor):
        traced.append(features["input_ids"].shape)
        return tf.reduce_sum(features["input_ids"]) * factor

    for length in (2, 3, 2, 3, 2):
        features = {"input_ids": tf.fill((5, length), 1)}
        assert int(step(features, tf.constant(7))) == 5 * length * 7
    assert traced == [(5, 2), (5, 3)]


def tiny_training(**optimizer):
    """The tiny network with dropout, its optimizer and its training step."""
    keras.utils.set_random_seed(1)
    rates = dict.fromkeys(("dropout_rate", "attention_dropout_rate", "cls_dropout_rate"), 0.1)
    params = tiny_params(num_classes=2, num_hidden_layers=1, **rates)
    model = make_model(params)
    weights = {name: w.value for name, w in model.weights_by_name().items()}
    given = {"learning_rate": 3e-3, "epsilon": 1e-6, "use_bias_correction": True}
    adamw = AdamW(weights, OptimizerParams.model_validate(given | optimizer))
    return model, adamw, make_train_step(model_fn, params, model, adamw)


def test_the_loss_falls_on_a_problem_that_can_be_learnt():
    _, optimizer, train_step = tiny_training()
    tokens = toy_tokens(40)
    losses = []
    for features, labels in toy_train_batches(tokens, 8, 0, 150):
        losses.append(float(train_step(features, labels)["train/cost_cls"]))
    assert int(optimizer.step) == 150
    assert losses[0] == pytest.approx(np.log(2), abs=0.05)  # guessing between two classes
    assert np.mean(losses[-10:]) < 0.3


def test_a_step_reports_what_the_original_reports_and_moves_every_weight():
    model, _, train_step = tiny_training(learning_rate=0.25, max_gradient_norm=1.0)
    before = {name: w.numpy() for name, w in model.weights_by_name().items()}
    for features, labels in toy_train_batches(toy_tokens(40), 8, 0, 2):
        figures = train_step(features, labels)
    assert set(figures) == {
        "train/cost_cls",
        "train/lr",
        "train/unclipped_grad_norm",
        "train/loss_scale",
    }
    assert float(figures["train/lr"]) == 0.25 and float(figures["train/loss_scale"]) == 1
    assert int(model.clock.step) == 1  # dropout is drawn anew in each step: 0, then 1
    for name, weight in model.weights_by_name().items():
        assert np.abs(weight.numpy() - before[name]).max() > 0, name
