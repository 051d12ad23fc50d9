# SPDX-License-Identifier: Apache-2.0
"""Words in rows: which tokens a word has, and which row answers for it.

A task that answers for words reads texts that are split into words. A text that is longer than a
row becomes windows (`windows.py`), and each word is trained on, scored and predicted once: in the
window where its first token has the most context.
"""

import functools
from dataclasses import dataclass, replace

import numpy as np

from input.windows import Windows, best_windows, cut_windows


@dataclass(frozen=True)
class Words:
    """The words of N texts, text after text.

    Attributes:
        offsets: int64 [N + 1]. The words of text n begin at offsets[n] and end at the next.
        num_pieces: int32 [W], tokens of each word; 0 where it is tokenised to nothing.
        labels: int32 [W], -1 where none is known.
    """

    offsets: np.ndarray
    num_pieces: np.ndarray
    labels: np.ndarray

    @property
    def counts(self):
        """Words of each text, int64 [N]."""
        return np.diff(self.offsets)

    def take(self, texts):
        """Returns the Words of some texts, in the order given. texts: int [M]."""
        counts = self.counts[texts]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        places = np.repeat(self.offsets[texts] - offsets[:-1], counts) + np.arange(offsets[-1])
        return Words(offsets, self.num_pieces[places], self.labels[places])

    def check(self, lengths):
        """Raises ValueError where these are not words of texts. lengths: tokens of each, [N]."""
        pieces = np.concatenate([[0], np.cumsum(self.num_pieces)])
        is_whole = (
            (self.offsets.dtype, self.num_pieces.dtype, self.labels.dtype)
            == (np.int64, np.int32, np.int32)
            and len(self.offsets) == len(lengths) + 1
            and self.offsets[0] == 0
            and self.offsets[-1] == len(self.num_pieces) == len(self.labels)
            and (self.counts >= 0).all()
            and (self.num_pieces >= 0).all()
            and (np.diff(pieces[self.offsets]) == lengths).all()
        )
        if not is_whole:
            raise ValueError("it has words out of range")


@dataclass(frozen=True)
class WordRows:
    """Where the words of N texts stand in M rows.

    Attributes:
        windows: Windows, one for each row.
        words: Words.
        num_before: int, special tokens before the text of a row.
    """

    windows: Windows
    words: Words
    num_before: int

    def __len__(self):
        """The number of texts."""
        return len(self.words.offsets) - 1

    @functools.cached_property
    def first_tokens(self):
        """The first token of each word among those of all texts: int64 [W]."""
        return np.cumsum(self.words.num_pieces) - self.words.num_pieces

    @property
    def has_tokens(self):
        """bool [W]. Whether the word has a token."""
        return self.words.num_pieces > 0

    @functools.cached_property
    def row_of_word(self):
        """The row that answers for each word: int64 [W]; of a word without a token 0."""
        pieces = np.concatenate([[0], np.cumsum(self.words.num_pieces)])
        lengths = np.diff(pieces[self.words.offsets])
        best = best_windows(self.windows, lengths)
        return np.where(self.has_tokens, np.append(best, 0)[self.first_tokens], 0)

    @functools.cached_property
    def place_of_word(self):
        """Where each word's first token stands among the tokens of all rows, without special ones:
        int64 [W]; of a word without a token 0."""
        pieces = np.concatenate([[0], np.cumsum(self.words.num_pieces)])
        text = np.repeat(np.arange(len(self)), self.words.counts)
        within = self.first_tokens - pieces[self.words.offsets[text]]
        row = self.row_of_word
        begins = np.cumsum(self.windows.count) - self.windows.count
        place = (begins - self.windows.start)[row] + within if len(begins) else within
        return np.where(self.has_tokens, place, 0)

    @functools.cached_property
    def pieces_in_row(self):
        """How many of its tokens each word has in the row that answers for it: int64 [W]."""
        ends = np.cumsum(self.windows.count)
        room = ends[self.row_of_word] - self.place_of_word if len(ends) else 0
        return np.where(self.has_tokens, np.minimum(self.words.num_pieces, room), 0)


def rows_of_words(tokens, room, stride, num_before, labels_all_pieces=False):
    """Cuts texts of words into rows.

    Args:
        tokens: Tokens of texts with `words`.
        room: int, tokens of a text that a row may have.
        stride: int, as of `cut_windows`.
        num_before: int, special tokens before the text of a row.
        labels_all_pieces: bool. Every token of a word has its label, and not the first alone.
    Returns:
        Tokens of the rows, with the token target "labels", -1 where there is none; WordRows.
    """
    words, offsets = tokens.words, tokens.offsets[:-1]
    begins = np.zeros(len(tokens.ids) + 1, bool)
    begins[np.cumsum(words.num_pieces) - words.num_pieces] = True
    windows = cut_windows(tokens.lengths[:, 0], room, stride, begins[:-1])
    rows = WordRows(windows, words, num_before)
    labels = np.full(int(windows.count.sum()), -1, np.int32)
    count = rows.pieces_in_row if labels_all_pieces else np.minimum(rows.pieces_in_row, 1)
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    labels[np.repeat(rows.place_of_word, count) + within] = np.repeat(words.labels, count)
    ids = tokens.ids[windows.places(offsets)]
    ends = np.concatenate([[0], np.cumsum(windows.count)])
    return replace(
        tokens, ids=ids, offsets=ends, targets={}, words=None, token_targets={"labels": labels}
    ), rows
