# SPDX-License-Identifier: Apache-2.0
"""input/near_duplicates.py: the pairs that comparing every row with every other one finds."""

import itertools

import numpy as np
import pytest

from input import near_duplicates
from input.near_duplicates import MIN_SIMILARITY, near_pairs


def arrays_of(rows):
    """ids and offsets of rows, each a tuple of lists of ids."""
    texts = [text for row in rows for text in row]
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.int64)
    return np.array(list(itertools.chain(*texts)), np.int32), offsets


def similarity(one, other):
    """Jaccard of the sets of neighbouring tokens, of the less similar texts."""

    def pairs(text):
        return set(itertools.pairwise([None, *text, None]))

    both = [(pairs(a), pairs(b)) for a, b in zip(one, other, strict=True)]
    return min(len(a & b) / len(a | b) for a, b in both)


@pytest.mark.parametrize("texts_per_row", [1, 2])
def test_the_pairs_are_those_of_comparing_all(texts_per_row):
    random = np.random.default_rng(3)
    rows = [
        tuple(random.integers(5, 50, random.integers(0, 30)).tolist() for _ in range(texts_per_row))
        for _ in range(61)
    ]
    for number, row in enumerate(rows[:53]):  # the same rows, a token of each text another one
        changed = [list(text) for text in row]
        for text in filter(None, changed):
            text[random.integers(len(text))] = 60 + number
        rows.append(tuple(changed))
    expected = {
        (a, b): of_both
        for a, b in itertools.combinations(range(len(rows)), 2)
        if (of_both := similarity(rows[a], rows[b])) >= MIN_SIMILARITY
    }
    pairs, similarities = near_pairs(*arrays_of(rows), texts_per_row)
    found = dict(zip(map(tuple, pairs.tolist()), similarities.tolist(), strict=True))
    assert found == pytest.approx(expected) and len(expected) > 15


def test_one_token_of_eleven_may_differ():
    # 12 pairs each; a changed token is in two of them: 10 / 14 = 0.714. Of ten tokens: 9 / 13.
    eleven, ten = list(range(5, 16)), list(range(5, 15))
    for tokens, is_near in ((eleven, True), (ten, False)):
        other = [*tokens[:4], 99, *tokens[5:]]
        pairs, _ = near_pairs(*arrays_of([(tokens,), (other,)]), 1)
        assert len(pairs) == is_near


def test_two_questions_on_one_passage_are_not_alike():
    passage = list(range(5, 90))
    rows = [([1, 2, 3], passage), ([4, 2, 6], passage), ([1, 2, 3], passage[:-1])]
    pairs, _ = near_pairs(*arrays_of(rows), 2)
    assert pairs.tolist() == [[0, 2]]


def test_rows_and_candidates_are_looked_at_in_parts(monkeypatch):
    rows = [([n, *range(1, 25)],) for n in range(30, 41)]
    expected = near_pairs(*arrays_of(rows), 1)
    monkeypatch.setattr(near_duplicates, "ROWS_AT_ONCE", 3)
    monkeypatch.setattr(near_duplicates, "CANDIDATES_AT_ONCE", 7)
    for part, whole in zip(near_pairs(*arrays_of(rows), 1), expected, strict=True):
        assert np.array_equal(part, whole)
    assert len(expected[0]) == 11 * 10 / 2


@pytest.mark.parametrize("rows", [[], [([],)], [([],), ([5],)]])
def test_rows_with_little_in_them_are_no_twins(rows):
    assert len(near_pairs(*arrays_of(rows), 1)[0]) == 0
