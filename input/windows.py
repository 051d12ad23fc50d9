# SPDX-License-Identifier: Apache-2.0
"""Windows: a text longer than a row becomes several rows that overlap, so that nothing is cut.

As google-research/bert run_squad.py: a window begins `stride` tokens after the one before, and the
last one ends where the text ends. Each token is answered from the window in which it has the most
context: where it is farthest from an edge.
"""

from dataclasses import dataclass

import numpy as np

WINDOW_LENGTH_SHARE = 0.01  # of a window's length in its score, as in run_squad.py


@dataclass(frozen=True)
class Windows:
    """The windows of N texts, text after text.

    Attributes:
        text: int64 [M], the text of each window, not decreasing.
        start: int64 [M], its first token in that text.
        count: int64 [M], its tokens.
    """

    text: np.ndarray
    start: np.ndarray
    count: np.ndarray

    def __len__(self):
        return len(self.text)

    def places(self, offsets):
        """Returns where the tokens of all windows stand: int64 [sum of count].

        offsets: int [N], the first token of each text among all.
        """
        ends = np.cumsum(self.count)
        within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - self.count, self.count)
        return np.repeat(offsets[self.text] + self.start, self.count) + within


def cut_windows(lengths, room, stride, is_begin=None):
    """Returns the Windows of texts; one that fits, and an empty one, is its only window.

    Args:
        lengths: int [N], tokens of each text.
        room: int or int [N], above 0: tokens that a window may have.
        stride: int above 0. Tokens from the begin of a window to that of the next; a shorter
            window is followed directly, so that no token is left out.
        is_begin: bool [sum of lengths], where a window may begin, or None: at any token. The begin
            moves left to the nearest such token after the begin of the window before, if any.
    """
    lengths = np.asarray(lengths, np.int64)
    rooms = np.broadcast_to(np.asarray(room, np.int64), lengths.shape)
    offsets = np.cumsum(lengths) - lengths
    text, start = [np.arange(len(lengths))], [np.zeros(len(lengths), np.int64)]
    for n in np.flatnonzero(lengths > rooms).tolist():
        begin, step = 0, min(stride, int(rooms[n]))
        while begin + rooms[n] < lengths[n]:
            after = begin + step
            if is_begin is not None:
                allowed = np.flatnonzero(is_begin[offsets[n] + begin + 1 : offsets[n] + after + 1])
                after = begin + 1 + int(allowed[-1]) if len(allowed) else after
            begin = after
            text.append([n])
            start.append([begin])
    text, start = np.concatenate(text), np.concatenate(start)
    order = np.lexsort((start, text))
    text, start = text[order], start[order]
    return Windows(text, start, np.minimum(lengths[text] - start, rooms[text]))


def best_windows(windows, lengths):
    """Returns the window in which each token has the most context: int64 [sum of lengths].

    The score is the lesser of the tokens to its left and right, plus a hundredth of the window's
    length; of equal ones the first wins, as in run_squad.py.
    """
    lengths = np.asarray(lengths, np.int64)
    offsets = np.cumsum(lengths) - lengths
    best = np.zeros(int(lengths.sum()), np.int64)
    scores = np.full(len(best), -1.0)
    places = windows.places(offsets)
    ends, rank = np.cumsum(windows.count), _rank(windows.text)
    for n in range(int(rank.max(initial=-1)) + 1):
        # The n-th windows of all texts: no token is in two of them.
        chosen = np.flatnonzero(rank == n)
        of_token = np.repeat(chosen, windows.count[chosen])
        tokens = np.concatenate([np.arange(ends[w] - windows.count[w], ends[w]) for w in chosen])
        left = tokens - (ends - windows.count)[of_token]
        right = ends[of_token] - 1 - tokens
        score = np.minimum(left, right) + WINDOW_LENGTH_SHARE * windows.count[of_token]
        place = places[tokens]
        is_better = score > scores[place]
        scores[place[is_better]] = score[is_better]
        best[place[is_better]] = of_token[is_better]
    return best


def _rank(text):
    """Returns the number of each window among those of its text, from 0: int [M]."""
    first = np.searchsorted(text, text)
    return np.arange(len(text)) - first
