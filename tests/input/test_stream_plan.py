# SPDX-License-Identifier: Apache-2.0
"""input/stream_plan.py: every row once an epoch, in batches that follow from the step alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from input import stream_plan
from input.stream_plan import PACKED, PADDED, StreamPlan


class LengthsOnly:
    """A RowStore of one text a row, of which a plan needs nothing but lengths."""

    texts_per_row = 1

    def __init__(self, lengths):
        self._lengths = np.asarray(lengths)
        self.length_counts = np.bincount(self._lengths)

    def __len__(self):
        return len(self._lengths)

    def lengths(self, rows):
        return self._lengths[rows][:, None]


@pytest.fixture(autouse=True, scope="module")
def short_stretches():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream_plan, "STRETCH_ROWS", 30)
        patch.setattr(stream_plan, "MIN_STRETCH_STEPS", 2)
        yield


PLANS = {
    "num_rows": st.integers(4, 150),
    "batch_size": st.integers(1, 7),
    "kind": st.sampled_from([PADDED, PACKED]),
    "shuffle": st.booleans(),
    "has_every_row": st.booleans(),
    "seed": st.integers(0, 2**31),
}


def make_plan(num_rows, batch_size, kind, shuffle, has_every_row, seed, lengths=None, **more):
    of_rows = np.random.default_rng(num_rows).integers(1, 30, num_rows)
    store = LengthsOnly(of_rows)
    batch_size = min(batch_size, num_rows)
    plan = StreamPlan(store, batch_size, 2, kind, lengths, 3, shuffle, seed, has_every_row, **more)
    return plan, of_rows + 2


def steps_of(plan, first_step, last_step):
    """[(rows, starts or None, shape)] of steps."""
    steps = []
    for number, first, last in plan.stretches(first_step, last_step):
        stretch = plan.stretch(number)
        starts = [None] * len(stretch.rows) if stretch.starts is None else stretch.starts.tolist()
        batches = zip(stretch.rows.tolist(), starts, stretch.shapes.tolist(), strict=True)
        steps += list(batches)[first:last]
    return steps


@settings(max_examples=60, deadline=None)
@given(**PLANS)
def test_an_epoch_has_every_row_at_most_once_and_an_evaluation_each(**values):
    plan, _ = make_plan(**values)
    for epoch in (0, 1):
        first = epoch * plan.steps_per_epoch
        batches = steps_of(plan, first, first + plan.steps_per_epoch)
        rows = [row for rows, *_ in batches for row in rows if row >= 0]
        assert len(set(rows)) == len(rows) and all(row < plan.num_rows for row in rows)
        rest = 0 if values["has_every_row"] else plan.num_rows % plan.batch_size
        assert len(rows) == plan.num_rows - rest


@settings(max_examples=40, deadline=None)
@given(first=st.integers(0, 60), **PLANS)
def test_a_run_that_begins_at_any_step_has_the_batches_of_one_that_was_never_stopped(
    first, **values
):
    plan, _ = make_plan(**values)
    whole = steps_of(plan, 0, first + 40)
    again, _ = make_plan(**values)
    assert steps_of(again, first, first + 40) == whole[first:]


@settings(max_examples=60, deadline=None)
@given(**PLANS)
def test_rows_fit_where_they_are_put(**values):
    plan, lengths = make_plan(**values)
    for rows, starts, (height, length) in steps_of(plan, 0, plan.steps_per_epoch):
        if starts is None:
            assert height == plan.batch_size and all(lengths[row] <= length for row in rows)
            continue
        ends = {0: 0}  # of each long row
        for row, start in zip(rows, starts, strict=True):
            if row < 0:
                assert start == 0
                continue
            number, offset = divmod(start, length)
            assert offset == ends.get(number, 0) and number < height
            ends[number] = offset + lengths[row]
            assert ends[number] <= length


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), num_rows=st.integers(80, 150))
def test_packed_batches_of_all_epochs_share_a_few_shapes(seed, num_rows):
    plan, _ = make_plan(num_rows, 5, PACKED, True, False, seed)
    shapes = {tuple(shape) for *_, shape in steps_of(plan, 0, 10 * plan.steps_per_epoch)}
    known = set(map(tuple, plan.distinct_shapes))
    assert len(known) <= 3 and {height for height, _ in shapes} == {plan.num_long}
    assert all(length % stream_plan.OVERFLOW_MULTIPLE == 0 for _, length in shapes - known)


def test_orders_differ_between_epochs_and_seeds_but_for_rows_in_order():
    def order(shuffle, seed, epoch):
        plan, _ = make_plan(140, 4, PADDED, shuffle, False, seed, lengths=[40])
        first = epoch * plan.steps_per_epoch
        batches = steps_of(plan, first, first + plan.steps_per_epoch)
        return [row for rows, *_ in batches for row in rows]

    assert order(True, 1, 0) != order(True, 1, 1) != order(True, 2, 1)
    assert order(False, 1, 0) == order(False, 2, 1) == list(range(140))


def test_a_sample_is_the_same_in_every_epoch_and_a_smaller_one_is_part_of_it():
    def sample(size, epoch):
        plan, _ = make_plan(150, 5, PADDED, True, True, 3, max_rows=size)
        first = epoch * plan.steps_per_epoch
        batches = steps_of(plan, first, first + plan.steps_per_epoch)
        return {row for rows, *_ in batches for row in rows if row >= 0}

    assert len(sample(40, 0)) == 40 and sample(40, 0) == sample(40, 7) > sample(20, 0)


def test_given_lengths_are_taken():
    plan, _ = make_plan(50, 5, PADDED, True, False, 3, lengths=[20, 40])
    assert plan.distinct_shapes == [[5, 20], [5, 40]]
    batches = steps_of(plan, 0, plan.steps_per_epoch)
    assert {tuple(shape) for *_, shape in batches} == {(5, 20), (5, 40)}
