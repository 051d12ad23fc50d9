# SPDX-License-Identifier: Apache-2.0
"""Where words stand in a text: the steps of `wordpiece.py` again, with places kept.

The graph tokenizer gives ids alone. What becomes of a text before it is cut into pieces is computed
here in NumPy from the same tables, with the source of each character. So words have places also
where texts change their length on the way: accents, control characters, characters that decompose.
"""

from dataclasses import dataclass

import numpy as np

from input.tokenizers.unicode_tables import (
    ALONE,
    CODE_POINT,
    COMBINING,
    COUNTS,
    MARK,
    PAGE_SIZE,
    character_tables,
)

SURROGATES, REPLACED = (0xD800, 0xE000), 0xFFFD  # lone ones are in no UTF-8


@dataclass(frozen=True)
class TextWords:
    """The words of a text, as WordPiece splits it: at blanks and around punctuation.

    Attributes:
        characters: <int32>[K], the code points of all words, cleaned, without accents and in lower
            case where the vocabulary is uncased.
        bounds: int64 [W + 1], the words' first characters among `characters`, and K.
        spans: int64 [W, 2], first place in the text and the one after the last.
    """

    characters: np.ndarray
    bounds: np.ndarray
    spans: np.ndarray

    def __len__(self):
        return len(self.spans)

    def strings(self):
        """Returns the words as they are looked up in the vocabulary: list of str."""
        text = self.characters.astype("<u4").tobytes().decode("utf-32-le")
        return [text[a:b] for a, b in zip(self.bounds[:-1], self.bounds[1:], strict=True)]


def split_text(text, do_lower):
    """Returns the TextWords of a text. do_lower: bool, as of WordPieceTokenizer."""
    code_points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.int64)
    is_lone = (code_points >= SURROGATES[0]) & (code_points < SURROGATES[1])
    code_points = np.where(is_lone, REPLACED, code_points)
    pages, records, pool = character_tables(do_lower)
    record = records[pages[code_points // PAGE_SIZE] * PAGE_SIZE + code_points % PAGE_SIZE]
    start, count = np.divmod(record, COUNTS)
    sources = np.repeat(np.arange(len(code_points)), count)
    within = np.arange(len(sources)) - np.repeat(np.cumsum(count) - count, count)
    characters = pool[np.repeat(start, count) + within] + code_points[sources]
    mark_ends = np.zeros(len(code_points) + 1, bool)  # places in the text just after a mark
    if do_lower:
        order = _canonical_order(characters // COMBINING)
        characters, sources = characters[order], sources[order]
        is_mark = (characters & MARK) != 0
        # Not of the marks of a character that decomposes: it stays in another form.
        mark_ends[np.setdiff1d(sources[is_mark], sources[~is_mark]) + 1] = True
        characters, sources = characters[~is_mark], sources[~is_mark]
    code_points, is_alone = characters & CODE_POINT, (characters & ALONE) != 0
    is_space = code_points == ord(" ")
    follows_end = np.append([True], (is_space | is_alone)[:-1])[: len(is_space)]
    starts_word = (~is_space & (is_alone | follows_end))[~is_space]
    code_points, sources = code_points[~is_space], sources[~is_space]
    first = np.flatnonzero(starts_word)
    bounds = np.append(first, len(code_points))
    # Characters that decompose, or are reordered, need not be in the order of the text.
    begins = np.minimum.reduceat(sources, first) if len(first) else first
    ends = np.maximum.reduceat(sources, first) + 1 if len(first) else first
    spans = np.stack([begins, _after_marks(ends, mark_ends)], axis=1)
    return TextWords(code_points.astype(np.int32), bounds, spans)


def _canonical_order(combining):
    """Returns the places of characters in Unicode's canonical order: int64 [K].

    combining: int [K], the class of each; runs of others than 0 are sorted, stably.
    """
    run = np.cumsum(combining == 0)
    return np.argsort(run * 256 + combining, kind="stable")


def _after_marks(ends, mark_ends):
    """Returns ends that include the marks which follow: an accent belongs to its letter."""
    place = np.arange(len(mark_ends))
    # The first place from each on that no mark ends: where a run of marks is over.
    stops = np.where(np.append(mark_ends[1:], False), len(mark_ends), place)
    return np.minimum.accumulate(stops[::-1])[::-1][ends] if len(ends) else ends
