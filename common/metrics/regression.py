# SPDX-License-Identifier: Apache-2.0
"""The figures of a regression, in float64, from the one output of every row of a split.

NumPy alone, as `classification.py`.
"""

import numpy as np

from common.errors import UserError
from common.metrics.row_metrics import RowMetrics


def ranks(values):
    """Returns the rank of each value from 1 on, float64 [N]; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)  # rank of the last of each group of equals
    return (last - (counts - 1) / 2)[inverse]


def pearson_correlation(x, y):
    """Returns Pearson's correlation of two float [N], in [-1, 1]; 0 where one is constant."""
    x, y = (np.asarray(values, np.float64) for values in (x, y))
    if (x == x[0]).all() or (y == y[0]).all():
        return 0.0  # what rounding leaves of the mean's difference says nothing
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1, 1))


def spearman_correlation(x, y):
    """Returns Spearman's: Pearson's of the ranks. As `pearson_correlation`."""
    return pearson_correlation(ranks(x), ranks(y))


def regression_metrics(logits, labels):
    """Returns the metrics that GLUE reports of STS-B, and the loss, over every row given.

    logits: float [N, 1]; labels: float [N]. Returns {"loss": mean squared error, "eval/mse": the
    same, "eval/pearson", "eval/spearman"}. Raises UserError for a split without rows, and for a
    label that is no number.
    """
    if len(labels) == 0:
        raise UserError("there are no rows to score: the split is empty")
    if not np.isfinite(labels).all():
        row = int(np.argmin(np.isfinite(labels)))
        raise UserError(f"label {labels[row]} in row {row} is no number that can be scored")
    values, labels = logits[:, 0].astype(np.float64), labels.astype(np.float64)
    error = float(np.mean((values - labels) ** 2))
    return {
        "loss": error,
        "eval/mse": error,
        "eval/pearson": pearson_correlation(values, labels),
        "eval/spearman": spearman_correlation(values, labels),
    }


def regression_report(logits, labels):
    """Returns the metrics of a split in plain Python values that JSON can hold.

    As `regression_metrics`. Returns {"num_examples": N, "loss", "mse", "pearson", "spearman"}.
    """
    metrics = regression_metrics(logits, labels)
    figures = {name.removeprefix("eval/"): value for name, value in metrics.items()}
    return {"num_examples": len(labels), **figures}


class RegressionMetrics(RowMetrics):
    """Metrics of outputs {"logits": float [N, 1]} and targets {"labels": float [N]}."""

    names = ("loss", "eval/mse", "eval/pearson", "eval/spearman")
    main, main_mode = "eval/pearson", "max"

    def compute(self):
        return regression_metrics(self.outputs["logits"], self.targets["labels"])

    def report(self):
        return regression_report(self.outputs["logits"], self.targets["labels"])


def compare_values(outputs, targets):
    """Returns a record for each row: list of {"value_true": float, "error": float}, both "" where
    no value is known; and the absolute errors, float64 [N].

    outputs: {"logits": float [N, 1]}; targets: {"labels": float [N]}, NaN where not known.
    """
    labels = np.asarray(targets["labels"], np.float64)
    errors = np.asarray(outputs["logits"], np.float64)[:, 0] - labels
    records = [
        {"value_true": label, "error": error} if error == error else {"value_true": "", "error": ""}
        for label, error in zip(labels.tolist(), errors.tolist(), strict=True)
    ]
    return records, np.nan_to_num(np.abs(errors))


def regression_predictions(outputs):
    """Returns a record for each row: list of {"value": float}. outputs: {"logits": [N, 1]}."""
    return [{"value": float(value)} for (value,) in outputs["logits"]]
