# SPDX-License-Identifier: Apache-2.0
"""Regression: a number for each row, as in STS-B; everything that is of this task."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from common.errors import UserError
from common.losses import RegressionLoss
from common.metrics.regression import RegressionMetrics, compare_values, regression_predictions
from common.tasks.answer import ROW_ARCHITECTURE, Answer
from common.tasks.row_task import RowTask
from common.tasks.targets import Targets, TargetSpec

MAX_FLOAT32 = float(np.finfo(np.float32).max)
VALUE = Answer(
    kind="regression",
    description="a number, the value",
    architecture=ROW_ARCHITECTURE,
    problem_type="regression",
    probabilities=None,
    served=("value", "logits"),
    reading={
        "saved_model": 'print(result["value"][0].numpy())',
        "ids": "print(logits[0, 0])",
        "huggingface": "print(model(**rows).logits[0, 0].item())",
    },
)


@dataclass(frozen=True)
class ValueTargets(Targets):
    """One number per row, for a regression: {"labels": float32 [N]}."""

    label_names: tuple[str, ...] = ("value",)
    specs: ClassVar = {"labels": TargetSpec((), np.dtype(np.float32))}

    @classmethod
    def of(cls, cfg):
        del cfg  # its label_names are refused
        return cls()

    def named(self, column):
        if column.kind in ("class", "other"):
            raise UserError(
                f"{column.source} has a feature {column.name} that is no number but "
                f"{column.description}; write task: classification, or another label_key"
            )
        return self

    def parse(self, label):
        try:
            value = float(label)
        except ValueError:
            value = math.nan
        if not abs(value) <= MAX_FLOAT32:
            raise ValueError("a number is wanted")
        return {"labels": value}

    def describe(self, arrays):
        values = arrays["labels"]
        return f"values {values.min():g} to {values.max():g}, mean {values.mean():.4g}"

    def labels_of(self, arrays):
        return [f"{value:g}" for value in arrays["labels"].tolist()]

    @property
    def missing(self):
        return {"labels": math.nan}

    def faults(self, arrays):
        labels = arrays["labels"]
        rows = np.flatnonzero(~np.isfinite(labels))
        return {row: f"label {labels[row]}" for row in rows.tolist()}

    @property
    def accepted(self):
        return "are finite numbers"


class RegressionTask(RowTask):
    """The two-dense head with one output, trained to the mean squared error."""

    targets, answer = ValueTargets, VALUE

    def __init__(self, params, label_names=(), name="bert"):
        super().__init__(params, RegressionLoss(), label_names, name)

    def build_eval_metric_ops(self):
        return RegressionMetrics()

    def predictions(self, outputs, origins=None):
        return regression_predictions(outputs)

    def compare(self, outputs, targets, origins=None):
        return compare_values(outputs, targets)

    def shorten(self, record):
        return [f"{record['value']:.4f}"]

    def export_outputs(self, outputs):
        """{"value": <float32>[B], "logits": <float32>[B, 1]}."""
        return {"value": outputs["logits"][:, 0], "logits": outputs["logits"]}
