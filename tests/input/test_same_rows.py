# SPDX-License-Identifier: Apache-2.0
"""input/same_rows.py: repetitions, contradictions and leaks are those counted by hand."""

from input.same_rows import Reference, compare
from tests.input.test_summary import tokens_of

LONG = list(range(4, 16))
NEAR = [*LONG[:-1], 40]  # the last of 12 tokens differs: 11 of 15 pairs are common, 0.733
NEARER = [*LONG, 41]  # one more: 12 of 15, 0.8; with NEAR 11 of 16


def compared(**splits):
    """splits: {name: (rows, labels)}."""
    tokens = {name: tokens_of(rows, [0] * len(rows)) for name, (rows, _) in splits.items()}
    return compare(tokens, {name: labels for name, (_, labels) in splits.items()})


def rows_of(twins):
    return [(each.first.row, each.second.row, each.has_same_label) for each in twins]


def test_repeated_and_contradicting_rows_of_a_split():
    rows = [([5],), (LONG,), ([5],), ([6],), ([5],), ([6],), (LONG,)]
    within, across = compared(train=(rows, ["x", "y", "x", "x", "y", "z", "y"]))
    found = within["train"]
    assert rows_of(found.repeated) == [(2, 0, True), (4, 0, False), (5, 3, False), (6, 1, True)]
    assert found.contradicting == [[0, 2, 4], [3, 5]]
    # Right at best: two of the three rows of 5, one of the two of 6, both of LONG.
    assert found.ceiling == (2 + 1 + 2) / 7
    assert found.near == [] and across == []


def test_texts_that_are_nearly_the_same_name_the_most_similar_earlier_one():
    rows = [([7],), (LONG,), (NEAR,), (NEARER,), (LONG,)]
    within, _ = compared(train=(rows, ["x", "x", "y", "x", "x"]))
    found = within["train"]
    assert [(*pair[:2], round(each.similarity, 3)) for each in found.near for pair in [each]] == [
        (Reference("train", 2), Reference("train", 1), 0.733),
        (Reference("train", 3), Reference("train", 1), 0.8),
    ]
    assert rows_of(found.conflicts) == [(2, 1, False)]


def test_rows_that_leak_into_another_split():
    train = [(LONG,), ([5],), ([5],)], ["x", "x", "y"]
    dev = [([5],), (NEAR,), (LONG,), ([9],), (NEAR,)], ["x", "x", "y", "x", "y"]
    within, (across,) = compared(train=train, dev=dev)
    assert (across.split, across.other) == ("dev", "train")
    assert rows_of(across.same) == [(0, 1, True), (2, 0, False)]
    assert rows_of(across.near) == [(1, 0, True), (4, 0, False)]
    assert {each.second.split for each in across.same + across.near} == {"train"}
    assert rows_of(within["dev"].repeated) == [(4, 1, False)]
    assert across.shared_texts == []


def test_every_split_is_compared_with_those_before_it():
    rows = [([5],)], ["x"]
    _, across = compared(train=rows, matched=rows, mismatched=rows)
    assert [(each.split, each.other, len(each.same)) for each in across] == [
        ("matched", "train", 1),
        ("mismatched", "train", 1),
        ("mismatched", "matched", 1),
    ]


def test_of_pairs_the_texts_that_stand_alone_in_the_other_split_are_counted():
    train = [([5], [6]), ([7], [8])], ["x", "x"]
    dev = [([5], [9]), ([5], [8]), ([5], [6]), ([1], [5])], ["x"] * 4
    _, (across,) = compared(train=train, dev=dev)
    assert across.shared_texts == [3, 2] and len(across.same) == 1
