# SPDX-License-Identifier: Apache-2.0
"""The figures of a classifier, in float64, from the logits of every row of a split.

NumPy alone: the environment of the CS system's SDK, which has no TensorFlow, uses them too.
"""

from typing import ClassVar

import numpy as np

from common.errors import UserError
from common.metrics.calibration import calibrate
from common.metrics.probabilities import cross_entropy, softmax
from common.metrics.row_metrics import RowMetrics


def confusion_matrix(predicted, labels, num_classes):
    """Returns counts, int64 [C, C]: rows are the true class, columns the predicted one.

    predicted, labels: int [N] in [0, C). Raises UserError for a label outside, as the rows of
    GLUE's hidden test splits have (-1).
    """
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        row = int(outside.argmax())
        raise UserError(
            f"label {int(labels[row])} in row {row} is outside [0, {num_classes}); metrics need "
            "a split whose labels are published"
        )
    cells = np.asarray(labels, np.int64) * num_classes + predicted
    counts = np.bincount(cells, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def _ratio(numerator, denominator):
    """0 where nothing was counted, as scikit-learn's `zero_division=0`."""
    numerator, denominator = np.asarray(numerator, float), np.asarray(denominator, float)
    return np.divide(numerator, denominator, np.zeros_like(numerator), where=denominator != 0)


def per_class_metrics(confusion):
    """Returns {"precision", "recall", "f1"}: float64 [C] each, and "support": int64 [C].

    confusion: as confusion_matrix returns it. Van Rijsbergen 1979, chapter 7.
    """
    hits = np.diag(confusion)
    precision = _ratio(hits, confusion.sum(axis=0))
    recall = _ratio(hits, confusion.sum(axis=1))
    f1 = _ratio(2 * hits, confusion.sum(axis=0) + confusion.sum(axis=1))
    return {"precision": precision, "recall": recall, "f1": f1, "support": confusion.sum(axis=1)}


def matthews_correlation(confusion):
    """Returns the Matthews correlation, float in [-1, 1]; 0 where a side is constant.

    Gorodkin 2004 (Comput. Biol. Chem. 28, 367), which for C = 2 is Matthews 1975.
    """
    counts = confusion.astype(np.float64)
    true, predicted, total = counts.sum(axis=1), counts.sum(axis=0), counts.sum()
    covariance = np.trace(counts) * total - true @ predicted
    variances = (total**2 - predicted @ predicted) * (total**2 - true @ true)
    return float(covariance / np.sqrt(variances)) if variances > 0 else 0.0


def _score(logits, labels, num_classes):
    """Returns (confusion int64 [C, C], accuracy, mean cross entropy). Refuses an empty split."""
    if len(labels) == 0:
        raise UserError("there are no rows to score: the split is empty")
    confusion = confusion_matrix(logits.argmax(axis=-1), labels, num_classes)
    accuracy = float(np.trace(confusion) / len(labels))
    return confusion, accuracy, float(cross_entropy(logits, labels).mean())


def classification_metrics(logits, labels, num_classes):
    """Returns the metrics the original names, over every row given.

    Args:
        logits: float [N, C].
        labels: int [N] in [0, C).
        num_classes: int. C.
    Returns:
        {"loss": mean cross entropy, "eval/accuracy_cls": share of rows whose largest logit is the
        label's} and for two classes {"eval/f1_score": F1 of class 1, "eval/mcc"}.
    """
    confusion, accuracy, loss = _score(logits, labels, num_classes)
    metrics = {"loss": loss, "eval/accuracy_cls": accuracy}
    if num_classes == 2:
        metrics["eval/f1_score"] = float(per_class_metrics(confusion)["f1"][1])
        metrics["eval/mcc"] = matthews_correlation(confusion)
    return metrics


def classification_report(logits, labels, label_names):
    """Returns everything about the rows of a split, in plain Python values that JSON can hold.

    Args:
        logits: float [N, C].
        labels: int [N] in [0, C).
        label_names: C strings.
    Returns:
        {"num_examples": N, "accuracy", "loss": mean cross entropy, "mcc", "macro_f1": mean over
        classes, "per_class": C x {"label", "precision", "recall", "f1", "support"}, "confusion":
        C lists of C counts, rows true and columns predicted}.
    """
    num_classes = logits.shape[-1]
    if len(label_names) != num_classes:
        raise ValueError(f"{len(label_names)} label_names for {num_classes} classes of logits")
    confusion, accuracy, loss = _score(logits, labels, num_classes)
    per_class = per_class_metrics(confusion)
    return {
        "num_examples": len(labels),
        "accuracy": accuracy,
        "loss": loss,
        "mcc": matthews_correlation(confusion),
        "macro_f1": float(per_class["f1"].mean()),
        "per_class": [
            {"label": name, **{metric: values[i].item() for metric, values in per_class.items()}}
            for i, name in enumerate(label_names)
        ],
        "confusion": confusion.tolist(),
    }


class ClassificationMetrics(RowMetrics):
    """Metrics of outputs {"logits": float [N, C]} and targets {"labels": int [N]}.

    Args:
        label_names: C str, of the report; may be empty where none is asked for.
        num_classes: int. C.
    """

    main, main_mode = "eval/accuracy_cls", "max"
    names_of_splits: ClassVar = {
        "eval/accuracy_cls": "accuracy"
    }  # the original's eval/accuracy_matched

    def __init__(self, label_names, num_classes):
        super().__init__()
        self.label_names, self.num_classes = label_names, num_classes
        of_two = ("eval/f1_score", "eval/mcc") if num_classes == 2 else ()
        self.names = ("loss", "eval/accuracy_cls", *of_two)

    def compute(self):
        return classification_metrics(self.logits, self.labels, self.num_classes)

    def report(self):
        return classification_report(self.logits, self.labels, self.label_names)

    def describe(self, figures):
        figures = dict(figures)
        accuracy = figures.pop("eval/accuracy_cls", None)
        lines = super().describe(figures)
        if accuracy is None:
            return lines
        correct = f"{round(accuracy * len(self))} of {len(self)}"
        return [("Accuracy", f"{accuracy:.4f} ({correct})"), *lines]

    def calibrate(self):
        """Fits the temperature of Guo et al. 2017; see `calibration.py`."""
        return calibrate(self.logits, self.labels)

    def describe_difference(self, other):
        differing = int((self.logits.argmax(axis=-1) != other.logits.argmax(axis=-1)).sum())
        return f"{differing} of {len(self)} rows have another label"

    @property
    def logits(self):
        return self.outputs["logits"]

    @property
    def labels(self):
        return self.targets["labels"]


def classification_predictions(outputs, label_names, temperature=1.0):
    """Returns a record for each row: list of {"label": str, "p_<label>": float of each label}.

    outputs: {"logits": float [N, C]}. Probabilities are softmax(logits / temperature).
    """
    probabilities = softmax(np.asarray(outputs["logits"], np.float64) / temperature)
    names = [f"p_{name}" for name in label_names]
    best = probabilities.argmax(axis=-1)
    return [
        {"label": label_names[i], **dict(zip(names, row, strict=True))}
        for i, row in zip(best.tolist(), probabilities.tolist(), strict=True)
    ]
