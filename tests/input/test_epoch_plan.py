# SPDX-License-Identifier: Apache-2.0
"""input/epoch_plan.py: every row once, in few lengths, the same again from the same seed."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from input.epoch_plan import BalancedPlan, EpochPlan, choose_bucket_lengths, truncated_lengths

lengths_of_rows = st.lists(st.integers(3, 40), min_size=1, max_size=120)
batch_sizes = st.integers(1, 11)
seeds = st.integers(0, 2**63 - 1)


def make_plan(lengths, batch_size, num_buckets=3, shuffle=True, seed=5):
    buckets = choose_bucket_lengths(lengths, num_buckets)
    return EpochPlan(np.array(lengths), batch_size, buckets, shuffle, seed)


def assert_equal(batches, others):
    for array, other in zip(batches, others, strict=True):
        np.testing.assert_array_equal(array, other)


# ---- Truncation ----------------------------------------------------------------------------------


def pop_tokens(first, second, room):
    """google-research/bert run_classifier.py, _truncate_seq_pair, on lengths."""
    while first + second > room:
        if first > second:
            first -= 1
        else:
            second -= 1
    return [first, second]


@given(
    pairs=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=50),
    room=st.integers(0, 90),
)
def test_pairs_are_cut_as_popping_one_token_at_a_time_cuts_them(pairs, room):
    expected = [pop_tokens(*pair, room) for pair in pairs]
    assert truncated_lengths(np.array(pairs), room).tolist() == expected


@given(st.lists(st.integers(0, 40), min_size=1), st.integers(0, 50))
def test_single_texts_keep_what_fits(lengths, room):
    cut = truncated_lengths(np.array(lengths)[:, None], room)
    assert cut.tolist() == [[min(length, room)] for length in lengths]


# ---- Bucket lengths ------------------------------------------------------------------------------


def padded_tokens(lengths, buckets):
    return sum(min(bucket for bucket in buckets if bucket >= length) for length in lengths)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 10))
def test_bucket_lengths_are_the_best_of_all_choices(lengths, num_buckets):
    buckets = choose_bucket_lengths(lengths, num_buckets)
    shorter = sorted({*lengths} - {max(lengths)})
    fewest = min(
        padded_tokens(lengths, [*chosen, max(lengths)])
        for count in range(min(num_buckets, len(shorter) + 1))
        for chosen in itertools.combinations(shorter, count)
    )
    assert len(buckets) <= num_buckets
    assert buckets == sorted(set(buckets))
    assert buckets[-1] == max(lengths)
    assert padded_tokens(lengths, buckets) == fewest


# ---- Epochs --------------------------------------------------------------------------------------


@given(lengths_of_rows, batch_sizes, st.integers(1, 4), st.booleans(), seeds, st.integers(0, 9))
def test_an_epoch_has_every_row_once_but_for_less_than_a_batch(
    lengths, batch_size, num_buckets, shuffle, seed, epoch
):
    plan = make_plan(lengths, batch_size, num_buckets, shuffle, seed)
    rows, _ = plan.epoch(epoch)
    assert rows.shape == (plan.steps_per_epoch, batch_size)
    assert len(lengths) - rows.size < batch_size
    assert len(set(rows.ravel().tolist())) == rows.size
    assert set(rows.ravel().tolist()) <= set(range(len(lengths)))


@given(lengths_of_rows, batch_sizes, st.integers(1, 4), st.booleans(), seeds)
def test_without_dropping_every_row_is_there_and_the_last_batch_filled(
    lengths, batch_size, num_buckets, shuffle, seed
):
    rows, _ = make_plan(lengths, batch_size, num_buckets, shuffle, seed).epoch(0, False)
    assert rows.shape == (-(-len(lengths) // batch_size), batch_size)
    assert sorted(rows[rows >= 0].tolist()) == list(range(len(lengths)))
    assert set(rows[rows < 0].tolist()) <= {-1}
    assert (rows < 0).any(axis=1).sum() <= 1


@given(lengths_of_rows, batch_sizes, st.integers(1, 4), st.booleans(), st.booleans())
def test_every_row_fits_the_length_of_its_batch_which_is_one_of_few(
    lengths, batch_size, num_buckets, shuffle, drop_remainder
):
    plan = make_plan(lengths, batch_size, num_buckets, shuffle)
    rows, batch_lengths = plan.epoch(0, drop_remainder)
    assert set(batch_lengths.tolist()) <= set(plan.bucket_lengths.tolist())
    for batch, length in zip(rows, batch_lengths, strict=True):
        assert max(lengths[row] for row in batch if row >= 0) <= length


@given(lengths_of_rows, batch_sizes, seeds, st.integers(0, 9))
def test_seed_and_epoch_decide_the_batches(lengths, batch_size, seed, epoch):
    plan, again = (make_plan(lengths, batch_size, seed=seed) for _ in range(2))
    plan.epoch(epoch + 1)  # leaves no trace
    assert_equal(plan.epoch(epoch), again.epoch(epoch))


def test_another_epoch_and_another_seed_give_another_order():
    lengths = [3 + row % 7 for row in range(101)]
    orders = [make_plan(lengths, 5, seed=seed).epoch(n)[0] for seed in (5, 6) for n in (0, 1)]
    for one, other in itertools.combinations(orders, 2):
        assert (one != other).mean() > 0.9


def test_the_order_is_a_permutation_without_preference():
    # 1000 epochs of 5 rows in batches of 1: each row comes first about 200 times, and the standard
    # deviation of that count is sqrt(1000 * 0.2 * 0.8) = 12.6.
    plan = EpochPlan(np.full(5, 3), 1, [3], shuffle=True, seed=1)
    first = np.bincount([plan.epoch(n)[0][0, 0] for n in range(1000)], minlength=5)
    assert abs(first - 200).max() < 5 * 12.6


def test_short_and_long_batches_come_mixed():
    lengths = np.repeat([4, 40], 500)
    _, batch_lengths = make_plan(lengths, 10, num_buckets=2).epoch(0)
    assert 30 < (batch_lengths[:50] == 4).sum() * 2 < 70  # 50 if perfectly even


def test_batches_of_a_fixed_seed_stay_as_they_are():
    # A checkpoint's position means nothing once another release of this file, or of NumPy, puts
    # other rows there. Written by this file with NumPy 2.4.
    rows, lengths = make_plan([3, 9, 4, 4, 8, 3, 5], 2, num_buckets=2, seed=11).epoch(3)
    assert rows.tolist() == [[1, 6], [5, 3], [0, 2]]
    assert lengths.tolist() == [9, 4, 4]


@given(lengths_of_rows, batch_sizes)
def test_without_shuffling_rows_stand_in_order_within_their_bucket(lengths, batch_size):
    one_bucket = make_plan(lengths, batch_size, num_buckets=1, shuffle=False).epoch(0, False)[0]
    assert one_bucket[one_bucket >= 0].tolist() == list(range(len(lengths)))

    plan = make_plan(lengths, batch_size, shuffle=False)
    rows, batch_lengths = plan.epoch(0, False)
    assert (np.diff(batch_lengths) >= 0).all()
    for length, shorter in zip(plan.bucket_lengths, [0, *plan.bucket_lengths], strict=False):
        own = [r for r in rows[batch_lengths == length].ravel() if r >= 0 and lengths[r] > shorter]
        assert own == sorted(own)


# ---- Steps ---------------------------------------------------------------------------------------


@given(lengths_of_rows, st.data())
def test_steps_can_be_cut_anywhere(lengths, data):
    plan = make_plan(lengths, data.draw(st.integers(1, min(11, len(lengths)))))
    first, middle, last = sorted(data.draw(st.tuples(*[st.integers(0, 60)] * 3)))
    whole = plan.steps(first, last)
    parts = zip(plan.steps(first, middle), plan.steps(middle, last), strict=True)
    assert len(whole[0]) == len(whole[1]) == last - first
    assert_equal(whole, [np.concatenate(part) for part in parts])


def test_steps_go_on_from_epoch_to_epoch():
    plan = make_plan(list(range(3, 20)), 5)  # 17 rows: 3 steps an epoch
    epochs = [plan.epoch(n) for n in range(3)]
    expected = [np.concatenate(part)[2:8] for part in zip(*epochs, strict=True)]
    assert_equal(plan.steps(2, 8), expected)


@pytest.mark.parametrize("step", [0, 3, 10**6])
def test_no_steps_are_no_batches(step):
    rows, lengths = make_plan([3, 4, 5], 2).steps(step, step)
    assert rows.shape == (0, 2)
    assert lengths.shape == (0,)


# ---- Batches of about the same number of tokens --------------------------------------------------


@given(st.lists(st.integers(1, 40), min_size=12, max_size=150), st.integers(1, 12))
def test_a_balanced_batch_has_a_row_of_every_stratum(row_lengths, batch_size):
    row_lengths = np.array(row_lengths)
    rows, _ = BalancedPlan(row_lengths, batch_size, seed=3).epoch(2)
    assert rows.shape == (len(row_lengths) // batch_size, batch_size)
    assert len(set(rows.ravel())) == rows.size
    lengths = np.sort(row_lengths[rows], axis=1)
    strata = np.sort(lengths.ravel()).reshape(batch_size, -1)  # of the rows that are not left out
    assert (lengths >= strata[:, 0]).all() and (lengths <= strata[:, -1]).all()


def test_balanced_batches_differ_by_a_few_tokens_where_random_ones_do_by_hundreds():
    row_lengths = np.minimum(np.random.default_rng(0).geometric(0.1, 6400) + 2, 66)
    balanced, _ = BalancedPlan(row_lengths, 32, seed=3).epoch(0)
    random, _ = EpochPlan(row_lengths, 32, [66], shuffle=True, seed=3).epoch(0)
    tokens, of_random = (row_lengths[rows].sum(axis=1) for rows in (balanced, random))
    assert np.ptp(tokens) < 10 and tokens.std() < 2 and np.ptp(of_random) > 200


def test_every_row_stands_in_every_balanced_batch_without_preference():
    # 1000 epochs of 12 rows in batches of 3: each row is in the first batch about 250 times, and
    # the standard deviation of that count is sqrt(1000 * 0.25 * 0.75) = 13.7.
    plan = BalancedPlan(np.arange(3, 15), 3, seed=1)
    first = np.bincount(np.ravel([plan.epoch(n)[0][0] for n in range(1000)]), minlength=12)
    assert abs(first - 250).max() < 5 * 13.7


def test_rows_that_are_equally_long_meet_in_balanced_batches_by_chance():
    # Of 8 rows of one length in batches of 2, row 0 meets each other one in 1 of 7 epochs: 143 of
    # 1000, with a standard deviation of sqrt(1000 * 6 / 49) = 11.1.
    plan = BalancedPlan(np.full(8, 5), 2, seed=1)
    batches = [rows for n in range(1000) for rows in plan.epoch(n)[0].tolist() if 0 in rows]
    met = np.bincount([max(rows) for rows in batches], minlength=8)[1:]
    assert abs(met - 1000 / 7).max() < 5 * 11.1


def test_balanced_batches_of_a_fixed_seed_stay_as_they_are():
    plan = BalancedPlan(np.array([3, 9, 4, 4, 8, 3, 5]), 2, seed=11)
    # The longest of one stratum, 9, with the shortest of the other, 3; row 2 is left out.
    assert plan.epoch(3)[0].tolist() == [[4, 0], [6, 3], [1, 5]]
