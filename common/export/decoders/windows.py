# SPDX-License-Identifier: Apache-2.0
"""Texts to rows of token ids: a text that is longer than a row becomes windows.

NumPy and the package tokenizers alone, as this file is put beside an export.
"""

import bisect
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.export.decoders.vocabulary import make_vocabulary, open_vocabulary

LENGTH_SHARE = 0.01  # of a window's length in its score, as in run_squad.py


@dataclass(frozen=True)
class Window:
    """Some tokens of a text, which are a row.

    Attributes:
        text: int, the number of the text.
        start, count: int, its first token in that text, and its tokens.
        first: int, where that token stands in the row.
    """

    text: int
    start: int
    count: int
    first: int


@dataclass(frozen=True)
class Rows:
    """What the network takes, and what is needed to read its outputs.

    Attributes:
        texts: list of str, or of (question, text).
        features: {"input_ids", "input_mask", "segment_ids": int32 [M, T]}.
        windows: list of M Window, text after text.
        words: for each text its words as (first character, the one after the last).
        pieces: for each text its tokens in the spelling of WordPiece, list of str; of questions
            alone.
        word_of_piece: for each text the number of the word that each token is from.
        tokens: list of M (ids, number of ids of the first segment), of which `features` is made.
    """

    texts: list
    features: dict
    windows: list
    words: list
    pieces: list
    word_of_piece: list
    tokens: list

    def windows_of(self, text):
        """Returns [(number of the row, Window)] of a text."""
        first, end = (bisect.bisect_left(self.windows, n, key=_text_of) for n in (text, text + 1))
        return list(enumerate(self.windows[first:end], first))


def _text_of(window):
    return window.text


def cut_windows(length, room, stride, begins=None):
    """Returns [(first token, tokens)] of the windows of a text; one that fits is the only one.

    length: int, tokens of the text. room: int, those of a window. stride: int, tokens from one
    begin to the next. begins: the tokens that a window may begin with, rising, or None: any.
    """
    windows, begin = [], 0
    while length - begin > room:
        windows.append((begin, room))
        after = begin + min(stride, room)
        if begins is not None:
            place = bisect.bisect_right(begins, after)
            if place and begins[place - 1] > begin:
                after = begins[place - 1]
        begin = after
    return [*windows, (begin, length - begin)]


def best_windows(windows):
    """Returns the number of the window in which each token of a text has the most context, list.

    windows: of `cut_windows`. The context is the lesser distance to an edge, plus a hundredth of
    the window's length; of equal ones the first window has the most.
    """
    length = sum(windows[-1])
    best, most = np.zeros(length, np.int64), np.full(length, -1.0)
    for number, (start, count) in enumerate(windows):
        tokens, place = slice(start, start + count), np.arange(count)
        context = np.minimum(place, count - 1 - place) + LENGTH_SHARE * count
        best[tokens][context > most[tokens]] = number
        most[tokens] = np.maximum(most[tokens], context)
    return best.tolist()


class Reader:
    """The settings and the vocabulary of an export, and rows of ids.

    folder: path-like, with decoder.json, and vocab.txt or tokenizer.json; in their place may be
    given settings, the content of the one, and vocab, as of `make_vocabulary`.
    """

    def __init__(self, folder=".", settings=None, vocab=None):
        if settings is None:
            settings = json.loads((Path(folder) / "decoder.json").read_text("utf-8"))
        self.settings = settings
        lower = settings["do_lower_case"]
        is_given = vocab is not None
        self.vocab = make_vocabulary(vocab, lower) if is_given else open_vocabulary(folder, lower)
        self.pad, self.cls, self.sep = self.vocab.pad_id, self.vocab.cls_id, self.vocab.sep_id

    def room(self, num_texts=1):
        """Returns how many tokens of texts a row may have, beside its special ones."""
        between = self.vocab.num_between * (num_texts - 1)
        num_special = (2 + between) * self.settings["add_special_tokens"]
        return self.settings["max_sequence_length"] - num_special

    def row(self, *texts):
        """Returns (ids of a row, number of ids of its first segment). texts: ids of one or two."""
        first, *others = texts
        if not self.settings["add_special_tokens"]:
            return [i for ids in texts for i in ids], len(first)
        row = [self.cls, *first, self.sep]
        if not others:
            return row, len(row)
        row += [self.sep] * (self.vocab.num_between - 1)
        return [*row, *others[0], self.sep], len(row)

    def features(self, rows):
        """Returns the features of rows. rows: list of (ids, number of ids of the first segment)."""
        longest = max(len(ids) for ids, _ in rows)
        shape = len(rows), longest
        input_ids = np.full(shape, self.pad, np.int32)
        is_token, segment_ids = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        for n, (ids, num_first) in enumerate(rows):
            input_ids[n, : len(ids)], is_token[n, : len(ids)] = ids, 1
            segment_ids[n, num_first : len(ids)] = 1
        mask = 1 - is_token if self.settings["input_mask_is_of_padding"] else is_token
        return {"input_ids": input_ids, "input_mask": mask, "segment_ids": segment_ids}
