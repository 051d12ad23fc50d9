# SPDX-License-Identifier: Apache-2.0
"""The figures of answers to questions, as the official scorers of SQuAD 1.1 and 2.0 give them.

Rajpurkar et al. 2016 and 2018: evaluate-v1.1.py and evaluate-v2.0.py. Plain Python. The two differ:

    question without a prediction   1.1 counts it as wrong; 2.0 stops, and here leaves it out, which
                                    `missing` tells
    both texts normalise to nothing F1 is 0 in 1.1, 1 in 2.0 (exact match is 1 in both)
"""

import collections
import re
import string
from dataclasses import dataclass

PUNCTUATION = frozenset(string.punctuation)  # ASCII alone
ARTICLES = re.compile(r"\b(a|an|the)\b")
ALL, HAS_ANSWER, NO_ANSWER = "", "HasAns_", "NoAns_"  # prefixes of the figures of 2.0


def normalized(text):
    """Lower case, without ASCII punctuation, articles, and with single blanks between words."""
    text = "".join(character for character in text.lower() if character not in PUNCTUATION)
    return " ".join(ARTICLES.sub(" ", text).split())


def exact_match(predicted, gold):
    """Whether two texts are the same once they are normalised."""
    return normalized(predicted) == normalized(gold)


def f1(predicted, gold, of_nothing=0.0):
    """Returns the F1 of the words that two texts share, with repetitions.

    of_nothing: float, the F1 where both texts normalise to nothing.
    """
    predicted, gold = normalized(predicted).split(), normalized(gold).split()
    if not predicted and not gold:
        return of_nothing
    shared = sum((collections.Counter(predicted) & collections.Counter(gold)).values())
    if shared == 0:
        return 0.0
    # In the official order of operations: other orders differ in the last bit.
    precision, recall = shared / len(predicted), shared / len(gold)
    return 2 * precision * recall / (precision + recall)


def score(predicted, answers, may_be_unanswerable=False):
    """Returns exact match and F1 of a question, the best over its right answers: two floats.

    answers: list of str. may_be_unanswerable: bool. The rule of 2.0: an answer that normalises to
    nothing is no right answer, and without one nothing is right.
    """
    of_nothing = 0.0
    if may_be_unanswerable:
        answers, of_nothing = [gold for gold in answers if normalized(gold)] or [""], 1.0
    exact = max(float(exact_match(predicted, gold)) for gold in answers)
    return exact, max(f1(predicted, gold, of_nothing) for gold in answers)


def scores_v1(golds, predictions):
    """Returns {"exact_match": percent, "f1": percent} of evaluate-v1.1.

    golds: {id: list of str, the right answers}. predictions: {id: str}; further ids are ignored.
    """
    exact, overlap = 0.0, 0.0
    for question, answers in golds.items():
        if question in predictions:
            of_question = score(predictions[question], answers)
            exact, overlap = exact + of_question[0], overlap + of_question[1]
    return {
        "exact_match": 100.0 * exact / len(golds) if golds else 0.0,
        "f1": 100.0 * overlap / len(golds) if golds else 0.0,
    }


@dataclass(frozen=True)
class QuestionScores:
    """Scores of single questions by evaluate-v2.0, before any threshold.

    Attributes:
        exact, f1: {id: float}, of the answered questions, in the order of the data.
        has_answer: {id: bool} of every question.
        missing: number of questions without a prediction, which no figure counts.
    """

    exact: dict[str, float]
    f1: dict[str, float]
    has_answer: dict[str, bool]
    missing: int

    @classmethod
    def of(cls, golds, predictions):
        """golds, predictions: as of `scores_v1`, with no right answers where there is none."""
        exact, overlap = {}, {}
        for question, answers in golds.items():
            if question in predictions:
                exact[question], overlap[question] = score(predictions[question], answers, True)
        has_answer = {question: bool(answers) for question, answers in golds.items()}
        return cls(exact, overlap, has_answer, len(golds) - len(exact))

    def at(self, no_answer, threshold):
        """Returns the scores where a question is not answered if its no_answer score is greater.

        no_answer: {id: float}, how likely it is that there is no answer.
        """
        changed = [
            {
                question: float(not self.has_answer[question])
                if no_answer[question] > threshold
                else score
                for question, score in scores.items()
            }
            for scores in (self.exact, self.f1)
        ]
        return QuestionScores(*changed, self.has_answer, self.missing)

    def figures(self):
        """Returns {name: percent or number of questions}, with HasAns_ and NoAns_ of each kind."""
        figures = {}
        for prefix, wanted in ((ALL, None), (HAS_ANSWER, True), (NO_ANSWER, False)):
            questions = [
                question
                for question in self.exact
                if wanted is None or self.has_answer[question] is wanted
            ]
            if questions or wanted is None:
                total = len(questions)
                for name, scores in (("exact", self.exact), ("f1", self.f1)):
                    total_score = sum(scores[question] for question in questions)
                    figures[f"{prefix}{name}"] = 100.0 * total_score / max(total, 1)
                figures[f"{prefix}total"] = total
        return figures


def best_threshold(predictions, scores, no_answer, has_answer):
    """Returns the best share, in percent, and the threshold that gives it.

    One sweep over the questions, the most answerable first, from "none is answered". As in the
    official program, a change counts only where it is better, equal scores are taken one by one,
    and any text for an unanswerable question is wrong.

    Args:
        predictions: {id: str}, answers without a threshold.
        scores: {id: float}, exact or F1 of each, before a threshold.
        no_answer: {id: float}.
        has_answer: {id: bool}.
    """
    current = best = sum(1 for question in scores if not has_answer[question])
    threshold = 0.0
    for question in sorted(no_answer, key=no_answer.get):
        if question not in scores:
            continue
        if has_answer[question]:
            current += scores[question]
        elif predictions[question]:
            current -= 1
        if current > best:
            best, threshold = current, no_answer[question]
    return 100.0 * best / max(len(scores), 1), threshold


def scores_v2(golds, predictions, no_answer=None, threshold=1.0):
    """Returns the figures of evaluate-v2.0: {name: percent, number or threshold}.

    golds, predictions: as of `scores_v1`; unanswerable questions have no right answer.
    no_answer: {id: float} or None: none of the questions is left unanswered by a threshold, and
    there is no best one.
    """
    scores = QuestionScores.of(golds, predictions)
    if no_answer is None:
        return scores.figures()
    figures = scores.at(no_answer, threshold).figures()
    for name, of_question in (("exact", scores.exact), ("f1", scores.f1)):
        best = best_threshold(predictions, of_question, no_answer, scores.has_answer)
        figures[f"best_{name}"], figures[f"best_{name}_thresh"] = best
    return figures
