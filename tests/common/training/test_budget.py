# SPDX-License-Identifier: Apache-2.0
"""`max_seconds`: the speed that is measured, the steps that follow, and the training with them."""

import numpy as np
import pytest

from common.checkpoints.formats import ours
from common.errors import UserError
from common.reports.listener import Listener
from common.training import budget
from common.training.budget import is_enough, measure, median_of_parts, within_budget
from common.training.length import last_step_of, with_former_budget
from common.training.train_step import make_train_step
from common.training.trainer import Trainer
from tests.reference.small_params import training_params
from tests.reference.toy_session import bits_of, make_params, make_session, train

SHAPED = {"learning_rate": 0.01, "warmup_ratio": 0.2, "decay": "linear"}


class Told(Listener):
    def __init__(self):
        self.lines = []

    def on_message(self, text):
        self.lines.append(text)


def make_budget_session(model_dir, optimizer=SHAPED, **runconfig):
    """A Session as open_session makes it where max_seconds is not resolved yet."""
    before = make_params(model_dir, optimizer, **runconfig)
    rate = before.optimizer.model_copy(update={"warmup_ratio": None, "decay": None})
    params = before.model_copy(update={"optimizer": rate})
    return make_session(params, before_length=before)


def seconds_of_updates(monkeypatch, seconds):
    """Makes `measure` see so many seconds for each update; the last again and again."""
    times = iter(np.cumsum([0.0, *seconds, *[seconds[-1]] * budget.MAX_UPDATES]))
    monkeypatch.setattr(measure, "__defaults__", (None, make_train_step, lambda: next(times)))


def test_a_budget_is_the_training_of_the_steps_that_fit_into_it_bit_for_bit(tmp_path, monkeypatch):
    # A compiled program a length takes 50 s, an update 0.5 s: 7.9 s are 15 of them.
    seconds_of_updates(monkeypatch, [50.0, 0.1, *[0.5] * 3])
    told = Told()
    session = make_budget_session(tmp_path / "seconds", max_seconds=7.9)
    session = within_budget(session, session.new_model, told)
    assert (session.run.max_steps, session.run.max_seconds) == (15, None)
    assert [stage.steps for stage in session.params.optimizer.learning_rate] == [3, 12]
    (line,) = told.lines
    assert line.startswith("max_seconds 7.9: 15 steps of 0.5 s, measured on 3 steps")
    Trainer(session, session.new_model(), told).train()
    optimizer = {**SHAPED, "learning_rate": session.params.optimizer.model_dump()["learning_rate"]}
    optimizer |= {"warmup_ratio": None, "decay": None}
    train(tmp_path / "steps", max_steps=15, optimizer=optimizer)
    by_seconds, by_steps = (bits_of(tmp_path / n / "checkpoint-15") for n in ("seconds", "steps"))
    assert by_seconds == by_steps


def test_updates_in_which_a_program_is_compiled_do_not_count(tmp_path):
    # Two lengths in turn; whenever they come, four updates at most are left out.
    session = make_budget_session(tmp_path, max_seconds=100, num_buckets=2)
    shapes, order = set(), []
    seconds = []

    def make_step(*arguments):
        step = make_train_step(*arguments)

        def timed(features, targets):
            shape = features["input_ids"].shape
            is_first = shape not in shapes
            order.append(is_first)
            shapes.add(shape)
            seconds.append(30.0 if is_first else 0.25)
            return step(features, targets)

        return timed

    clock = iter(lambda: sum(seconds), None)
    per_update, num_updates = measure(
        session, session.new_model(), None, make_step, clock=lambda: next(clock)
    )
    assert per_update == 0.25 and len(shapes) == 2
    left_out = [first or before for first, before in zip(order, [False, *order], strict=False)]
    assert num_updates == len(order) - sum(left_out) >= budget.MIN_UPDATES


def test_one_update_is_of_all_its_batches(tmp_path, monkeypatch):
    session = make_budget_session(
        tmp_path, {**SHAPED, "grad_accum_steps": 3}, max_seconds=60, steps=None
    )
    seconds_of_updates(monkeypatch, [9.0, 9.0, 0.75])
    assert measure(session, session.new_model(), *measure.__defaults__)[0] == 0.75


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0.5] * 11, 0.5),
        ([8.0, *[0.5] * 29], 0.5),  # one part of five has a pause of the machine in it
        ([8.0, 8.0, *[0.5] * 8], 0.5),
        ([1.0, 3.0] * 10, 2.0),  # lengths in turn: the mean of both
        ([1.0, 2.0, 9.0], 2.0),
    ],
)
def test_the_speed_is_the_median_of_five_parts(times, expected):
    assert median_of_parts(times) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("number", "seconds", "max_seconds", "expected"),
    [
        (9, 2.0, 3600, False),  # at least 10 updates
        (10, 2.0, 3600, False),  # 20 s: neither 30 s nor 2% of an hour, 72 s
        (15, 2.0, 3600, True),
        (10, 1.0, 500, True),  # 2% of 500 s
        (3, 20.0, 600, True),  # slow updates: a tenth of the budget is spent
        (2, 40.0, 600, False),
    ],
)
def test_it_is_measured_for_two_percent_of_the_budget(number, seconds, max_seconds, expected):
    assert is_enough([seconds] * number, max_seconds) is expected


class Former:
    """A checkpoint to resume."""

    path = "model_dir/checkpoint-8"

    def __init__(self, **config):
        self.config = config


def test_a_resumed_run_has_the_steps_that_were_measured_before():
    kept = {"max_seconds": 3600, "max_steps": 900}
    params, again = with_former_budget(training_params({"max_seconds": 3600}), Former(budget=kept))
    assert (params.runconfig.max_steps, params.runconfig.max_seconds) == (900, None)
    assert again == kept
    # Half as long again: at the speed that was measured.
    params, again = with_former_budget(training_params({"max_seconds": 5400}), Former(budget=kept))
    assert params.runconfig.max_steps == 1350 and again["max_steps"] == 1350
    # The saved params.yaml has max_steps; the checkpoints go on to know of the budget.
    params, again = with_former_budget(training_params({"max_steps": 900}), Former(budget=kept))
    assert params.runconfig.max_steps == 900 and again == kept


def test_a_budget_of_growing_batches_counts_batches(tmp_path, monkeypatch):
    # 30 s of 0.5 s a batch are 60 batches: 10 updates of 1, then 25 of 2.
    growing = {**SHAPED, "grad_accum_schedule": [[0, 1], [10, 2]]}
    session = make_budget_session(tmp_path, growing, max_seconds=30)
    monkeypatch.setattr(budget, "measure", lambda *arguments: (0.5, 10))
    told = Told()
    session = within_budget(session, lambda: None, told)
    assert session.run.max_steps == 35
    assert "35 steps, the first of 0.5 s, measured" in told.lines[0]
    # Half the seconds are 30 batches, which are 20 updates.
    params = session.before_length.with_runconfig(max_seconds=15)
    assert with_former_budget(params, Former(budget=session.budget))[0].runconfig.max_steps == 20


def test_a_run_that_was_begun_by_steps_is_not_resumed_by_seconds():
    with pytest.raises(UserError, match=r"checkpoint-8 was begun without it.*--max_steps"):
        with_former_budget(training_params({"max_seconds": 60}), Former())


def test_checkpoints_keep_the_budget(tmp_path):
    kept = {"max_seconds": 60.0, "max_steps": 2}
    session = make_session(make_params(tmp_path, max_steps=2), budget=kept)
    Trainer(session, session.new_model(), Told()).train()
    assert ours.read_config(tmp_path / "checkpoint-2")["budget"] == kept


def test_seconds_alone_are_no_step_to_train_to():
    with pytest.raises(UserError, match="max_seconds"):
        last_step_of(training_params().runconfig, 0)
