# SPDX-License-Identifier: Apache-2.0
"""Steps handed over ahead of time: what is computed when, and what is whole when it ends."""

import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from common.params import RunParams
from common.training.loop import train
from common.training.steps_ahead import StepsAhead

BATCH = {"input_ids": np.zeros((3, 2), np.int32)}, np.zeros(3, np.int32)


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

    def __call__(self, features, labels):
        self.num_called += 1
        return {"train/cost_cls": self.compute()}


def in_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    return thread


def test_a_step_is_handed_over_while_the_one_before_is_computed():
    steps = GatedSteps(num_open=2)
    with StepsAhead(steps) as ahead:
        ahead(*BATCH)
        ahead(*BATCH)
        figures = ahead(*BATCH)  # the second is computed when this comes back, and the third is not
        assert steps.num_called == 3 and not ahead.was_busy
        fourth = in_thread(lambda: ahead(*BATCH))
        fourth.join(0.3)
        assert fourth.is_alive() and steps.num_called == 4 and steps.done.numpy() == 2
        steps.gate.release()
        fourth.join()
        assert float(figures["train/cost_cls"]) == 3.0 and ahead.was_busy
        steps.gate.release()
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

    def slow_step(features, labels):
        threading.Timer(0.03, steps.gate.release).start()
        return steps(features, labels)

    class NoReports:
        def scalars(self, split, step, values):
            seen.append(("report", step, values["train/cost_cls"]))

    def saw(what):
        return lambda step: seen.append((what, step, steps.done.numpy()))

    run = RunParams(save_checkpoints_steps=3, save_summary_steps=4, eval_every_steps=2)
    reached = train(
        slow_step, [BATCH] * 9, 0, 9, run, NoReports(), saw("save"), saw("evaluate"), is_ahead=True
    )
    assert reached == (9, None)
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


@pytest.mark.parametrize("is_busy", [True, False])
def test_input_is_waited_for_where_nothing_is_computed_meanwhile(is_busy):
    """Where a step is let through after the next is handed over, or all are from the beginning."""
    steps, values = GatedSteps(num_open=1 if is_busy else 20), {}

    def train_step(features, labels):
        if is_busy and steps.num_called >= 2:
            num_open = 2 if steps.num_called == 19 else 1  # nothing comes after the last
            threading.Timer(0.02, lambda: steps.gate.release(num_open)).start()
        return steps(features, labels)

    def slow_batches():
        for _ in range(20):
            time.sleep(0.02)
            yield BATCH

    class KeptReports:
        def scalars(self, split, step, figures):
            values.update(figures)

    run = RunParams(save_checkpoints_steps=20, save_summary_steps=20)
    train(train_step, slow_batches(), 0, 20, run, KeptReports(), save=bool, is_ahead=True)
    # The first two have none before them that is computed meanwhile.
    assert values["train/input_wait"] < 0.2 if is_busy else values["train/input_wait"] > 0.5
