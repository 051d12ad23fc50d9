# SPDX-License-Identifier: Apache-2.0
"""The figures of a classifier, in float64, from the logits of every row of a split.

NumPy alone: the environment of the CS system's SDK, which has no TensorFlow, uses them too.
"""

from typing import ClassVar

import numpy as np

from common.console import counted
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


def ratio(numerator, denominator):
    """0 where nothing was counted, as scikit-learn's `zero_division=0`."""
    numerator, denominator = np.asarray(numerator, float), np.asarray(denominator, float)
    return np.divide(numerator, denominator, np.zeros_like(numerator), where=denominator != 0)


def precision_recall_f1(hits, predicted, true):
    """Returns {"precision", "recall", "f1"}: float64, of counts of the same shape each.

    Van Rijsbergen 1979, chapter 7.
    """
    return {
        "precision": ratio(hits, predicted),
        "recall": ratio(hits, true),
        "f1": ratio(2 * hits, predicted + true),
    }


def per_class_metrics(confusion):
    """Returns {"precision", "recall", "f1"}: float64 [C] each, and "support": int64 [C].

    confusion: as confusion_matrix returns it.
    """
    support = confusion.sum(axis=1)
    figures = precision_recall_f1(np.diag(confusion), confusion.sum(axis=0), support)
    return figures | {"support": support}


def matthews_correlation(confusion):
    """Returns the Matthews correlation, float in [-1, 1]; 0 where a side is constant.

    Gorodkin 2004 (Comput. Biol. Chem. 28, 367), which for C = 2 is Matthews 1975.
    """
    counts = confusion.astype(np.float64)
    true, predicted, total = counts.sum(axis=1), counts.sum(axis=0), counts.sum()
    covariance = np.trace(counts) * total - true @ predicted
    variances = (total**2 - predicted @ predicted) * (total**2 - true @ true)
    return float(covariance / np.sqrt(variances)) if variances > 0 else 0.0


def balanced_accuracy(confusion):
    """Returns the mean recall of the classes that occur, float in [0, 1].

    Brodersen et al. 2010 (ICPR, "The balanced accuracy and its posterior distribution").
    """
    support = confusion.sum(axis=1)
    return float(ratio(np.diag(confusion), support)[support > 0].mean())


def weighted_f1(confusion):
    """Returns the F1 of the classes, weighted by how often each occurs, float in [0, 1]."""
    return float(np.average(per_class_metrics(confusion)["f1"], weights=confusion.sum(axis=1)))


# Of any number of classes, besides the original's; each is one of `classification_report`, too.
MEANS = ("macro_f1", "weighted_f1", "balanced_accuracy", "mcc")


def classification_metrics(logits, labels, num_classes):
    """Returns the metrics the original names and MEANS, over every row given.

    logits: float [N, C]; labels: int [N] in [0, C). Returns {"loss": mean cross entropy,
    "eval/accuracy_cls": share of rows whose largest logit is the label's}, for two classes
    {"eval/f1_score": F1 of class 1}, and {"eval/<name>" of MEANS}.
    """
    report = classification_report(logits, labels, range(num_classes))
    metrics = {"loss": report["loss"], "eval/accuracy_cls": report["accuracy"]}
    if num_classes == 2:
        metrics["eval/f1_score"] = report["per_class"][1]["f1"]
    return metrics | {f"eval/{name}": report[name] for name in MEANS}


def classification_report(logits, labels, label_names):
    """Returns everything about the rows of a split, in plain Python values that JSON can hold.

    logits: float [N, C]; labels: int [N] in [0, C); label_names: C strings. Returns
    {"num_examples": N, "accuracy", "loss": mean cross entropy, MEANS (the macro F1 is the mean of
    all classes, a class that neither occurs nor is predicted counting as 0),
    "per_class": C x {"label", "precision", "recall", "f1", "support"}, "confusion": C lists of C
    counts, rows true and columns predicted}. Raises UserError for a split without rows.
    """
    if len(labels) == 0:
        raise UserError("there are no rows to score: the split is empty")
    num_classes = logits.shape[-1]
    if len(label_names) != num_classes:
        raise ValueError(f"{len(label_names)} label_names for {num_classes} classes of logits")
    confusion = confusion_matrix(logits.argmax(axis=-1), labels, num_classes)
    per_class = per_class_metrics(confusion)
    return {
        "num_examples": len(labels),
        "accuracy": float(np.trace(confusion) / len(labels)),
        "loss": float(cross_entropy(logits, labels).mean()),
        "mcc": matthews_correlation(confusion),
        "macro_f1": float(per_class["f1"].mean()),
        "weighted_f1": weighted_f1(confusion),
        "balanced_accuracy": balanced_accuracy(confusion),
        "per_class": [
            {"label": name, **{metric: values[i].item() for metric, values in per_class.items()}}
            for i, name in enumerate(label_names)
        ],
        "confusion": confusion.tolist(),
    }


class ClassificationMetrics(RowMetrics):
    """Metrics of outputs {"logits": float [N, C]} and targets {"labels": int [N]}.

    label_names: C str, of the report; may be empty where none is asked for. num_classes: int, C.
    """

    main, main_mode = "eval/accuracy_cls", "max"
    names_of_splits: ClassVar = {"eval/accuracy_cls": "accuracy"}  # as in the original
    fits = "temperature"

    def __init__(self, label_names, num_classes):
        super().__init__()
        self.label_names, self.num_classes = label_names, num_classes
        of_two = ("eval/f1_score",) if num_classes == 2 else ()
        means = (f"eval/{name}" for name in MEANS)
        self.names = ("loss", "eval/accuracy_cls", *of_two, *means)

    def compute(self):
        logits, labels = self.outputs["logits"], self.targets["labels"]
        return classification_metrics(logits, labels, self.num_classes)

    def report(self):
        logits, labels = self.outputs["logits"], self.targets["labels"]
        return classification_report(logits, labels, self.label_names)

    def describe(self, figures):
        others = dict(figures)
        accuracy = others.pop("eval/accuracy_cls")
        correct = f"{round(accuracy * len(self))} of {len(self)}"
        return [("Accuracy", f"{accuracy:.4f} ({correct})"), *super().describe(others)]

    def calibrate(self):
        return calibrate(self.outputs["logits"], self.targets["labels"])

    def describe_difference(self, other):
        ours, theirs = (each.outputs["logits"].argmax(axis=-1) for each in (self, other))
        number = int((ours != theirs).sum())
        verb = "has" if number == 1 else "have"
        return f"{number} of {counted(len(self), 'row')} {verb} another label"


def compare_classes(outputs, targets, label_names, temperature=1.0):
    """Returns a record for each row: list of {"label_true": str, "correct": "yes" or "no"}, and the
    probability of each wrong answer, float64 [N]; 0 where it is right or no label is known.

    outputs: {"logits": float [N, C]}; targets: {"labels": int [N]}, below 0 where not known.
    """
    labels = np.asarray(targets["labels"])
    probabilities = softmax(np.asarray(outputs["logits"], np.float64) / temperature)
    is_known = labels >= 0
    is_right = probabilities.argmax(axis=-1) == labels
    records = [
        {"label_true": label_names[label], "correct": "yes" if right else "no"}
        if known
        else {"label_true": "", "correct": ""}
        for label, known, right in zip(labels.tolist(), is_known, is_right, strict=True)
    ]
    return records, np.where(is_known & ~is_right, probabilities.max(axis=-1), 0.0)


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
