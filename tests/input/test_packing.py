# SPDX-License-Identifier: Apache-2.0
"""input/packing.py: every row whole within one long row, in the batches that it says."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from input.batches import make_packed_batches, row_lengths
from input.epoch_plan import EpochPlan
from input.features import Layout
from input.packing import PackedPlan, num_products, pack, pack_every_row, round_up
from tests.input.test_batches import PAD, SPECIAL, make_tokens, plain_features, random_rows

ROOM = 20
batches_of_lengths = st.integers(1, 30).flatmap(
    lambda size: st.lists(
        st.lists(st.integers(1, ROOM), min_size=size, max_size=size), min_size=1, max_size=4
    )
)


def first_fit_decreasing(lengths, room):
    """The textbook loop. Returns (row, offset) of each example, and the number of rows."""
    places, used = [None] * len(lengths), []
    for example in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = next((r for r, n in enumerate(used) if n + lengths[example] <= room), len(used))
        if row == len(used):
            used.append(0)
        places[example] = (row, used[row])
        used[row] += lengths[example]
    return places, len(used)


@given(batches_of_lengths)
def test_the_places_are_those_of_the_textbook_loop(batches):
    order, starts, num_rows = pack(np.array(batches), ROOM)
    for lengths, examples, begins, rows in zip(batches, order, starts, num_rows, strict=True):
        places, expected_rows = first_fit_decreasing(lengths, ROOM)
        assert [places[i][0] * ROOM + places[i][1] for i in examples] == begins.tolist()
        assert sorted(examples) == list(range(len(lengths))) and rows == expected_rows


@given(batches_of_lengths)
def test_no_row_crosses_the_end_of_a_long_one_or_another_row(batches):
    lengths = np.array(batches)
    order, starts, num_rows = pack(lengths, ROOM)
    ends = starts + np.take_along_axis(lengths, order, axis=1)
    assert (starts // ROOM == (ends - 1) // ROOM).all()
    assert (ends[:, :-1] <= starts[:, 1:]).all() and (starts[:, 0] == 0).all()
    assert (ends[:, -1] <= num_rows * ROOM).all()


def test_an_example_packed_by_hand():
    order, starts, num_rows = pack(np.array([[3, 7, 5, 4, 2]]), 10)
    # 7 + 3, 5 + 4, 2: the 2 finds no room behind 7 + 3, nor behind 5 + 4.
    assert order.tolist() == [[1, 0, 2, 3, 4]]
    assert starts.tolist() == [[0, 7, 10, 15, 20]] and num_rows.tolist() == [3]


def test_filling_stands_first_and_takes_no_room():
    order, starts, num_rows = pack(np.array([[0, 6, 4, 0, 9]]), 10)
    assert order.tolist() == [[0, 3, 4, 1, 2]]
    assert starts.tolist() == [[0, 0, 0, 10, 16]] and num_rows.tolist() == [2]


def test_a_number_above_all_choices_stays_itself():
    assert round_up(np.array([1, 4, 5, 9, 10]), [4, 9]).tolist() == [4, 4, 9, 9, 10]


def test_products_of_a_layer_counted_by_hand():
    # D = 4: query, key, value and output take 4 * 2 * 16 a token, the feed-forward block
    # 2 * 2 * 4 * 16, the scores and the context 2 * 2 * T * 4.
    products = 3 * 7 * (128 + 256 + 16 * 7) + 1 * 5 * (128 + 256 + 16 * 5)
    assert num_products([[3, 7], [1, 5]], 4) == products / 16


# ---- The plan ------------------------------------------------------------------------------------

lengths_of_rows = st.lists(st.integers(1, 40), min_size=12, max_size=150)


def make_plan(lengths, batch_size=4, num_choices=3, seed=5):
    random = EpochPlan(np.array(lengths), batch_size, [max(lengths)], shuffle=True, seed=seed)
    return PackedPlan(random, num_choices)


@given(lengths_of_rows, st.integers(1, 12))
def test_an_epoch_has_every_row_once_but_those_of_a_short_last_batch(lengths, batch_size):
    plan = make_plan(lengths, batch_size)
    rows, starts, shapes = plan.steps(0, plan.random.steps_per_epoch)
    assert rows.shape == starts.shape == (len(lengths) // batch_size, batch_size)
    assert len(set(rows.ravel())) == rows.size
    assert (starts[:, -1] < shapes.prod(axis=1)).all()


@given(lengths_of_rows, st.integers(0, 9))
def test_the_batches_do_not_depend_on_where_a_run_begins(lengths, first):
    whole = make_plan(lengths).steps(0, 10)
    for array, part in zip(whole, make_plan(lengths).steps(first, 10), strict=True):
        np.testing.assert_array_equal(array[first:], part)


@given(lengths_of_rows, st.integers(1, 4))
def test_the_first_epoch_has_at_most_so_many_numbers_of_rows(lengths, num_choices):
    plan = make_plan(lengths, num_choices=num_choices)
    *_, shapes = plan.steps(0, plan.random.steps_per_epoch)
    assert len(np.unique(shapes[:, 0])) <= num_choices
    assert set(shapes[:, 1]) == {max(lengths)}


def test_the_batches_are_random_and_have_the_lengths_of_the_data():
    """Rows of like length stand together in buckets; here every batch has some of all."""
    lengths = np.arange(1, 41).repeat(10)
    rows, _, _ = make_plan(lengths, batch_size=40).steps(0, 10)
    means = lengths[rows].mean(axis=1)
    error = lengths.std() / math.sqrt(40)
    assert abs(means - lengths.mean()).max() < 4 * error and means.std() < 2 * error


# ---- A split, every row once ---------------------------------------------------------------------


@given(st.lists(st.integers(1, 40), min_size=1, max_size=150), st.integers(1, 12))
def test_every_row_of_a_split_stands_in_one_batch(lengths, batch_size):
    lengths = np.array(lengths)
    rows, starts, shapes = pack_every_row(lengths, batch_size)
    assert rows.shape == starts.shape == (-(-len(lengths) // batch_size), batch_size)
    assert sorted(rows[rows >= 0]) == list(range(len(lengths)))
    for batch_rows, begins, (num_long, room) in zip(rows, starts, shapes, strict=True):
        num_filling = (batch_rows < 0).sum()
        assert (batch_rows[num_filling:] >= 0).all() and not begins[: num_filling + 1].any()
        ends = begins + np.where(batch_rows < 0, 0, lengths[batch_rows])
        begins, ends = begins[num_filling:], ends[num_filling:]
        assert (ends[:-1] <= begins[1:]).all() and (begins // room == (ends - 1) // room).all()
        assert ends[-1] <= num_long * room
    assert len(np.unique(shapes, axis=0)) <= 2 and set(shapes[:, 1]) == {lengths.max()}


def test_batches_of_a_split_have_about_the_same_number_of_tokens():
    lengths = np.random.default_rng(3).gamma(4.0, 6.0, 3200).astype(int).clip(3, 64)
    rows, _, shapes = pack_every_row(lengths, 32)
    tokens = lengths[rows].sum(axis=1)
    assert len(tokens) == 100 and tokens.max() - tokens.min() <= lengths.max()
    assert len(np.unique(shapes, axis=0)) == 1  # one program for all
    assert tokens.sum() / shapes.prod(axis=1).sum() > 0.9


def test_a_second_shape_is_for_many_batches_only():
    """A row of 10 fills a long one; those of 6 take one each: 4 or 3 long rows, by their number."""
    few, many = (np.array([10] * n + [6] * 2 * n + [4] * n) for n in (3, 300))
    for lengths, most in ((few, 1), (many, 2)):
        assert len(np.unique(pack_every_row(lengths, 4)[-1], axis=0)) <= most


# ---- The features --------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(
    texts_per_row=st.sampled_from([1, 2]),
    seed=st.integers(0, 2**32 - 1),
    layout=st.builds(Layout, st.booleans(), st.booleans(), st.sampled_from([None, 9])),
)
def test_every_row_stands_where_the_plan_says(texts_per_row, seed, layout):
    rows, longest = random_rows(14, texts_per_row, seed), 17
    tokens = make_tokens(rows)
    lengths = row_lengths(tokens, longest, layout)
    plan = PackedPlan(EpochPlan(lengths, 5, [longest], shuffle=True, seed=1), 2)
    batches = make_packed_batches(tokens, SPECIAL, *plan.steps(0, 2), longest, False, layout)
    assert batches.is_packed and batches.num_computed == batches.shapes.prod(axis=1).sum()
    assert batches.num_real == lengths[batches.rows].sum()
    for (features, labels), batch_rows, shape in zip(
        batches, batches.rows, batches.shapes, strict=True
    ):
        assert labels.numpy().tolist() == [row % 3 for row in batch_rows]
        starts = features["starts"].numpy()
        empty = {"input_ids": PAD if layout.pad_id is None else layout.pad_id}
        empty |= {"input_mask": int(layout.invert_mask), "segment_ids": 0}
        for name, filler in empty.items():
            assert tuple(features[name].shape) == tuple(shape)
            expected = np.full(shape.prod(), filler)
            for row, start in zip(batch_rows, starts, strict=True):
                length = lengths[row]
                plain = plain_features(rows[row], longest, length, layout)[name]
                expected[start : start + length] = plain
            np.testing.assert_array_equal(features[name].numpy().ravel(), expected)


def test_a_plan_of_one_row_a_batch_is_the_row():
    plan = make_plan([5] * 12, batch_size=1)
    _, starts, shapes = plan.steps(0, 12)
    assert not starts.any() and np.unique(shapes, axis=0).tolist() == [[1, 5]]


@pytest.mark.parametrize("room", [1, 7])
def test_rows_that_fill_the_room_each_have_one_of_their_own(room):
    order, starts, num_rows = pack(np.full((2, 6), room), room)
    assert (num_rows == 6).all() and (starts == np.arange(6) * room).all()
    assert (order == np.arange(6)).all()
