# SPDX-License-Identifier: Apache-2.0
"""Rows that are the same, or nearly, within a split and across splits, and whether labels agree.

Rows are the same where their tokens are, as in `summary.py`; nearly as `near_duplicates.py` says.
"""

import itertools
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from input.near_duplicates import near_pairs
from input.summary import row_hashes, text_hashes


class Reference(NamedTuple):
    """A row: the name of its split, and its place among the rows that are used."""

    split: str
    row: int


class Twins(NamedTuple):
    """Two rows that are the same, or nearly."""

    first: Reference
    second: Reference
    similarity: float  # 1.0 where all tokens are the same
    has_same_label: bool


@dataclass(frozen=True)
class Within:
    """What the rows of a split have in common."""

    repeated: list[Twins]  # each row that is the same as an earlier one, with the first such
    near: list[Twins]  # each text that is nearly an earlier one, with the most similar one
    conflicts: list[Twins]  # all texts that are nearly the same and have different labels
    contradicting: list[list[int]]  # rows of each text with different labels, most rows first
    ceiling: float  # the largest accuracy that answers by the text alone can have on these rows


@dataclass(frozen=True)
class Across:
    """The rows of a split that stand in another one, too."""

    split: str
    other: str
    same: list[Twins]  # each such row, with the first of the other split
    near: list[Twins]  # a row that nearly stands there, with the most similar one
    shared_texts: list[int] = field(default_factory=list)  # of pairs: rows whose text k is there


def compare(splits, labels):
    """Compares the rows of splits.

    Args:
        splits: {name: Tokens}. labels: {name: list of str}, of each row.
    Returns:
        {name: Within}; list of Across, each split with those before it.
    """
    names = list(splits)
    hashes = np.concatenate([row_hashes(tokens) for tokens in splits.values()])
    sizes = [len(tokens) for tokens in splits.values()]
    of_split = np.repeat(np.arange(len(names)), sizes)
    begins = np.cumsum([0, *sizes])
    _, labeled = np.unique(list(itertools.chain(*labels.values())), return_inverse=True)
    _, first, text = np.unique(hashes, return_index=True, return_inverse=True)
    # Texts are numbered in the order in which they are first met.
    order = np.argsort(first, kind="stable")
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order))
    text, first = number[text], first[order]
    first_in = np.full((len(names), len(first)), -1, np.int64)  # the first row with a text
    for place in range(len(names)):
        rows = np.arange(begins[place], begins[place + 1])[::-1]
        first_in[place, text[rows]] = rows
    pairs, similarities = near_pairs(*_unique_texts(splits.values(), first, begins))

    def twins(rows, others, similarity=None):
        """rows, others: int [P], places among all rows."""
        similarity = np.ones(len(rows)) if similarity is None else similarity
        is_same = labeled[rows] == labeled[others]
        columns = rows, others, similarity, is_same
        return [
            Twins(reference(row), reference(other), of_both, same)
            for row, other, of_both, same in zip(*(c.tolist() for c in columns), strict=True)
        ]

    def reference(row):
        place = of_split[row]
        return Reference(names[place], int(row - begins[place]))

    within, across = {}, []
    for place, name in enumerate(names):
        rows = np.arange(begins[place], begins[place + 1])
        earlier = first_in[place, text[rows]]
        repeats = rows[earlier < rows]
        a, b = (first_in[place, column] for column in pairs.T)
        is_here = (a >= 0) & (b >= 0)
        a, b = np.minimum(a, b)[is_here], np.maximum(a, b)[is_here]
        of_both = similarities[is_here]
        ordered = np.lexsort((a, -of_both, b))  # of each text the most similar one first
        is_best = np.concatenate([[True], np.diff(b[ordered]) != 0])[: len(b)]
        best, differ = ordered[is_best], np.flatnonzero(labeled[a] != labeled[b])
        contradicting, ceiling = _contradictions(text[rows], labeled[rows])
        within[name] = Within(
            twins(repeats, first_in[place, text[repeats]]),
            twins(b[best], a[best], of_both[best]),
            twins(b[differ], a[differ], of_both[differ]),
            contradicting,
            ceiling,
        )
        for other in range(place):
            is_there = first_in[other, text[rows]] >= 0
            same = twins(rows[is_there], first_in[other, text[rows[is_there]]])
            best = _nearest(pairs, similarities, first_in[place] >= 0, first_in[other] >= 0)
            near = [row for row in rows[~is_there].tolist() if text[row] in best]
            found = [best[text[row]] for row in near]
            others = np.array([first_in[other, twin] for twin, _ in found], np.int64)
            near = twins(np.array(near, np.int64), others, np.array([s for _, s in found]))
            across.append(Across(name, names[other], same, near))
            if splits[name].texts_per_row == 2:
                shared = _shared_texts(splits[name], splits[names[other]])
                across[-1] = replace(across[-1], shared_texts=shared)
    return within, across


def _unique_texts(splits, first, begins):
    """Returns ids, offsets and texts_per_row of the rows `first`, which are in order."""
    taken = [
        tokens.take(first[(first >= begin) & (first < begin + len(tokens))] - begin)
        for tokens, begin in zip(splits, begins[:-1], strict=True)
    ]
    ids = np.concatenate([tokens.ids for tokens in taken])
    lengths = np.concatenate([np.diff(tokens.offsets) for tokens in taken])
    return ids, np.concatenate([[0], np.cumsum(lengths)]), taken[0].texts_per_row


def _contradictions(text, label):
    """Returns the rows of each text with different labels, and the largest accuracy that is
    possible. text, label: int [N]."""
    order = np.lexsort((label, text))
    text, label = text[order], label[order]
    is_new_text = np.concatenate([[True], text[1:] != text[:-1]])
    is_new = is_new_text | np.concatenate([[True], label[1:] != label[:-1]])
    starts = np.flatnonzero(is_new)
    counts = np.diff([*starts, len(text)])  # of each text and label
    group = np.cumsum(is_new_text)[starts] - 1
    most = np.zeros(group[-1] + 1, np.int64)
    np.maximum.at(most, group, counts)
    begins = np.flatnonzero(is_new_text)
    ends = np.append(begins[1:], len(text))
    several = np.flatnonzero(np.bincount(group) > 1)
    rows = [sorted(order[begins[g] : ends[g]].tolist()) for g in several.tolist()]
    return sorted(rows, key=lambda of_text: (-len(of_text), of_text)), most.sum() / len(text)


def _nearest(pairs, similarities, is_here, is_there):
    """Returns {text of this split: (the most similar text of the other one, similarity)}.

    pairs: int [P, 2]; similarities: [P]; is_here, is_there: bool [texts].
    """
    best = {}
    for one, other in (pairs.T, pairs.T[::-1]):
        for place in np.flatnonzero(is_here[one] & is_there[other]).tolist():
            text, similarity = int(one[place]), float(similarities[place])
            if text not in best or similarity > best[text][1]:
                best[text] = int(other[place]), similarity
    return best


def _shared_texts(tokens, others):
    """Returns how many rows have their first, and their second text in the other split."""
    here, there = text_hashes(tokens), text_hashes(others)
    return [sum(map(set(there[k::2]).__contains__, here[k::2])) for k in range(2)]
