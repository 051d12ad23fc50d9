# SPDX-License-Identifier: Apache-2.0
"""Epochs to steps, by hand arithmetic, and what a run says of its length."""

import pytest

from common.errors import UserError
from common.params.accumulation import Accumulation
from common.training.length import (
    check_end,
    depends_on_rows,
    describe_length,
    last_step_of,
    notes_on_evaluations,
    notes_on_length,
    resolve_length,
)
from tests.reference.small_params import training_params


def steps_of(num_epochs, num_batches, per_step=1, repeat=True):
    optimizer = {"grad_accum_steps": per_step}
    params = training_params({"num_epochs": num_epochs}, optimizer, {"repeat": repeat})
    assert depends_on_rows(params)
    resolved = resolve_length(params, num_batches)
    assert resolved.runconfig.num_epochs is None
    return resolved.runconfig.max_steps


def lengths_of(params):
    """The lengths of the schedules of the learning rate."""
    return [schedule.length for schedule in params.optimizer.learning_rate]


@pytest.mark.parametrize(
    ("num_epochs", "num_batches", "steps"),
    [
        (3, 1052, 3156),  # SST-2: 67,349 rows are 1,052 whole batches of 64
        (4, 81, 324),  # the sample: 2,603 rows are 81 whole batches of 32
        (0.5, 81, 40),  # 40.5
        (0.29, 100, 29),  # as floats 28.999999999999996
        (1.005, 1000, 1005),  # as floats 1004.9999999999999
        (1e-9, 81, 1),  # at least one
        (1e9, 2**31, 10**9 * 2**31),
    ],
)
def test_epochs_are_as_many_steps_as_their_batches(num_epochs, num_batches, steps):
    assert steps_of(num_epochs, num_batches) == steps


@pytest.mark.parametrize(
    ("num_epochs", "per_step", "repeat", "steps"),
    [
        (2, 2, True, 81),  # 162 batches
        (1, 4, True, 20),  # 81 batches are 20.25 updates
        (3, 2, True, 122),  # 243 batches are 121.5
        (1, 7, False, 11),  # the rows end after 11 whole updates, of 11.57
        (0.25, 2, False, 10),  # 20.25 batches
    ],
)
def test_an_update_of_several_batches_is_one_step(num_epochs, per_step, repeat, steps):
    assert steps_of(num_epochs, 81, per_step, repeat) == steps


@pytest.mark.parametrize(
    ("num_batches", "per_step", "run", "every"),
    [
        (81, 1, {"num_epochs": 4}, 81),
        (81, 1, {"max_steps": 200}, 81),  # two epochs and a part
        (81, 1, {"num_epochs": 0.5}, 81),  # after the end: one evaluation, at the last step
        (31, 3, {"num_epochs": 3}, 11),  # 10.33: with 10, step 31 would follow step 30
        (0, 1, {"max_steps": 2}, 1),  # fewer rows than a batch, which reading them refuses
        (1, 1, {"num_epochs": 20}, 1),  # short epochs, but few
        (1, 1, {"num_epochs": 21}, 10),
        (3, 1, {"max_steps": 61}, 12),  # whole epochs: 4 of 3 steps
        (7, 2, {"num_epochs": 100}, 11),  # 3 of 3.5 steps are 10.5
        (10, 1, {"num_epochs": 100}, 10),
        (3, 1, {"steps": 1}, 12),  # where training ends is not known
    ],
)
def test_an_evaluation_of_each_epoch_is_one_after_its_steps(num_batches, per_step, run, every):
    params = training_params(run | {"eval_every_steps": "epoch"}, {"grad_accum_steps": per_step})
    assert depends_on_rows(params)
    assert resolve_length(params, num_batches).runconfig.eval_every_steps == every


def test_epochs_without_an_evaluation_are_told():
    def notes(num_epochs, every="epoch"):
        params = training_params({"num_epochs": num_epochs, "eval_every_steps": every})
        return notes_on_evaluations(params, resolve_length(params, 3), 3)

    (note,) = notes(21)
    assert note.startswith("An epoch has 3 steps: evaluations come 12 steps apart")
    assert notes(20) == notes(21, 12) == []


def test_warm_up_and_decay_take_the_steps_of_the_epochs():
    # 10% of 324 steps are 32.4, of which 32 are whole, and 292 are left.
    resolved = resolve_length(training_params({"num_epochs": 4}), 81)
    assert resolved.runconfig.max_steps == 324
    assert lengths_of(resolved) == [32, 292]
    assert resolved.optimizer.warmup_ratio is None and resolved.optimizer.decay is None
    assert notes_on_length(resolved, 324) == []


def test_warm_up_and_decay_take_max_steps_where_that_is_given():
    params = training_params({"max_steps": 200})
    assert not depends_on_rows(params)
    assert lengths_of(resolve_length(params, None)) == [20, 180]


def test_a_part_of_the_training_keeps_the_schedule_of_the_whole():
    # --steps 50 of a file with num_epochs: 4
    resolved = resolve_length(training_params({"num_epochs": 4, "steps": 50}), 81)
    assert last_step_of(resolved.runconfig, 0) == 50
    assert last_step_of(resolved.runconfig, 50) == 100
    assert last_step_of(resolved.runconfig, 300) == 324
    assert lengths_of(resolved) == [32, 292]
    assert notes_on_length(resolved, 50) == []


def test_rows_that_are_read_once_end_the_schedule_with_them():
    # repeat: false stops after the 81 batches, whatever max_steps says.
    params = training_params({"max_steps": 200}, None, {"repeat": False})
    assert depends_on_rows(params)
    resolved = resolve_length(params, 81)
    assert resolved.runconfig.max_steps == 200
    assert lengths_of(resolved) == [8, 73]
    assert notes_on_length(resolved, 81) == []


def test_a_plain_number_stays_one():
    params = training_params({"max_steps": 200}, {"learning_rate": 3e-5})
    assert resolve_length(params, None) == params
    written = training_params({"max_steps": 200}, {"learning_rate": 3e-5, "decay": "constant"})
    assert resolve_length(written, None) == params  # so neither changes a resumed run


def test_what_is_resolved_is_resolved_once():
    resolved = resolve_length(training_params({"num_epochs": 4}), 81)
    assert not depends_on_rows(resolved)
    assert resolve_length(resolved, None) == resolved


def test_without_the_rows_the_epochs_stay_and_the_rate_is_the_number():
    unread = resolve_length(training_params({"num_epochs": 4}), None)
    assert (unread.runconfig.num_epochs, unread.runconfig.max_steps) == (4, None)
    assert unread.optimizer.learning_rate == 5e-5 and not unread.optimizer.needs_end


def test_steps_alone_are_no_end_for_a_rate_that_falls():
    words = "give --num_epochs, --max_steps or --max_seconds"
    with pytest.raises(UserError, match=f"--steps .* {words}"):
        check_end(training_params({"steps": 5}))
    check_end(training_params({"steps": 5}, {}))  # the original's: constant
    check_end(training_params({"steps": 5, "max_steps": 9}))


def test_a_length_that_is_missing_is_asked_for_by_every_word_there_is():
    with pytest.raises(UserError, match=r"--num_epochs .* or --max_steps .*, or --steps"):
        last_step_of(training_params().runconfig, 0)


@pytest.mark.parametrize(
    ("last_step", "num_batches", "per_step", "text"),
    [
        (3156, 1052, 1, "3,156 steps = 3.0 epochs of 1,052 steps"),
        (20_000, 5612, 1, "20,000 steps = 3.56 epochs of 5,612 steps"),  # 67,349 // 12
        (20, 325, 1, "20 steps = 0.062 epochs of 325 steps"),
        (81, 81, 2, "81 steps = 2.0 epochs of 40.5 steps"),
        (1, 3, 3, "1 step = 1.0 epochs of 1 step"),
        (5, 4, 1, "5 steps = 1.25 epochs of 4 steps"),
    ],
)
def test_a_length_is_told_in_steps_and_epochs(last_step, num_batches, per_step, text):
    assert describe_length(last_step, num_batches, Accumulation(((0, per_step),))) == text
