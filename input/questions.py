# SPDX-License-Identifier: Apache-2.0
"""Questions and their texts as rows: google-research/bert run_squad.py's features.

A text is split into words at blanks, each word into tokens by itself; a question is cut, a text is
never: it becomes windows. An answer is the shortest run of tokens that are those of its text.
"""

from dataclasses import dataclass

import numpy as np

# What parts words there: these, but not U+00A0 and other blanks.
BLANKS = frozenset(" \t\r\n\u202f")


def split_at_blanks(text):
    """Returns where the words of a text stand, int64 [W, 2]: first character, the one after."""
    is_word = np.fromiter((character not in BLANKS for character in text), bool, len(text))
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_word, [False]])))
    return edges.reshape(-1, 2)


@dataclass(frozen=True)
class Answer:
    """An answer as it stands in the data."""

    text: str
    start: int  # its first character in the context


def words_of_answer(spans, answer):
    """Returns the first and the last word that an answer touches, or None where it has none.

    spans: int [W, 2], of `split_at_blanks`. A blank belongs to the word before it.
    """
    if not len(spans) or not answer.text:
        return None
    first, last = (
        int(np.searchsorted(spans[:, 0], place, side="right")) - 1
        for place in (answer.start, answer.start + len(answer.text) - 1)
    )
    return (first, last) if 0 <= first <= last else None


def is_in_words(context, spans, answer, words):
    """Whether the text of an answer is found in its words, but for blanks."""
    first, last = words
    joined = " ".join(context[a:b] for a, b in spans[first : last + 1].tolist())
    # Blanks of any kind: the words are parted at some of them alone.
    return " ".join(answer.text.split()) in " ".join(joined.split())


def tokens_of_answer(ids, num_pieces, words, answer_ids):
    """Returns the first and the last token of an answer in the tokens of its context.

    The leftmost of its words' tokens that are those of its text, as of the answer 1895 in the word
    "(1895-1943)"; all tokens of its words where the text is tokenised otherwise.

    Args:
        ids: int [T], tokens of the context.
        num_pieces: int [W], tokens of each word of it.
        words: of `words_of_answer`.
        answer_ids: int [A], tokens of the answer's text.
    """
    ends = np.cumsum(num_pieces)
    first, last = words
    start, end = int(ends[first] - num_pieces[first]), int(ends[last]) - 1
    wanted = np.asarray(answer_ids)
    for begin in range(start, end + 1):
        stop = begin + len(wanted) - 1
        if begin <= stop <= end and np.array_equal(ids[begin : stop + 1], wanted):
            return begin, stop
    return start, end
