# SPDX-License-Identifier: Apache-2.0
"""input/prepared/pairing.py: rows of documents, by hand and as the published programs make them."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from input.prepared.pairing import next_sentences, sentence_orders, windows
from tests.reference.google_pairing import pairs

LENGTHS = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=9), min_size=1, max_size=6)


def bounds_of(lengths):
    """Bounds of documents with sentences of these lengths; token n is n."""
    ends = np.cumsum([0, *(length for document in lengths for length in document)]).tolist()
    bounds, first = [], 0
    for document in lengths:
        bounds.append(ends[first : first + len(document) + 1])
        first += len(document)
    return bounds


def texts_of(rows):
    return [[list(range(*span)) for span in row] for row in rows.spans.tolist()]


def test_windows_by_hand():
    bounds = bounds_of([[3, 4], [2]])
    assert texts_of(windows(bounds, 3)) == [[[0, 1, 2]], [[3, 4, 5]], [[6]], [[7, 8]]]
    overlapping = [[[0, 1, 2]], [[2, 3, 4]], [[4, 5, 6]], [[7, 8]]]
    assert texts_of(windows(bounds, 3, overlap=1)) == overlapping
    assert windows(bounds, 3).labels is None


@settings(max_examples=100, deadline=None)
@given(lengths=LENGTHS, room=st.integers(3, 17), short=st.sampled_from([0.0, 0.5]))
def test_every_token_of_every_document_is_in_one_window(lengths, room, short):
    bounds = bounds_of(lengths)
    rows = windows(bounds, room, short_seq_prob=short, key=(1, 2))
    texts = [text for (text,) in texts_of(rows)]
    assert [token for text in texts for token in text] == list(range(bounds[-1][-1]))
    assert all(0 < len(text) <= room for text in texts)
    starts = {each[0] for each in bounds}
    assert starts <= {text[0] for text in texts}  # no window crosses documents


@settings(max_examples=100, deadline=None)
@given(lengths=LENGTHS, room=st.integers(4, 17), overlap=st.integers(0, 3))
def test_windows_share_only_the_overlap(lengths, room, overlap):
    bounds = bounds_of(lengths)
    spans = windows(bounds, room, overlap).spans[:, 0].tolist()
    for (_, end), (start, next_end) in itertools.pairwise(spans):
        is_same = not any(start == each[0] for each in bounds)
        assert start == (end - overlap if is_same else end) and next_end > end


@settings(max_examples=150, deadline=None)
@given(
    lengths=LENGTHS,
    room=st.integers(2, 25),
    short=st.sampled_from([0.0, 0.1, 1.0]),
    seed=st.integers(0, 1000),
    is_order=st.booleans(),
)
def test_pairs_are_those_of_the_published_programs(lengths, room, short, seed, is_order):
    bounds = bounds_of(lengths)
    documents = [[list(range(*span)) for span in itertools.pairwise(each)] for each in bounds]
    expected = pairs(documents, room, short, (seed, 3), is_order)
    rows = (sentence_orders if is_order else next_sentences)(bounds, room, short, (seed, 3))
    assert [[a, b] for a, b, _ in expected] == texts_of(rows)
    assert [label for *_, label in expected] == rows.labels.tolist()
    assert all(text for row in texts_of(rows) for text in row) or room < 2


@pytest.mark.parametrize("make", [next_sentences, sentence_orders])
def test_half_of_the_pairs_are_in_order(make):
    bounds = bounds_of([[5] * 200] * 80)
    rows = make(bounds, 40, 0.0, (4,))
    # Three standard deviations of the share of 2,000 pairs or more: 3 * sqrt(0.25 / 2000).
    assert abs(rows.labels.mean() - 0.5) < 0.034
    for (first, second), label in zip(texts_of(rows), rows.labels, strict=True):
        if make is next_sentences:
            assert label == 1 or second[0] - first[-1] == 1
        elif len(second) + len(first) > 5:
            assert label == (second[0] < first[0])


def test_rows_of_a_document_do_not_depend_on_those_before_it():
    few, many = bounds_of([[4] * 9, [3] * 9]), bounds_of([[7] * 30, [3] * 9])
    shift = 7 * 30 - 4 * 9
    last_of = [windows(each, 10, short_seq_prob=0.5, key=(1,)).spans for each in (few, many)]
    few_last = last_of[0][last_of[0][:, 0, 0] >= few[1][0]] + shift
    np.testing.assert_array_equal(few_last, last_of[1][last_of[1][:, 0, 0] >= many[1][0]])
