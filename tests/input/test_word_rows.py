# SPDX-License-Identifier: Apache-2.0
"""input/word_rows.py: words in windows, against plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from input.token_cache import Tokens
from input.word_rows import Words, rows_of_words

texts = st.lists(st.lists(st.integers(0, 4), max_size=12), min_size=1, max_size=4)


def tokens_of(pieces):
    """Tokens of texts, from the number of tokens of each word; ids and labels count up."""
    num_pieces = np.array([n for text in pieces for n in text], np.int32)
    lengths = [sum(text) for text in pieces]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    word_offsets = np.concatenate([[0], np.cumsum([len(text) for text in pieces])])
    labels = np.arange(len(num_pieces), dtype=np.int32)
    words = Words(word_offsets.astype(np.int64), num_pieces, labels)
    return Tokens(np.arange(offsets[-1], dtype=np.int32), offsets, {}, 1, words=words)


@given(texts, st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_every_word_has_its_label_once_in_the_row_of_most_context(pieces, room, stride, in_all):
    tokens = tokens_of(pieces)
    rows, word_rows = rows_of_words(tokens, room, stride, 1, labels_all_pieces=in_all)
    labels = rows.token_targets["labels"]
    assert (rows.lengths <= room).all()
    token = 0
    for word, count in enumerate(tokens.words.num_pieces.tolist()):
        places = np.flatnonzero(labels == word)
        if count == 0:
            assert not len(places)
            continue
        # The first token of the word has the label, in the window farthest from both edges.
        assert rows.ids[places[0]] == token
        ends = rows.offsets[1:]
        best = None
        for row in range(len(rows)):
            for place in range(rows.offsets[row], ends[row]):
                if rows.ids[place] == token:
                    context = min(place - rows.offsets[row], ends[row] - 1 - place)
                    score = context + 0.01 * (ends[row] - rows.offsets[row])
                    best = max(best or (-1, 0), (score, -row))
        row = int(np.searchsorted(ends, places[0], side="right"))
        assert -best[1] == row == word_rows.row_of_word[word]
        in_row = min(count, ends[row] - places[0])
        assert word_rows.pieces_in_row[word] == in_row
        assert places.tolist() == [places[0] + n for n in range(in_row if in_all else 1)]
        token += count


def test_windows_begin_with_words():
    # Words of 2, 3 and 2 tokens, rows of 4: the second row begins with the second word.
    rows, word_rows = rows_of_words(tokens_of([[2, 3, 2]]), 4, 3, 1)
    assert rows.ids.tolist() == [0, 1, 2, 3, 2, 3, 4, 5, 5, 6]
    # Token 2 has a neighbour to its right in the first row; token 5 none in the second, of 4.
    assert word_rows.row_of_word.tolist() == [0, 0, 1]
    assert word_rows.pieces_in_row.tolist() == [2, 2, 1]


def test_texts_are_taken_with_their_words():
    tokens = tokens_of([[1, 2], [], [3]])
    taken = tokens.take(np.array([2, 0]))
    assert taken.ids.tolist() == [3, 4, 5, 0, 1, 2]
    assert taken.words.num_pieces.tolist() == [3, 1, 2]
    assert taken.words.labels.tolist() == [2, 0, 1]
    taken.words.check(taken.lengths[:, 0])


def test_words_that_are_not_those_of_their_texts_are_refused():
    tokens = tokens_of([[1, 2], [3]])
    with pytest.raises(ValueError, match="words out of range"):
        tokens.words.check(np.array([3, 4]))
