# SPDX-License-Identifier: Apache-2.0
"""The training loop: what happens at which step, and how it stops."""

import os
import signal
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from common.errors import RunError
from common.params import RunParams
from common.reports.listener import Listener, Listeners
from common.reports.progress import Console
from common.signals import SAVING, Control, listening, poll
from common.training.loop import train

BATCH_SIZE = 3


class Recorder(Listener):
    """A listener that is save and evaluate, too: notes what was asked for, in order."""

    def __init__(self):
        self.events = []
        self.values = {}

    def on_figures(self, split, step, values, histograms=None):
        assert split == "train" and histograms is None
        self.events.append(("report", step))
        self.values[step] = values

    def save(self, step):
        self.events.append(("save", step))

    def evaluate(self, step):
        self.events.append(("evaluate", step))
        return self.evaluation(step)

    evaluation = staticmethod(lambda step: False)  # whether to end here

    def steps(self, kind):
        return [step for what, step in self.events if what == kind]


class Clock:
    """In the place of `time.monotonic`: moves when it is told to."""

    def __init__(self):
        self.now = 0.0

    def passing(self, seconds):
        """Returns a function whose call takes so many seconds."""

        def wait():
            self.now += seconds

        return wait


def run_loop(
    last_step,
    first_step=0,
    losses=None,
    during=None,
    evaluate=True,
    save_every=4,
    report_every=3,
    eval_every=None,
    norms=None,
    recent=None,
    check_gradients=True,
    before_batch=None,
    control=None,
    clock=time.monotonic,
):
    """Runs the loop over a step that only counts; its loss is the number of the step.

    losses, norms: {step: value} in place of that, and of a norm of 1. during: {step: function
    called within that step}. evaluate: bool, or what to call with the step. recent: losses since
    the last report. before_batch: called each time the loop asks for a batch. control: Control, or
    None for the one of signals.
    Returns what `train` returns without the speed, and the Recorder.
    """
    recorder, step = Recorder(), [first_step]
    if callable(evaluate):
        recorder.evaluation = evaluate

    def train_step(features, targets):
        assert features["input_ids"].shape == (*targets["labels"].shape, 2)
        step[0] += 1
        (during or {}).get(step[0], lambda: None)()
        loss = (losses or {}).get(step[0], float(step[0]))
        norm = (norms or {}).get(step[0], 1.0)
        return {
            "train/cost_cls": tf.constant(loss),
            "train/lr": tf.constant(0.5),
            "train/unclipped_grad_norm": tf.constant(norm),
        }

    features = {"input_ids": np.zeros((BATCH_SIZE, 2), np.int32)}
    batch = features, {"labels": np.zeros(BATCH_SIZE, np.int32)}
    run = RunParams(
        save_checkpoints_steps=save_every,
        save_summary_steps=report_every,
        eval_every_steps=eval_every,
    )
    result = None
    try:
        with listening(control) as control:
            reached = train(
                train_step,
                ((before_batch or bool)() or batch for _ in range(last_step - first_step)),
                first_step,
                last_step,
                run,
                Listeners([recorder, Console()]),
                control,
                recorder.save,
                recorder.evaluate if evaluate else None,
                recent,
                check_gradients,
                clock=clock,
            )
        result = reached.step, reached.stopped_by
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


def test_evaluations_come_on_their_own_interval():
    _, recorder = run_loop(last_step=10, eval_every=3)
    assert recorder.steps("evaluate") == [3, 6, 9, 10] and recorder.steps("save") == [4, 8, 10]
    _, recorder = run_loop(last_step=9, eval_every=3)
    assert recorder.steps("evaluate") == [3, 6, 9]
    assert recorder.events[-2:] == [("save", 9), ("evaluate", 9)]


def test_an_evaluation_can_end_the_run_which_is_saved():
    result, recorder = run_loop(last_step=10, eval_every=3, evaluate=lambda step: step == 6)
    assert result == (6, None)
    assert recorder.events[-2:] == [("evaluate", 6), ("save", 6)]
    result, recorder = run_loop(last_step=10, evaluate=lambda step: step == 8)
    assert result == (8, None) and recorder.events[-2:] == [("save", 8), ("evaluate", 8)]


def test_the_loss_reported_includes_those_before_a_resume():
    recent = [30.0, 40.0]
    _, recorder = run_loop(first_step=5, last_step=8, report_every=6, recent=recent)
    losses = {step: values["train/cost_cls"] for step, values in recorder.values.items()}
    assert losses == {6: (30 + 40 + 6) / 3, 8: (7 + 8) / 2}
    assert recent == []


def test_the_losses_since_the_last_report_are_kept_for_a_save():
    recent = []
    run_loop(last_step=10, report_every=6, recent=recent, during={8: send(signal.SIGTERM)})
    assert recent == [7.0, 8.0]


def test_the_loss_reported_is_the_mean_since_the_last_report():
    _, recorder = run_loop(last_step=7)
    losses = {step: values["train/cost_cls"] for step, values in recorder.values.items()}
    assert losses == {3: 2.0, 6: 5.0, 7: 7.0}  # (1 + 2 + 3) / 3, (4 + 5 + 6) / 3, 7
    assert recorder.values[6]["train/lr"] == 0.5
    assert recorder.values[6]["train/examples_per_second"] > 0


def test_the_share_of_time_that_input_was_waited_for_is_reported_and_shown(capsys):
    clock = Clock()
    steps = dict.fromkeys(range(1, 13), clock.passing(3.0))
    values = {"last_step": 12, "report_every": 12, "during": steps, "clock": lambda: clock.now}
    _, recorder = run_loop(**values, before_batch=clock.passing(1.0))
    assert recorder.values[12]["train/input_wait"] == 0.25
    assert " · input wait 25.0%" in capsys.readouterr().err.splitlines()[-1]
    _, recorder = run_loop(**values)
    assert recorder.values[12]["train/input_wait"] == 0.0  # batches are there at once


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


@pytest.mark.parametrize("norm", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_ends_the_run_unless_such_updates_are_skipped(norm):
    result, recorder = run_loop(last_step=10, norms={5: norm})
    assert result is None and f"norm of the gradients of step 5 is {norm}" in str(recorder.error)
    assert recorder.steps("save") == [4]
    result, _ = run_loop(last_step=10, norms={5: norm}, check_gradients=False)
    assert result == (10, None)


# ---- Signals -------------------------------------------------------------------------------------

HANDLED = (signal.SIGINT, signal.SIGTERM, SAVING)


def send(number):
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_the_step_and_saves(number):
    handlers = [signal.getsignal(n) for n in HANDLED]
    result, recorder = run_loop(last_step=10, during={5: send(number)})
    assert result == (5, number)
    # Saved at once, and neither evaluated nor reported: whoever sent the signal waits, and the
    # figures of a resumed run are those of one that was not stopped.
    assert recorder.events == [("report", 3), ("save", 4), ("evaluate", 4), ("save", 5)]
    assert [signal.getsignal(n) for n in HANDLED] == handlers


def test_a_signal_at_the_last_step_leaves_its_evaluation_to_the_next_run():
    result, recorder = run_loop(last_step=8, during={8: send(signal.SIGTERM)})
    assert result == (8, signal.SIGTERM)
    assert recorder.steps("save") == [4, 8] and recorder.steps("evaluate") == [4]


def test_a_signal_while_a_step_is_compiled_ends_the_run_before_the_step():
    def compile_and_poll():
        send(signal.SIGTERM)()
        poll()

    result, recorder = run_loop(last_step=9, during={6: compile_and_poll})
    assert result == (5, signal.SIGTERM) and recorder.steps("save") == [4, 5]
    result, recorder = run_loop(last_step=9, during={1: compile_and_poll})
    assert result == (0, signal.SIGTERM) and recorder.events == []


@pytest.mark.parametrize(("eval_every", "saved"), [(3, [3]), (4, [4])])
def test_a_signal_in_an_evaluation_ends_it_with_what_is_trained_saved(eval_every, saved):
    def evaluate(step):
        send(signal.SIGTERM)()
        poll()

    result, recorder = run_loop(last_step=9, eval_every=eval_every, evaluate=evaluate)
    assert result == (eval_every, signal.SIGTERM) and recorder.steps("save") == saved


def test_a_request_to_save_saves_once_and_goes_on():
    result, recorder = run_loop(last_step=10, during={2: send(SAVING), 4: send(SAVING)})
    assert result == (10, None)
    assert recorder.steps("save") == [2, 4, 8, 10] and recorder.steps("evaluate") == [4, 8, 10]


def test_outside_the_main_thread_a_control_stops_the_loop():
    """Python cannot catch signals there."""
    results, control = [], Control()

    def run():
        results.append(run_loop(last_step=5)[0])
        during = {3: control.request_stop}
        results.append(run_loop(last_step=5, during=during, control=control)[0])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert results == [(5, None), (3, signal.SIGTERM)]
