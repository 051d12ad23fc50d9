# SPDX-License-Identifier: Apache-2.0
"""From logits of start and end to answers in words: google-research/bert run_squad.py,
`write_predictions`.

Plain Python. Of all windows of a text the best pairs of start and end are taken, projected from
tokens back to the words they come from, and ranked; the score of no answer is that of [CLS].
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

NOTHING = "empty"  # what run_squad.py answers where no pair is valid
CONTINUATION = "##"


@dataclass(frozen=True)
class Context:
    """A text in which answers are looked for.

    Attributes:
        text: str.
        words: int [W, 2], where each word stands in the text.
        pieces: list of T str, entries of the vocabulary.
        word_of_piece: int [T], the word that each piece is from.
    """

    text: str
    words: np.ndarray
    pieces: list[str]
    word_of_piece: np.ndarray


@dataclass(frozen=True)
class Scored:
    """The logits of one window.

    Attributes:
        start: int, its first token in the context.
        first: int, where that stands in the row.
        has_most_context: bool [tokens], for each of its tokens of the context whether no other
            window has more context for it.
        start_logits, end_logits: float [T], of all tokens of the row, [CLS] first.
    """

    start: int
    first: int
    has_most_context: np.ndarray
    start_logits: np.ndarray
    end_logits: np.ndarray

    @property
    def no_answer(self):
        return float(self.start_logits[0]) + float(self.end_logits[0])


@dataclass(frozen=True)
class Candidate:
    """An answer and its score."""

    text: str
    start_logit: float
    end_logit: float
    span: tuple[int, int] | None = None  # in the context's text; None: no answer

    @property
    def score(self):
        return self.start_logit + self.end_logit


@dataclass(frozen=True)
class Answered:
    """What is known of a question's answer."""

    candidates: tuple[Candidate, ...]  # the best first
    probabilities: tuple[float, ...]
    best: Candidate  # the first one that is an answer
    null_odds: float | None  # the score of no answer above that of the best; None: not asked for
    margin: float  # the score of the best above that of no answer, comparable between texts

    def chosen(self, threshold=0.0):
        """Returns the Candidate that is the answer, or None: there is none in the text."""
        is_null = self.null_odds is not None and self.null_odds > threshold
        return None if is_null else self.best

    def told(self, threshold=0.0):
        """Returns what people are told: `chosen`, but None where no token can be an answer."""
        chosen = self.chosen(threshold)
        return None if chosen is None or chosen.span is None else chosen


def answer(context, windows, normalize, n_best=20, max_tokens=30, may_be_unanswerable=False):
    """Returns Answered.

    Args:
        context: Context.
        windows: list of Scored, in the order of the text.
        normalize: callable on str: the words of a text as the tokenizer looks them up, joined by
            one blank.
        n_best: int > 0. Starts and ends that are tried in a window, and candidates that are kept.
        max_tokens: int > 0. Tokens of the longest answer.
        may_be_unanswerable: bool. Whether "no answer" is one, as in SQuAD 2.0.
    """
    pairs = [pair for window in windows for pair in _pairs(window, n_best, max_tokens)]
    null = min(windows, key=lambda window: window.no_answer)  # the first of equal ones
    null = Candidate("", float(null.start_logits[0]), float(null.end_logits[0]))
    if may_be_unanswerable:
        pairs.append((null.start_logit, null.end_logit, None))
    pairs.sort(key=lambda pair: pair[0] + pair[1], reverse=True)  # stable
    found = {}
    for start_logit, end_logit, tokens in pairs:
        if len(found) >= n_best:
            break
        text, span = ("", None) if tokens is None else text_of(context, *tokens, normalize)
        # The same text may come from several pairs, and an answer from no tokens.
        found.setdefault(text, Candidate(text, start_logit, end_logit, span))
    candidates = list(found.values())
    if may_be_unanswerable and "" not in found:
        candidates.append(null)
    if not any(each.text for each in candidates):
        candidates.insert(0, Candidate(NOTHING, 0.0, 0.0))
    best = next(each for each in candidates if each.text)
    null_odds = null.score - best.start_logit - best.end_logit
    return Answered(
        tuple(candidates),
        softmax([candidate.score for candidate in candidates]),
        best,
        null_odds if may_be_unanswerable else None,
        -null_odds,
    )


def softmax(scores):
    """Returns the probabilities of scores: tuple of float."""
    most = max(scores)
    exponentials = [math.exp(score - most) for score in scores]
    total = sum(exponentials)
    return tuple(each / total for each in exponentials)


def _pairs(window, n_best, max_tokens):
    """Yields (logit of the start, of the end, (first token, last token)) of a window."""
    count = len(window.has_most_context)
    starts, ends = (
        [place - window.first for place in np.argsort(-logits, kind="stable")[:n_best].tolist()]
        for logits in (window.start_logits, window.end_logits)
    )
    ends = [end for end in ends if 0 <= end < count]
    for start in starts:
        if not (0 <= start < count and window.has_most_context[start]):
            continue
        for end in ends:
            if start <= end < start + max_tokens:
                yield (
                    float(window.start_logits[window.first + start]),
                    float(window.end_logits[window.first + end]),
                    (window.start + start, window.start + end),
                )


def text_of(context, first, last, normalize: Callable):
    """Returns the text of tokens of a context, in its own words, and where it stands there.

    first, last: int, tokens of the context.
    """
    pieces = " ".join(context.pieces[first : last + 1])
    pieces = pieces.replace(f" {CONTINUATION}", "").replace(CONTINUATION, "")
    words = context.words[context.word_of_piece[first] : context.word_of_piece[last] + 1].tolist()
    original = " ".join(context.text[a:b] for a, b in words)
    begin, end = project(" ".join(pieces.split()), original, normalize) or (0, len(original))
    places = [place for a, b in words for place in (*range(a, b), b)]  # b: of the blank
    return original[begin:end], (places[begin], places[end - 1] + 1)


def project(pieces, original, normalize):
    """Returns where the text of pieces stands among the words that it is part of, or None.

    Both texts are aligned without their blanks, as normalising keeps most characters; where it
    changes their number, nothing is known.

    pieces: str, normalised. original: str.
    """
    text = normalize(original)
    place = text.find(pieces)
    ours, theirs = ([n for n, c in enumerate(each) if c != " "] for each in (original, text))
    if place < 0 or len(ours) != len(theirs) or not pieces:
        return None
    number = {at: n for n, at in enumerate(theirs)}
    first, last = number.get(place), number.get(place + len(pieces) - 1)
    return None if first is None or last is None else (ours[first], ours[last] + 1)
