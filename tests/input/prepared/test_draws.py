# SPDX-License-Identifier: Apache-2.0
"""input/prepared/draws.py: numbers and orders that are functions of a key."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from input.prepared.draws import Draws, Permutation


def test_bits_are_those_of_the_published_generator():
    # The first outputs of SplitMix64 for seed 1234567, as Rosetta Code lists them.
    draws = Draws()
    draws.state = 1234567
    assert [draws.bits() for _ in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_draws_follow_from_the_whole_key():
    keys = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (2**63, 5)]
    numbers = [Draws(*key).bits() for key in keys]
    assert len(set(numbers)) == len(keys)
    assert numbers == [Draws(*key).bits() for key in keys]


def test_numbers_chances_and_coins_are_fair():
    draws, number = Draws(7), 20_000
    counts = np.bincount([draws.below(5) for _ in range(number)], minlength=5)
    # Five standard deviations of a binomial count: sqrt(20,000 * 0.2 * 0.8) = 57.
    assert len(counts) == 5 and abs(counts - number / 5).max() < 5 * 57
    assert abs(sum(draws.chance(0.1) for _ in range(number)) - number / 10) < 5 * 43
    assert abs(draws.heads(number) - number / 2) < 5 * 71
    assert draws.heads(0) == 0 and 0 <= draws.heads(1) <= 1
    assert not draws.chance(0) and draws.chance(1)


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 3000), seed=st.integers(0, 2**32), epoch=st.integers(0, 10**6))
def test_a_permutation_has_every_number_once(size, seed, epoch):
    order = Permutation(size, seed, epoch)(np.arange(size))
    assert sorted(order.tolist()) == list(range(size))


def test_a_permutation_of_more_rows_than_memory_holds_is_computed_where_it_is_asked_for():
    size = 10**12 + 39
    order = Permutation(size, 5, 0)
    places = np.array([0, 1, size // 2, size - 1])
    numbers = order(places)
    assert len(set(numbers.tolist())) == 4 and numbers.min() >= 0 and numbers.max() < size
    np.testing.assert_array_equal(order(places[2:3]), numbers[2:3])


def test_orders_of_other_epochs_are_unlike():
    first, second = (Permutation(1000, 3, epoch)(np.arange(1000)) for epoch in (0, 1))
    # Of two random orders one place in 1,000 agrees: Poisson with mean 1.
    assert (first == second).sum() < 8 and (first == np.arange(1000)).sum() < 8
    # Neighbours are not neighbours any more: a third of 1,000 is the mean distance.
    assert 280 < abs(np.diff(first)).mean() < 390
