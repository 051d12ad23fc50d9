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
from input.packing import (
    PackedPlan,
    best_fit,
    choose_lengths,
    choose_num_rows,
    num_products,
    pack,
    pack_every_row,
    round_up,
)
from tests.input.test_batches import PAD, SPECIAL, make_tokens, plain_features, random_rows

batches_of_lengths = st.integers(1, 30).flatmap(
    lambda size: st.lists(
        st.lists(st.integers(0, 20), min_size=size, max_size=size), min_size=1, max_size=4
    )
)


def longest_first(lengths, num_rows):
    """The textbook loop. Returns (row, offset) of each example, and the tokens of each row."""
    places, used = [None] * len(lengths), [0] * num_rows
    for example in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = used.index(min(used))
        places[example] = (row, used[row])
        used[row] += lengths[example]
    return places, used


@given(batches_of_lengths, st.integers(1, 8))
def test_the_places_are_those_of_the_textbook_loop(batches, num_rows):
    for lengths, *found in zip(batches, *pack(np.array(batches), num_rows), strict=True):
        order, row, offset, room = found
        places, used = longest_first(lengths, num_rows)
        assert sorted(order) == list(range(len(lengths))) and room == max(used)
        for example, place in zip(order, zip(row, offset, strict=True), strict=True):
            assert place == (places[example] if lengths[example] else (0, 0))


@given(batches_of_lengths, st.integers(1, 8), st.integers(0, 3))
def test_no_row_crosses_the_end_of_a_long_one_or_another_row(batches, num_rows, spare):
    lengths = np.array(batches)
    order, row, offset, room = pack(lengths, num_rows)
    room = np.maximum(room + spare, 1)[:, None]
    lengths = np.take_along_axis(lengths, order, axis=1)
    starts = row * room + offset
    assert (offset + lengths <= room).all() and (row < num_rows).all()
    assert (starts[:, :-1] + lengths[:, :-1] <= starts[:, 1:]).all()
    is_filling = lengths == 0
    assert (starts[is_filling] == 0).all() and (np.diff(is_filling.astype(int)) <= 0).all()


def test_an_example_packed_by_hand():
    order, row, offset, room = (array[0].tolist() for array in pack(np.array([[3, 7, 5, 4, 2]]), 2))
    # 7 | 5, then 4 behind the 5, 3 behind the 7 and 2 behind the 4: 9 + 2 are more than 10 + 0.
    assert row == [0, 0, 1, 1, 1] and [order[i] for i in range(5)] == [1, 0, 2, 3, 4]
    assert offset == [0, 7, 0, 5, 9] and room == 11


def test_filling_stands_first_and_takes_no_room():
    order, row, offset, room = (array[0].tolist() for array in pack(np.array([[0, 6, 4, 0, 9]]), 2))
    assert order == [0, 3, 4, 1, 2] and room == 10
    assert row == [0, 0, 0, 1, 1] and offset == [0, 0, 0, 0, 6]


@given(st.lists(st.lists(st.integers(1, 20), min_size=12, max_size=12), min_size=1, max_size=4))
def test_as_many_long_rows_as_compute_the_least(batches):
    def cost(num_rows):  # of a layer, up to a common factor
        rooms = [max(longest_first(lengths, num_rows)[1]) for lengths in batches]
        room = sum(rooms) / len(rooms)
        # MiniLM's, where a token's comparing with others takes three times what its products take.
        return num_rows * room * (24 * 384**2 + 3 * 4 * 384 * room)

    costs = {num_rows: cost(num_rows) for num_rows in (1, 2, 4, 6, 8, 10, 12)}
    chosen = choose_num_rows(np.array(batches))
    # Above the fewest that could hold all tokens, if each is as long as the longest, are no others.
    enough = np.sum(batches) / len(batches) / np.max(batches)
    for num_rows, expected in costs.items():
        if num_rows < enough + 1:
            assert costs[chosen] <= expected * (1 + 1e-12)


def test_a_number_above_all_choices_stays_itself():
    assert round_up(np.array([1, 4, 5, 9, 10]), [4, 9]).tolist() == [4, 4, 9, 9, 10]


def test_products_of_a_layer_counted_by_hand():
    # D = 4: query, key, value and output take 4 * 2 * 16 a token, the feed-forward block
    # 2 * 2 * 4 * 16, the scores and the context 2 * 2 * T * 4.
    products = 3 * 7 * (128 + 256 + 16 * 7) + 1 * 5 * (128 + 256 + 16 * 5)
    assert num_products([[3, 7], [1, 5]], 4) == products / 16


@pytest.mark.parametrize(("num_short", "chosen"), [(80, [8]), (81, [4, 8])])
def test_a_second_length_has_to_save_more_than_its_program_costs(num_short, chosen):
    # Short rows save 4 tokens each; a program costs 20 batches of 2 rows of 8 tokens, 320 tokens.
    assert choose_lengths(np.array([8] * 5 + [4] * num_short), 8, rows_per_batch=2) == chosen


# ---- The plan ------------------------------------------------------------------------------------

lengths_of_rows = st.lists(st.integers(1, 40), min_size=12, max_size=150)


def make_plan(lengths, batch_size=4, num_choices=3, seed=5):
    random = EpochPlan(np.array(lengths), batch_size, [max(lengths)], shuffle=True, seed=seed)
    return PackedPlan(random, num_choices)


@given(lengths_of_rows, st.integers(1, 12))
def test_an_epoch_has_every_row_once_but_those_of_a_short_last_batch(lengths, batch_size):
    plan = make_plan(lengths, batch_size)
    rows, starts, shapes = plan.steps(0, plan.batches.steps_per_epoch)
    assert rows.shape == starts.shape == (len(lengths) // batch_size, batch_size)
    assert len(set(rows.ravel())) == rows.size
    assert (starts[:, -1] < shapes.prod(axis=1)).all()


@given(lengths_of_rows, st.integers(0, 9))
def test_the_batches_do_not_depend_on_where_a_run_begins(lengths, first):
    whole = make_plan(lengths).steps(0, 10)
    for array, part in zip(whole, make_plan(lengths).steps(first, 10), strict=True):
        np.testing.assert_array_equal(array[first:], part)


@given(lengths_of_rows, st.integers(1, 4))
def test_the_first_epoch_has_at_most_so_many_lengths(lengths, num_choices):
    plan = make_plan(lengths, num_choices=num_choices)
    *_, shapes = plan.steps(0, plan.batches.steps_per_epoch)
    assert len(np.unique(shapes[:, 1])) <= num_choices
    assert set(shapes[:, 0]) == {plan.num_rows}


def test_the_batches_are_random_and_have_the_lengths_of_the_data():
    """Buckets group rows of similar length; here every batch has rows of all lengths."""
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
    assert sorted(rows[rows >= 0]) == list(range(len(lengths)))
    for batch_rows, begins, (num_long, room) in zip(rows, starts, shapes, strict=True):
        num_filling = (batch_rows < 0).sum()
        assert (batch_rows[num_filling:] >= 0).all() and not begins[: num_filling + 1].any()
        ends = begins + np.where(batch_rows < 0, 0, lengths[batch_rows])
        begins, ends = begins[num_filling:], ends[num_filling:]
        assert (ends[:-1] <= begins[1:]).all() and (begins // room == (ends - 1) // room).all()
        assert ends[-1] <= num_long * room
    assert len(np.unique(shapes, axis=0)) == 1  # one program for all


@given(st.lists(st.integers(1, 40), min_size=1, max_size=150), st.integers(40, 80))
def test_long_rows_are_those_of_best_fit_one_example_after_the_other(lengths, room):
    """Johnson's rule in its own words: each into the fullest long row that has room for it."""
    used = []
    for length in sorted(lengths, reverse=True):
        fitting = [n for n, tokens in enumerate(used) if tokens + length <= room]
        if fitting:
            used[max(fitting, key=lambda n: used[n])] += length
        else:
            used.append(length)
    long_row, offset = best_fit(np.array(lengths), room)
    assert sorted(np.bincount(long_row, weights=lengths)) == sorted(used)
    for number in range(len(used)):
        mine = np.flatnonzero(long_row == number)
        places = [place for n in mine for place in range(offset[n], offset[n] + lengths[n])]
        assert sorted(places) == list(range(len(places)))


@given(st.lists(st.integers(1, 40), min_size=60, max_size=150), st.integers(4, 12))
def test_a_batch_of_a_split_has_about_the_rows_that_were_asked_for(lengths, batch_size):
    rows, _, shapes = pack_every_row(np.array(lengths), batch_size)
    # A long row holds many rows or one, so that their number in a batch has to be a multiple.
    in_long_row = len(lengths) / shapes[:, 0].sum()
    assert rows.shape[1] <= 1.5 * batch_size + 2 * math.ceil(in_long_row)


def test_hardly_any_token_of_a_split_is_padding():
    lengths = np.random.default_rng(3).gamma(4.0, 6.0, 3200).astype(int).clip(3, 64)
    rows, _, shapes = pack_every_row(lengths, 32)
    assert lengths.sum() / shapes.prod(axis=1).sum() > 0.98
    assert 27 < (rows >= 0).sum(axis=1).mean() < 38 and rows.shape[1] < 48


def test_rows_of_two_thirds_of_the_longest_stand_in_longer_long_rows():
    """In long rows of 30 tokens each 20 would leave 10 of padding; three of them fill 60."""
    lengths = np.array([30] + [20] * 59)
    _, _, shapes = pack_every_row(lengths, 6)
    assert (shapes[:, 1] == 60).all() and lengths.sum() / shapes.prod(axis=1).sum() > 0.9


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
    for (features, targets), batch_rows, shape in zip(
        batches, batches.rows, batches.shapes, strict=True
    ):
        assert targets["labels"].numpy().tolist() == [row % 3 for row in batch_rows]
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
    order, row, offset, fullest = pack(np.full((2, 6), room), 6)
    assert (fullest == room).all() and (offset == 0).all()
    assert (order == np.arange(6)).all() and (row == np.arange(6)).all()
