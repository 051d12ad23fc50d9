# SPDX-License-Identifier: Apache-2.0
"""The figures and the answers of question answering: of whole questions, from all their windows.

A row of the network is a question and a window of its text. NumPy alone.
"""

import json

import numpy as np

from common.metrics.row_metrics import RowMetrics
from common.metrics.squad import QuestionScores, best_threshold, score, scores_v1

# Figures of SQuAD 2.0 as evaluate-v2.0 names them, and what this project calls them.
OF_BOTH = {"exact": "exact_match", "f1": "f1"}
OF_KINDS = tuple(f"{kind}_{name}" for kind in ("HasAns", "NoAns") for name in OF_BOTH)


class AnswerMetrics(RowMetrics):
    """Figures of outputs {"start_logits", "end_logits": <float32>[B, T]}, of a split's questions.

    Args:
        answer_all: callable (outputs, origins, rows) -> list of Answered, one a question.
        may_be_unanswerable: bool. There are questions without an answer, as in SQuAD 2.0.
        threshold: float, of null odds; above it a question is not answered.
    """

    main, main_mode = "eval/f1", "max"
    fits = "null_threshold"

    def __init__(self, answer_all, may_be_unanswerable=False, threshold=0.0):
        super().__init__()
        self.answer_all, self.threshold = answer_all, threshold
        self.may_be_unanswerable = may_be_unanswerable
        of_kinds = (*OF_KINDS, "best_f1", "best_f1_thresh") if may_be_unanswerable else ()
        self.names = ("loss", *(f"eval/{name}" for name in (*OF_BOTH.values(), *of_kinds)))
        self.names_of_splits = {"eval/f1": "f1", "eval/exact_match": "exact_match"}
        self._rows = self._logits = None  # WordRows; {row: <float32>[tokens, 2]}
        self._known = []  # (origins, answered) of every split

    def begin(self, batches):
        self._rows, self._logits = batches.word_rows, {}
        self._origins, self._targets = batches.origins, batches.targets

    def __len__(self):
        return sum(len(answered) for _, answered in self.known)

    def update(self, outputs, targets, rows):
        logits = np.stack([outputs["start_logits"], outputs["end_logits"]], axis=-1)
        counts = self._rows.num_tokens
        for place, row in enumerate(np.asarray(rows).tolist()):
            if row >= 0:
                self._logits[row] = logits[place, : counts[row]]
            else:  # so that a worker without rows has arrays to exchange
                self._logits.setdefault(-1, logits[place, :0])

    def exchange(self, gather):
        numbers = sorted(self._logits)
        joined = gather(np.concatenate([self._logits[number] for number in numbers]))
        numbers = gather(np.array(numbers, np.int64))
        counts = np.where(numbers >= 0, self._rows.num_tokens[numbers], 0)
        parts = np.split(joined, np.cumsum(counts)[:-1])
        self._logits = dict(zip(numbers.tolist(), parts, strict=True))

    def merge(self, other):
        super().merge(other)
        self._known += other.known

    def _joined(self):
        """Returns (numbers of rows, outputs, targets) of all splits."""
        if self._rows is not None:
            rows, self._rows = self._rows, None
            logits = np.concatenate([self._logits[n] for n in range(len(rows.windows))])
            outputs = {"start_logits": logits[:, 0], "end_logits": logits[:, 1]}
            outputs["num_tokens"] = rows.num_tokens
            origins = self._origins()
            self._splits.append((np.arange(len(rows.windows)), outputs, self._targets))
            self._known.append((origins, self.answer_all(outputs, origins, rows)))
        return super()._joined()

    @property
    def known(self):
        """[(Origins, list of Answered)] of every split."""
        if self._rows is not None:
            self._joined()
        return self._known

    def _golds_and_predictions(self, threshold=None):
        """Returns {id: right answers} and {id: answer}, with threshold None the best of each; and
        {id: null odds}. The questions are numbered over all splits."""
        golds, predictions, null_odds = {}, {}, {}
        for origins, answered in self.known:
            for right, each in zip(origins.answers, answered, strict=True):
                question = str(len(golds))
                chosen = each.best if threshold is None else each.chosen(threshold)
                golds[question] = right
                predictions[question] = "" if chosen is None else chosen.text
                null_odds[question] = each.null_odds
        return golds, predictions, null_odds

    def compute(self):
        golds, predictions, _ = self._golds_and_predictions(self.threshold)
        figures = {"loss": self._loss()}
        if not self.may_be_unanswerable:
            scores = scores_v1(golds, predictions)
            return figures | {f"eval/{name}": value for name, value in scores.items()}
        scores = QuestionScores.of(golds, predictions).figures()
        figures |= {f"eval/{ours}": scores[name] for name, ours in OF_BOTH.items()}
        figures |= {f"eval/{name}": scores.get(name, 0.0) for name in OF_KINDS}
        best, threshold = self._best_threshold()
        return figures | {"eval/best_f1": best, "eval/best_f1_thresh": threshold}

    def _best_threshold(self):
        """Returns the best F1, in percent, and its threshold of null odds."""
        golds, predictions, null_odds = self._golds_and_predictions()
        scores = QuestionScores.of(golds, predictions)
        return best_threshold(predictions, scores.f1, null_odds, scores.has_answer)

    def calibrate(self):
        """The threshold with the best F1."""
        before = self.compute()["eval/f1"]
        best, threshold = self._best_threshold()
        return {
            "null_threshold": threshold,
            "num_examples": len(self),
            "before": {"f1": before},
            "after": {"f1": best},
        }

    def _loss(self):
        """Returns the mean cross entropy of start and end over all rows."""
        ends = np.cumsum(self.outputs["num_tokens"])
        losses = []
        for side in ("start", "end"):
            logits = self.outputs[f"{side}_logits"].astype(np.float64)
            begins = ends - self.outputs["num_tokens"]
            most = np.maximum.reduceat(logits, begins)
            total = np.add.reduceat(np.exp(logits - np.repeat(most, ends - begins)), begins)
            right = logits[begins + self.targets[f"{side}_positions"]]
            losses.append(np.log(total) + most - right)
        return float(np.mean(losses))

    def records(self, model, origins):
        del model, origins
        return [record_of(each, self.threshold) for _, answered in self.known for each in answered]

    def truths(self, model, origins):
        records, mistakes = [], []
        for origins, answered in self.known:
            for n, each in enumerate(answered):
                right = None if origins.answers is None else origins.answers[n]
                record = record_of(each, self.threshold)
                chosen = each.chosen(self.threshold)  # which the figures score
                text = "" if chosen is None else chosen.text
                true = f1 = correct = ""
                if right is not None:
                    true = " | ".join(right)
                    exact, f1 = score(text, right or [""], self.may_be_unanswerable)
                    correct = "yes" if exact else "no"
                records.append({"answer_true": true, "f1": f1, "correct": correct})
                mistakes.append(record["score"] if correct == "no" else 0.0)
        return records, np.array(mistakes)

    def files(self, model, name, origins):
        ((origins, answered),) = self.known
        ids = origins.columns.get("question_id") or [str(n) for n in range(len(answered))]
        return files_of_answers(ids, answered, self.threshold)

    def report(self):
        figures = {name.removeprefix("eval/"): value for name, value in self.compute().items()}
        return {"num_examples": len(self), **figures, "threshold": self.threshold}


# ---- Answers -------------------------------------------------------------------------------------


def record_of(answered, threshold):
    """Returns {"answer": text, or "" where there is none, "score": probability among the
    candidates, "margin": of Answered, "start", "end": its characters in the text}."""
    chosen = answered.told(threshold)
    scores = dict(zip((c.text for c in answered.candidates), answered.probabilities, strict=True))
    text = "" if chosen is None else chosen.text
    span = (None, None) if chosen is None else chosen.span
    start, end = ("" if place is None else str(place) for place in span)
    score = scores.get(text, 0.0)
    return {"answer": text, "score": score, "margin": answered.margin, "start": start, "end": end}


def files_of_answers(ids, answered, threshold):
    """Returns {name: text} of Google's files: predictions.json, nbest_predictions.json and, where
    questions may be unanswerable, null_odds.json. ids: list of str."""
    chosen = [each.chosen(threshold) for each in answered]
    predictions = {n: "" if c is None else c.text for n, c in zip(ids, chosen, strict=True)}
    n_best = {
        number: [
            {
                "text": candidate.text,
                "probability": probability,
                "start_logit": candidate.start_logit,
                "end_logit": candidate.end_logit,
                "span": candidate.span,
            }
            for candidate, probability in zip(each.candidates, each.probabilities, strict=True)
        ]
        for number, each in zip(ids, answered, strict=True)
    }
    files = {"predictions.json": predictions, "nbest_predictions.json": n_best}
    if any(each.null_odds is not None for each in answered):
        files["null_odds.json"] = {n: e.null_odds for n, e in zip(ids, answered, strict=True)}
    return {
        name: json.dumps(content, indent=4, ensure_ascii=False) + "\n"
        for name, content in files.items()
    }
