# SPDX-License-Identifier: Apache-2.0
"""The figures of a multi-label classifier, in float64, from the logits of every row of a split.

NumPy alone, as `classification.py`.
"""

from typing import ClassVar

import numpy as np

from common.console import counted
from common.errors import UserError
from common.metrics.classification import precision_recall_f1, ratio
from common.metrics.probabilities import binary_cross_entropy, sigmoid
from common.metrics.row_metrics import RowMetrics

HALF = 0.5  # the threshold of a label that none was fitted for


def count_labels(predicted, labels):
    """Returns how often each label is right, predicted and true: int [C] each.

    predicted, labels: bool [N, C].
    """
    return (predicted & labels).sum(axis=0), predicted.sum(axis=0), labels.sum(axis=0)


def multi_label_metrics(logits, labels, thresholds):
    """Returns the figures of every row given.

    Args:
        logits: float [N, C].
        labels: [N, C], 1 for each label of a row and else 0.
        thresholds: float [C]. A label is predicted from this probability on.
    Returns:
        {"loss": mean binary cross entropy over rows and labels, "eval/micro_f1": F1 of all
        decisions together, "eval/macro_f1": mean of the labels' F1, 0 for one that is neither
        there nor predicted, "eval/exact_match": share of rows with every label right}.
    Raises:
        UserError: a split without rows, or a row without labels.
    """
    if len(labels) == 0:
        raise UserError("there are no rows to score: the split is empty")
    if (labels < 0).any():
        row = int((labels < 0).any(axis=1).argmax())
        raise UserError(f"row {row} has no labels; metrics need a split whose labels are published")
    predicted, labels = sigmoid(logits) >= np.asarray(thresholds), labels > HALF
    counts = count_labels(predicted, labels)
    return {
        "loss": float(binary_cross_entropy(logits, labels).mean()),
        "eval/micro_f1": float(precision_recall_f1(*(count.sum() for count in counts))["f1"]),
        "eval/macro_f1": float(precision_recall_f1(*counts)["f1"].mean()),
        "eval/exact_match": float((predicted == labels).all(axis=1).mean()),
    }


def multi_label_report(logits, labels, label_names, thresholds):
    """Returns the figures of a split in plain Python values that JSON can hold.

    Returns:
        {"num_examples": N, "loss", "micro_f1", "macro_f1", "exact_match", "per_class": a list of
        {"label", "precision", "recall", "f1", "support": its rows, "threshold"}}.
    """
    metrics = multi_label_metrics(logits, labels, thresholds)
    counts = count_labels(sigmoid(logits) >= np.asarray(thresholds), labels > HALF)
    columns = precision_recall_f1(*counts) | {"support": counts[-1]}
    columns["threshold"] = np.asarray(thresholds)
    return {
        "num_examples": len(labels),
        **{name.removeprefix("eval/"): value for name, value in metrics.items()},
        "per_class": [
            {"label": name, **{column: values[i].item() for column, values in columns.items()}}
            for i, name in enumerate(label_names)
        ],
    }


def best_threshold(probabilities, labels):
    """Returns the threshold with the largest F1 of one label, float in [0, 1].

    0.5 where none is better, or no row has the label; else one halfway between two neighbouring
    probabilities, of several the nearest to 0.5. Lipton et al. 2014 (arXiv:1402.1892).

    probabilities: float [N]; labels: bool [N].
    """
    if not labels.any():
        return HALF
    order = np.argsort(-probabilities, kind="stable")
    ranked, hits = probabilities[order], np.cumsum(labels[order])
    ends = np.append(ranked[:-1] > ranked[1:], True)  # rows of one probability go together
    predicted = np.arange(1, len(ranked) + 1)
    f1 = ratio(2 * hits, predicted + labels.sum())[ends]
    at_half = probabilities >= HALF
    if ratio(2 * (at_half & labels).sum(), at_half.sum() + labels.sum()) >= f1.max():
        return HALF
    thresholds = ((ranked + np.append(ranked[1:], 0.0)) / 2)[ends]
    best = thresholds[f1 == f1.max()]
    return float(best[np.abs(best - HALF).argmin()])


class MultiLabelMetrics(RowMetrics):
    """Metrics of outputs {"logits": float [N, C]} and targets {"labels": float [N, C]}.

    Args:
        label_names: C str, of the report; may be empty where none is asked for.
        thresholds: C floats.
    """

    names = ("loss", "eval/micro_f1", "eval/macro_f1", "eval/exact_match")
    main, main_mode = "eval/micro_f1", "max"
    names_of_splits: ClassVar = {"eval/micro_f1": "micro_f1"}
    fits = "thresholds"

    def __init__(self, label_names, thresholds):
        super().__init__()
        self.label_names, self.thresholds = label_names, thresholds

    def compute(self):
        return multi_label_metrics(self.logits, self.labels, self.thresholds)

    def report(self):
        return multi_label_report(self.logits, self.labels, self.label_names, self.thresholds)

    def calibrate(self):
        """Fits the threshold of each label for itself, see `best_threshold`."""
        probabilities, labels = sigmoid(self.logits), self.labels > HALF
        thresholds = list(map(best_threshold, probabilities.T, labels.T))
        before, after = (
            multi_label_metrics(self.logits, self.labels, each)
            for each in ([HALF] * len(thresholds), thresholds)
        )
        figures = ("eval/micro_f1", "eval/macro_f1", "eval/exact_match")
        return {
            "thresholds": thresholds,
            "num_examples": len(self.labels),
            "before": {name.removeprefix("eval/"): before[name] for name in figures},
            "after": {name.removeprefix("eval/"): after[name] for name in figures},
        }

    def describe_difference(self, other):
        differing = (self._predicted != other._predicted).any(axis=1)
        number = int(differing.sum())
        verb = "has" if number == 1 else "have"
        return f"{number} of {counted(len(self), 'row')} {verb} other labels"

    @property
    def _predicted(self):
        return sigmoid(self.logits) >= np.asarray(self.thresholds)

    @property
    def logits(self):
        return self.outputs["logits"]

    @property
    def labels(self):
        return self.targets["labels"]


def compare_label_sets(outputs, targets, label_names, thresholds, separator):
    """Returns a record for each row: list of {"label_true": str, "hits", "missed", "extra": numbers
    of labels that are found, that are not, and that are wrong, "correct": "yes" or "no"}, all ""
    where no labels are known; and how far the worst wrong label's probability is from the truth,
    float64 [N]; 0 where all are right or none is known.

    targets: {"labels": float [N, C]}, below 0 where not known. Others: as below.
    """
    probabilities, labels = sigmoid(outputs["logits"]), np.asarray(targets["labels"])
    is_known = (labels >= 0).all(axis=1)
    is_true = labels > HALF
    is_wrong = (probabilities >= np.asarray(thresholds)) != is_true
    records = [
        {
            "label_true": separator.join(np.array(label_names)[true].tolist()),
            "hits": str((true & ~wrong).sum()),
            "missed": str((true & wrong).sum()),
            "extra": str((~true & wrong).sum()),
            "correct": "no" if wrong.any() else "yes",
        }
        if known
        else dict.fromkeys(("label_true", "hits", "missed", "extra", "correct"), "")
        for true, wrong, known in zip(is_true, is_wrong, is_known, strict=True)
    ]
    distances = np.where(is_wrong, np.abs(probabilities - labels), 0.0).max(axis=1)
    return records, np.where(is_known, distances, 0.0)


def multi_label_predictions(outputs, label_names, thresholds, separator):
    """Returns a record for each row: list of {"label": str, "p_<label>": float of each label}.

    outputs: {"logits": float [N, C]}; separator: str, between the labels of a row.
    """
    probabilities = sigmoid(outputs["logits"])
    columns = [f"p_{name}" for name in label_names]
    return [
        {
            "label": separator.join(np.array(label_names)[row >= np.asarray(thresholds)].tolist()),
            **dict(zip(columns, row.tolist(), strict=True)),
        }
        for row in probabilities
    ]
