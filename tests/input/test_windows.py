# SPDX-License-Identifier: Apache-2.0
"""input/windows.py, against run_squad.py's loops written out, and by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from input.windows import best_windows, cut_windows

sizes = st.lists(st.integers(0, 40), min_size=1, max_size=5)


def spans_of(length, room, stride):
    """The windows of run_squad.py: (start, count)."""
    spans, start = [], 0
    while True:
        count = min(length - start, room)
        spans.append((start, count))
        if start + count >= length:
            return spans
        start += min(count, stride)


def best_of(spans, token):
    """The window of a token by run_squad.py's rule."""
    best, best_score = None, None
    for n, (start, count) in enumerate(spans):
        if start <= token < start + count:
            score = min(token - start, start + count - 1 - token) + 0.01 * count
            if best_score is None or score > best_score:
                best, best_score = n, score
    return best


@given(sizes, st.integers(1, 12), st.integers(1, 15))
def test_windows_are_those_of_run_squad(lengths, room, stride):
    windows = cut_windows(lengths, room, stride)
    expected = [
        (n, *span) for n, length in enumerate(lengths) for span in spans_of(length, room, stride)
    ]
    found = zip(windows.text.tolist(), windows.start.tolist(), windows.count.tolist(), strict=True)
    assert list(found) == expected
    best = iter(best_windows(windows, lengths).tolist())
    first = 0
    for length in lengths:
        spans = spans_of(length, room, stride)
        for token in range(length):
            assert next(best) == first + best_of(spans, token)
        first += len(spans)


@given(sizes, st.integers(1, 12), st.integers(1, 15), st.randoms(use_true_random=False))
def test_every_token_is_in_a_window_wherever_windows_may_begin(lengths, room, stride, random):
    is_begin = np.array([random.random() < 0.4 for _ in range(sum(lengths))], bool)
    windows = cut_windows(lengths, room, stride, is_begin)
    offsets = np.cumsum(lengths) - lengths
    assert set(windows.places(offsets).tolist()) == set(range(sum(lengths)))
    assert (windows.count <= room).all()
    for text, start, before in zip(
        windows.text[1:], windows.start[1:], windows.start[:-1], strict=True
    ):
        if start:
            between = is_begin[offsets[text] + before + 1 : offsets[text] + before + stride + 1]
            step = min(stride, room)
            assert is_begin[offsets[text] + start] or not between[:step].any()


def test_windows_by_hand():
    # 7 tokens, room 4, stride 2, of which 0, 1, 3 and 5 begin words.
    is_begin = np.array([1, 1, 0, 1, 0, 1, 0], bool)
    windows = cut_windows([7], 4, 2, is_begin)
    assert windows.start.tolist() == [0, 1, 3]
    assert windows.count.tolist() == [4, 4, 4]
    # Token 2 has one neighbour to its right in window 0, one to its left in 1: the first wins.
    # Token 3 is at an edge of windows 0 and 2, token 4 at one of 1.
    assert best_windows(windows, [7]).tolist() == [0, 0, 0, 1, 2, 2, 2]


def test_rooms_may_differ_from_text_to_text():
    windows = cut_windows([5, 5], np.array([5, 2]), 2)
    assert windows.text.tolist() == [0, 1, 1, 1]
    assert windows.count.tolist() == [5, 2, 2, 1]


@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 3]])
def test_texts_without_tokens_have_one_empty_window(lengths):
    windows = cut_windows(lengths, 4, 2)
    assert windows.count.tolist() == lengths
    assert len(best_windows(windows, lengths)) == sum(lengths)
