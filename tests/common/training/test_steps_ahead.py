# SPDX-License-Identifier: Apache-2.0
"""Steps handed over ahead of time: what is computed when, and what is whole when it ends."""

import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from common.params import RunParams
from common.reports.listener import Listener
from common.signals import Control
from common.training.loop import train
from common.training.steps_ahead import StepsAhead

BATCH = {"input_ids": np.zeros((3, 2), np.int32)}, {"labels": np.zeros(3, np.int32)}


class GatedSteps:
    """Training steps that count themselves in a variable, each only when it is let through.

    fails_at: the step within which TensorFlow finds a fault.
    """

    def __init__(self, num_open=0, fails_at=None):
        self.done = tf.Variable(0)
        self.gate = threading.Semaphore(num_open)
        self.fails_at = tf.constant(fails_at or -1)
        self.num_called = 0

    @tf.function(autograph=False)
    def compute(self):
        passed = tf.py_function(lambda: self.gate.acquire(timeout=60), [], tf.bool)
        with tf.control_dependencies([passed]):
            step = self.done.assign_add(1)
            check = tf.debugging.assert_none_equal(step, self.fails_at, message="a fault")
        with tf.control_dependencies([check]):
            return tf.cast(tf.identity(step), tf.float32)

    def __call__(self, features, targets):
        self.num_called += 1
        return {"train/cost_cls": self.compute()}


def test_a_step_is_handed_over_while_the_one_before_is_computed():
    steps, seen = GatedSteps(num_open=1), []

    class Loss:
        """Of a step that is let through when its loss is read, and not before."""

        def __init__(self, number, tensor):
            self.number, self.tensor = number, tensor

        def __float__(self):
            seen.append((self.number, steps.num_called, steps.done.numpy()))
            if self.number > 1:
                steps.gate.release()
            return float(self.tensor)

    def train_step(features, targets):
        figures = steps(features, targets)
        return {name: Loss(steps.num_called, value) for name, value in figures.items()}

    with StepsAhead(train_step) as ahead:
        for _ in range(4):
            figures = ahead(*BATCH)
        # A call hands its step over, and then waits for the one before; the first is compiled.
        assert seen == [(1, 2, 1), (2, 3, 1), (3, 4, 2)]
        assert float(figures["train/cost_cls"]) == 4.0
    assert steps.done.numpy() == 4


def test_the_first_step_of_a_shape_is_computed_when_its_call_ends():
    steps = GatedSteps(num_open=1)
    with StepsAhead(steps) as ahead:
        ahead(*BATCH)
        assert steps.done.numpy() == 1
        ahead(*BATCH)
        threading.Timer(0.3, lambda: steps.gate.release(2)).start()
        ahead({"input_ids": np.zeros((3, 5), np.int32)}, BATCH[1])
        assert steps.done.numpy() == 3


@pytest.mark.parametrize("error", [None, KeyError])
def test_nothing_is_left_to_be_computed_however_it_ends(error):
    steps = GatedSteps(num_open=1)
    later = threading.Timer(0.3, steps.gate.release)
    try:
        with StepsAhead(steps) as ahead:
            ahead(*BATCH)
            ahead(*BATCH)
            later.start()
            if error is not None:
                raise error
    except KeyError:
        assert error is not None
    assert steps.done.numpy() == 2


def test_a_fault_of_a_step_is_raised_and_is_over_then():
    steps = GatedSteps(num_open=9, fails_at=3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="a fault"):  # noqa: SIM117
        with StepsAhead(steps) as ahead:
            for _ in range(4):
                ahead(*BATCH)
    with pytest.raises(KeyError), StepsAhead(GatedSteps(num_open=9, fails_at=2)) as ahead:
        for _ in range(2):
            ahead(*BATCH)
        raise KeyError  # what ends a run is not hidden by a fault found later
    steps = GatedSteps(num_open=2)
    with StepsAhead(steps) as ahead:
        ahead(*BATCH)
        ahead(*BATCH)
    assert steps.done.numpy() == 2


def test_what_is_saved_and_evaluated_is_that_of_the_step():
    """Each step takes a while; a save that did not wait for it would see the one before."""
    steps = GatedSteps()
    seen = []

    def slow_step(features, targets):
        threading.Timer(0.03, steps.gate.release).start()
        return steps(features, targets)

    class Figures(Listener):
        def on_figures(self, split, step, values, histograms=None):
            seen.append(("report", step, values["train/cost_cls"]))

    def saw(what):
        return lambda step: seen.append((what, step, steps.done.numpy()))

    run = RunParams(save_checkpoints_steps=3, save_summary_steps=4, eval_every_steps=2)
    listener, control = Figures(), Control()
    save, evaluate = saw("save"), saw("evaluate")
    batches = [BATCH] * 9
    reached = train(slow_step, batches, 0, 9, run, listener, control, save, evaluate, is_ahead=True)
    assert (reached.step, reached.stopped_by) == (9, None)
    assert [each for each in seen if each[0] != "report"] == [
        ("evaluate", 2, 2),
        ("save", 3, 3),
        ("evaluate", 4, 4),
        ("save", 6, 6),
        ("evaluate", 6, 6),
        ("evaluate", 8, 8),
        ("save", 9, 9),
        ("evaluate", 9, 9),
    ]
    reports = [each for each in seen if each[0] == "report"]
    assert reports == [("report", 4, 2.5), ("report", 8, 6.5), ("report", 9, 9.0)]


@pytest.mark.parametrize("is_busy, expected", [(True, 0.0), (False, 0.5)])
def test_input_is_waited_for_where_nothing_is_computed_meanwhile(monkeypatch, is_busy, expected):
    """By a clock of the test's: a batch takes a second, and so does a step, be it when the next has
    been handed over (busy) or within its call."""
    now, values = [0.0], {}
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    class Loss:
        """Takes a second to be read for the first time, where it is still computed."""

        seconds = float(is_busy)

        def __float__(self):
            now[0] += self.seconds
            self.seconds = 0.0
            return 1.0

    def train_step(features, targets):
        now[0] += 1.0 - float(is_busy)
        return {"train/cost_cls": Loss()}

    def slow_batches():
        for _ in range(20):
            now[0] += 1.0
            yield BATCH

    class Figures(Listener):
        def on_figures(self, split, step, figures, histograms=None):
            values.update(figures)

    run = RunParams(save_checkpoints_steps=20, save_summary_steps=20)
    listener, clock = Figures(), time.monotonic  # StepsAhead reads the clock by itself
    train(
        train_step,
        slow_batches(),
        0,
        20,
        run,
        listener,
        Control(),
        bool,
        is_ahead=True,
        clock=clock,
    )
    assert values["train/input_wait"] == expected
