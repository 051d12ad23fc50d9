# SPDX-License-Identifier: Apache-2.0
"""What an evaluation adds up: the seam between the evaluator and a task's figures.

`Metrics` is what the evaluator knows. `RowMetrics` gathers every row's outputs, for tasks whose
figures need all rows at once; a task that can add up batch by batch keeps its sums instead.
"""

from typing import ClassVar

import numpy as np


class Metrics:
    """The figures of one split, or of several once they are merged."""

    names: tuple[str, ...] = ()  # the figures that `compute` gives
    main = "loss"  # the one of them that stands for the others in a line of text
    main_mode = "min"  # or "max": which value of `main` is the best
    # {figure: short name}. Of several splits each has these for itself, as
    # eval/<short name>_<split>.
    names_of_splits: ClassVar[dict[str, str]] = {}
    fits: str | None = None  # the name under which a checkpoint keeps what `calibrate` gives

    def __len__(self):
        """The number of rows."""
        raise NotImplementedError

    def begin(self, batches):
        """Told of the Batches of a split, before the first of them."""

    def update(self, outputs, targets, rows):
        """Adds a batch.

        outputs, targets: {name: array [B, ...]}. rows: int [B], which row of the split each is; -1
        where it only fills up the batch.
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
        """Returns what makes the task's answers right on these rows: dict with the value of `fits`
        under its name, "num_examples", and {figure: float} "before" and "after"."""
        raise NotImplementedError


class RowMetrics(Metrics):
    """Gathers `outputs` and `targets`, {name: array [N, ...]}, in the order of the split's rows."""

    def __init__(self):
        # Lists of (rows, outputs, targets): of this split in any order, and of complete ones.
        self._batches, self._splits = [], []

    def __len__(self):
        return len(self._joined()[0]) if self._batches or self._splits else 0

    def update(self, outputs, targets, rows):
        self._batches.append((np.asarray(rows), dict(outputs), dict(targets)))

    def exchange(self, gather):
        self._batches = [_of_each_array(gather, _concatenate(self._batches))]

    def merge(self, other):
        self._splits.append(other._joined())

    def _joined(self):
        """Returns (rows, outputs, targets) of all splits, each in row order."""
        if self._batches:
            batches = _concatenate(self._batches)
            real = np.flatnonzero(batches[0] >= 0)
            order = real[np.argsort(batches[0][real], kind="stable")]
            self._splits.append(_of_each_array(lambda array: array[order], batches))
            self._batches = []
        if len(self._splits) > 1:
            self._splits = [_concatenate(self._splits)]
        return self._splits[0]

    @property
    def outputs(self):
        return self._joined()[1]

    @property
    def targets(self):
        return self._joined()[2]

    def records(self, model, origins):
        """Returns what the task says of each row; see `BaseModel.predictions`."""
        return model.predictions(self.outputs, origins)

    def truths(self, model, origins):
        """Returns what is true of each row; see `BaseModel.compare`."""
        return model.compare(self.outputs, self.targets, origins)

    def files(self, model, name, origins):
        """Returns {file name: text}; see `BaseModel.prediction_files`."""
        of_suffix = model.prediction_files(self.outputs, self.targets, origins)
        return {f"{name}{suffix}": text for suffix, text in of_suffix.items()}


def _of_each_array(do, part):
    rows, *dicts = part
    return do(rows), *({name: do(array) for name, array in each.items()} for each in dicts)


def _concatenate(parts):
    rows, *dicts = zip(*parts, strict=True)
    return np.concatenate(rows), *(
        {name: np.concatenate([each[name] for each in several]) for name in several[0]}
        for several in dicts
    )


def figure_name(name):
    """Returns a figure's name as people read it: accuracy for eval/accuracy_cls."""
    return name.removeprefix("eval/").removesuffix("_cls")


def figures_of(total, scores):
    """Returns {name: float}: of all splits together, and what each of several has for itself.

    total: Metrics without any rows, which gets those of every split. scores: {split: Metrics}.
    """
    for metrics in scores.values():
        total.merge(metrics)
    figures = total.compute()
    if len(scores) > 1:
        for split, metrics in scores.items():
            of_split = metrics.compute()
            names = _names_of_split(metrics, split)
            figures |= {name: of_split[figure] for name, figure in names.items()}
    return figures


def names_of_figures(metrics, splits):
    """Returns the names that `figures_of` gives for such splits: list of str."""
    names = list(metrics.names)
    if len(splits) > 1:
        for split in splits:
            names += _names_of_split(metrics, split)
    return names


def _names_of_split(metrics, split):
    """Returns {"eval/accuracy_matched": "eval/accuracy_cls"} of "validation_matched", say."""
    end = split.removeprefix("validation_")  # as the original named its figures
    return {f"eval/{short}_{end}": figure for figure, short in metrics.names_of_splits.items()}
