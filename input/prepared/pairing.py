# SPDX-License-Identifier: Apache-2.0
"""Documents to the rows of pre-training: pairs for the next sentence, for the order, or windows.

A text of a row is always a run of tokens of one document, so a row is a few places in the tokens
of all: `Rows.spans`. What is drawn for a document is a function of (key, its number) alone.

The pairs are those of google-research/bert create_pretraining_data.py and google-research/albert,
but for two things. Each draws from one generator for the whole corpus, here each document has its
own; and the random second text comes from another document of the same shard.
"""

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np

from input.prepared.draws import Draws

LABELS = "next_sentence_labels"  # 1: the second text is random, or the two are swapped
MAX_TRIES = 10  # to draw another document, as google-research/bert


@dataclass(frozen=True)
class Rows:
    """The rows of some documents."""

    spans: np.ndarray  # int64 [N, K, 2]: where each text of a row begins and ends
    labels: np.ndarray | None  # int32 [N], of pairs
    num_cut: int  # tokens that rows lost so as not to be too long


def windows(documents, room, overlap=0, short_seq_prob=0.0, key=()):
    """Returns the Rows of one text each that cover every document from its beginning to its end.

    Args:
        documents: list of increasing ints each: where its sentences begin, and its end.
        room: int > overlap. Tokens of a window; the last of a document has what is left.
        overlap: int. Tokens of a window that the next one has, too.
        short_seq_prob: float. How often a window has a random number of tokens, from
            overlap + 2 to room.
        key: tuple of int, of the draws.
    """
    parts = [np.zeros((0, 2), np.int64)]
    for number, bounds in enumerate(documents):
        begin, end = bounds[0], bounds[-1]
        if not short_seq_prob:
            starts = np.arange(begin, max(end - overlap, begin + 1), room - overlap)
            parts.append(np.stack([starts, np.minimum(starts + room, end)], axis=1))
            continue
        draws, spans = Draws(*key, number), []
        while not spans or spans[-1][1] < end:
            length = room
            if draws.chance(short_seq_prob) and room > overlap + 2:
                length = overlap + 2 + draws.below(room - overlap - 1)
            spans.append((begin, min(begin + length, end)))
            begin += length - overlap
        parts.append(np.array(spans, np.int64))
    return Rows(np.concatenate(parts)[:, None], None, 0)


def next_sentences(documents, room, short_seq_prob=0.1, key=()):
    """Returns the Rows of pairs whose second text follows the first, or is random.

    Args:
        documents, key: as of `windows`.
        room: int. Tokens of both texts; longer pairs are cut.
        short_seq_prob: float. How often a document has shorter pairs, drawn from 2 to room.
    """
    return _pairs(documents, room, short_seq_prob, key, _is_next)


def sentence_orders(documents, room, short_seq_prob=0.1, key=()):
    """As `next_sentences`; the second text follows the first, or the two are swapped.

    Where there is only one sentence left, the second is random, as in google-research/albert.
    """
    return _pairs(documents, room, short_seq_prob, key, _is_swapped)


def _is_next(draws, count):
    """Returns whether the second text of a chunk of sentences is random, and whether swapped."""
    return count == 1 or draws.chance(0.5), False


def _is_swapped(draws, count):
    return count == 1, count > 1 and draws.chance(0.5)


def _pairs(documents, room, short_seq_prob, key, decide):
    rows, labels, num_cut = [], [], 0
    for number, bounds in enumerate(documents):
        draws = Draws(*key, number)
        target = room
        if draws.chance(short_seq_prob):
            target = 2 + draws.below(room - 1)
        first, end = 0, len(bounds) - 1
        while first < end:
            last = _until(bounds, first, target)
            count = last - first
            middle = first + 1 + (draws.below(count - 1) if count > 1 else 0)
            text = bounds[first], bounds[middle]
            is_random, is_swapped = decide(draws, count)
            if is_random:
                other = _other_document(documents, number, draws)
                start = draws.below(len(other) - 1)
                stop = _until(other, start, target - (text[1] - text[0]))
                second = other[start], other[stop]
                first = middle  # the sentences that were not used begin the next chunk
            else:
                second = bounds[middle], bounds[last]
                first = last
            pair = (second, text) if is_swapped else (text, second)
            cut = _cut(pair, room, draws)
            num_cut += sum(stop - start for start, stop in pair)
            num_cut -= sum(stop - start for start, stop in cut)
            rows.append(cut)
            labels.append(is_random or is_swapped)
    spans = np.array(rows, np.int64).reshape(-1, 2, 2)
    return Rows(spans, np.array(labels, np.int32), num_cut)


def _until(bounds, first, length):
    """Returns the end of the fewest sentences from `first` on, at least one, that have so many
    tokens; else the document's end."""
    return min(bisect_left(bounds, bounds[first] + length, first + 1), len(bounds) - 1)


def _other_document(documents, number, draws):
    """Draws another document; where there is no other, it is the same, as in google-research."""
    for _ in range(MAX_TRIES):
        other = draws.below(len(documents))
        if other != number:
            break
    return documents[other]


def _cut(pair, room, draws):
    """Cuts a pair of spans to `room` tokens: token after token, from the longer text, or else from
    the second, and each from its beginning or its end, as a coin falls."""
    (a_start, a_end), (b_start, b_end) = pair
    a, b = a_end - a_start, b_end - b_start
    if a + b <= room:
        return pair
    # As `epoch_plan.truncated_lengths`, of one row.
    a_cut = a - min(a, max((room + 1) // 2, room - b))
    b_cut = b - min(b, max(room // 2, room - a))
    a_front, b_front = draws.heads(a_cut), draws.heads(b_cut)
    return (
        (a_start + a_front, a_end - (a_cut - a_front)),
        (b_start + b_front, b_end - (b_cut - b_front)),
    )
