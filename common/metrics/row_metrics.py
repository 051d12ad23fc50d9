# SPDX-License-Identifier: Apache-2.0
"""What an evaluation adds up: the seam between the evaluator and a task's figures.

`Metrics` is what the evaluator knows. `RowMetrics` gathers every row's outputs, for tasks whose
figures need all rows at once; a task that can add up batch by batch keeps its sums instead.
"""

from typing import ClassVar

import numpy as np


class Metrics:
    """The figures of one split, or of several once they are merged.

    Attributes:
        names: tuple of str, the figures that `compute` gives.
        main: str, the one of them that stands for the others in a line of text.
        main_mode: "max" or "min", which value of `main` is the best.
        names_of_splits: {figure: short name}. Where several splits are evaluated, each has these
            for itself, as eval/<short name>_<split>.
    """

    names: tuple[str, ...] = ()
    main, main_mode = "loss", "min"
    names_of_splits: ClassVar[dict[str, str]] = {}

    def __len__(self):
        """The number of rows."""
        raise NotImplementedError

    def update(self, outputs, targets, rows):
        """Adds a batch.

        Args:
            outputs: {name: array [B, ...]} of the task's `build_model`.
            targets: {name: array [B, ...]}.
            rows: int [B], which row of the split each is; -1 where it only fills up the batch.
        """
        raise NotImplementedError

    def exchange(self, gather):
        """Adds what the other workers have. gather: array -> those of all workers, one behind the
        other. All workers call it, each after at least one `update`."""
        raise NotImplementedError

    def merge(self, other):
        """Adds another split, complete in itself. other: Metrics of the same class."""
        raise NotImplementedError

    def compute(self):
        """Returns {name: float} of every row, of which "loss" is one."""
        raise NotImplementedError

    def report(self):
        """Returns a dict that JSON can hold: the figures, and what a reader wants besides."""
        raise NotImplementedError

    def describe(self, figures):
        """Returns lines for a summary, (name, text). figures: {name: float} of these rows."""
        return [(name.removeprefix("eval/"), f"{value:.4f}") for name, value in figures.items()]

    def describe_difference(self, other):
        """Returns a clause on how many answers another network gives otherwise; "" where none is
        counted. other: Metrics of the same rows."""
        return ""

    def calibrate(self):
        """Returns what makes the task's probabilities right on these rows, or None where it has
        none: dict with "temperature", "num_examples", "before" and "after"."""
        return None


class RowMetrics(Metrics):
    """Gathers the outputs and targets of every row, in the order of the split.

    Attributes:
        outputs, targets: {name: array [N, ...]} of the rows that were evaluated.
    """

    def __init__(self):
        self._batches, self._splits = [], []

    def __len__(self):
        return sum(len(rows) for rows, *_ in self._complete())

    def update(self, outputs, targets, rows):
        self._batches.append((np.asarray(rows), dict(outputs), dict(targets)))

    def exchange(self, gather):
        rows, outputs, targets = _joined(self._batches)
        gathered = (
            {name: gather(each) for name, each in part.items()} for part in (outputs, targets)
        )
        self._batches = [(gather(rows), *gathered)]

    def merge(self, other):
        self._splits += other._complete()

    def _complete(self):
        """The splits so far: list of (rows, outputs, targets), each in row order."""
        if self._batches:
            rows, outputs, targets = _joined(self._batches)
            real = np.flatnonzero(rows >= 0)
            order = real[np.argsort(rows[real], kind="stable")]
            parts = [
                {name: each[order] for name, each in part.items()} for part in (outputs, targets)
            ]
            self._splits.append((rows[order], *parts))
            self._batches = []
        return self._splits

    @property
    def outputs(self):
        return _joined(self._complete())[1]

    @property
    def targets(self):
        return _joined(self._complete())[2]


def _joined(parts):
    """One (rows, outputs, targets) of several."""
    rows, outputs, targets = zip(*parts, strict=True)
    return np.concatenate(rows), _concatenated(outputs), _concatenated(targets)


def _concatenated(dicts):
    return {name: np.concatenate([each[name] for each in dicts]) for name in dicts[0]}


def figures_of(total, scores):
    """Returns {name: float}: of all splits together, and what each of several has for itself.

    Args:
        total: Metrics without any rows, which gets those of every split.
        scores: {split: Metrics}.
    """
    for metrics in scores.values():
        total.merge(metrics)
    figures = total.compute()
    if len(scores) > 1:
        for split, metrics in scores.items():
            of_split = metrics.compute()
            for name, short in metrics.names_of_splits.items():
                figures[f"eval/{short}_{short_name(split)}"] = of_split[name]
    return figures


def names_of_figures(metrics, splits):
    """Returns the names that `figures_of` gives for such splits: list of str."""
    names = list(metrics.names)
    if len(splits) > 1:
        names += [
            f"eval/{short}_{short_name(split)}"
            for split in splits
            for short in metrics.names_of_splits.values()
        ]
    return names


def short_name(split):
    """ "validation_matched" -> "matched", as the original named its figures."""
    return split.removeprefix("validation_")
