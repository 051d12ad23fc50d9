# SPDX-License-Identifier: Apache-2.0
"""What a run remembers besides weights and optimizer, so that a resumed one goes on exactly."""

import math
from dataclasses import dataclass, field

import numpy as np

from common.errors import UserError

PREFIX = "run/"
SMALLER_IS_BETTER = ("loss", "mse", "perplexity")  # ends of names of figures


@dataclass
class RunState:
    """Saved with every checkpoint, as tensors `run/<name>` of the training state."""

    evaluated_step: int = -1  # of the latest evaluation; -1 before the first
    best_step: int = -1  # of the best evaluation; -1 before the first
    best_value: float = 0.0  # what it measured
    num_without_better: int = 0  # evaluations since then
    num_recoveries: int = 0  # how often it has stepped back from a number that was not finite
    # Of the steps since the last figures, see `loop.train`.
    losses: list = field(default_factory=list)

    def to_arrays(self):
        """Returns {name: NumPy array}."""
        values = {name: np.asarray(value) for name, value in vars(self).items()}
        values["losses"] = np.asarray(self.losses, np.float32)  # as the step computes them
        return {f"{PREFIX}{name}": value for name, value in values.items()}

    @classmethod
    def from_tensors(cls, tensors):
        """The state of {name: LazyTensor}; what is not in it is as at the start."""
        values = {
            name: tensors[f"{PREFIX}{name}"].read().tolist()
            for name in vars(cls())
            if f"{PREFIX}{name}" in tensors
        }
        return cls(**values)

    def is_best(self, value, metric):
        """Whether a BestMetric's figure is better than all that have been counted."""
        return math.isfinite(value) and (
            self.best_step < 0 or metric.is_better(value, self.best_value)
        )

    def count_evaluation(self, step, value=None, metric=None):
        """Notes an evaluation, and what a BestMetric says of it. Returns whether it is the best."""
        self.evaluated_step = step
        if metric is None:
            return False
        is_best = self.is_best(value, metric)
        if is_best:
            self.best_step, self.best_value, self.num_without_better = step, value, 0
        else:
            self.num_without_better += 1
        return is_best


class BestMetric:
    """Which figure of an evaluation says how good it is, and whether more of it is better.

    name: str. A metric of the evaluation, such as eval/accuracy_cls; `eval/` may be left out, and
    eval/loss is the loss. Of several splits, eval/accuracy_cls is that of all their rows together;
    eval/accuracy_matched, say, that of one.
    mode: "max", "min" or None: by the metric's nature, min for a loss, max for most of the rest.
    """

    def __init__(self, name, mode=None):
        self.name = name
        self.mode = mode or ("min" if name.endswith(SMALLER_IS_BETTER) else "max")

    def value_in(self, metrics):
        """Returns the figure of {name: float}. Raises UserError where it is not there."""
        by_name = {name.removeprefix("eval/"): value for name, value in metrics.items()}
        name = self.name.removeprefix("eval/")
        if name not in by_name:
            raise UserError(
                f"runconfig.best_metric is {self.name!r}, which an evaluation of this data does "
                f"not give; available: {', '.join(sorted(metrics))}"
            )
        return float(by_name[name])

    def __str__(self):
        return f"{self.mode} {self.name}"

    def is_better(self, value, than):
        return value > than if self.mode == "max" else value < than


def best_metric_of(run):
    """Returns the BestMetric of RunParams, or None where none is chosen by."""
    return None if run.best_metric is None else BestMetric(run.best_metric, run.best_metric_mode)
