# SPDX-License-Identifier: Apache-2.0
"""How many batches each update takes: by counting them one after the other."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.params import OptimizerParams
from common.params.accumulation import Accumulation


@st.composite
def schedules(draw):
    starts = [0, *sorted(draw(st.sets(st.integers(1, 40), max_size=4)))]
    return Accumulation(tuple((start, draw(st.integers(1, 7))) for start in starts))


@settings(max_examples=100, deadline=None)
@given(accumulation=schedules(), num_steps=st.integers(0, 60), first_step=st.integers(0, 60))
def test_updates_take_every_batch_once_from_wherever_training_begins(
    accumulation, num_steps, first_step
):
    position, taken = accumulation.batches(first_step), []
    for step in range(first_step, first_step + num_steps):
        assert accumulation.batches(step) == position
        taken += range(position, position + accumulation.at(step))
        position += accumulation.at(step)
        # Part of an update is not one; whole ones are counted.
        assert accumulation.whole_steps(first_step, len(taken)) == step + 1
        assert accumulation.whole_steps(first_step, len(taken) - 1) == step
    assert taken == list(range(accumulation.batches(first_step), position))


def test_batches_and_steps_by_hand():
    # 5 updates of 1 batch, 3 of 2, then 4 each: 5 + 6 + 8 batches are 10 updates.
    accumulation = Accumulation(((0, 1), (5, 2), (8, 4)))
    assert [accumulation.at(step) for step in (0, 4, 5, 7, 8, 99)] == [1, 1, 2, 2, 4, 4]
    assert accumulation.batches(10) == 19
    assert accumulation.steps(19) == 10
    assert accumulation.steps(8) == 6.5
    assert str(accumulation) == "1 to 4" and not accumulation.is_single


@pytest.mark.parametrize(
    ("values", "stages"),
    [
        ({}, ((0, 1),)),
        ({"grad_accum_steps": 3}, ((0, 3),)),
        ({"grad_accum_schedule": [[0, 2], [7, 5]]}, ((0, 2), (7, 5))),
    ],
)
def test_either_key_says_it(values, stages):
    assert OptimizerParams.model_validate(values).accumulation == Accumulation(stages)
