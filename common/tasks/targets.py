# SPDX-License-Identifier: Apache-2.0
"""Targets: the arrays that outputs are compared with, and how labels of a source become them.

A source describes its column of labels (`LabelColumn`); the task interprets it (`Targets`). Token
cache, batches and steps only carry {name: array [N, ...]}.
"""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from common.errors import UserError

MAX_CLASSES = 1000  # more distinct labels than that are texts or measurements


@dataclass(frozen=True)
class TargetSpec:
    """Shape and type of one array of targets."""

    shape: tuple[int, ...]  # of one row; () for a number
    dtype: np.dtype


@dataclass(frozen=True)
class LabelColumn:
    """The column of labels, as a source knows it before reading."""

    source: str  # names the data set or the file in messages
    name: str  # of the feature or column
    kind: str  # "class", an integer whose classes have names; "integer", "number", "text", "other"
    class_names: tuple[str, ...] = ()  # for kind "class"
    description: str = ""  # the type, for messages
    # The labels of the training rows, for kind "text"; tuples of str if the task takes several.
    read: Callable[[], list] | None = None


@dataclass(frozen=True)
class Targets:
    """The targets of a task."""

    # A name for each output of a row. Before `named`: the key of the params file, or None.
    label_names: tuple[str, ...] | None = None
    # Raise it with any change of `parse` or `missing` that changes a row: arrays in the token cache
    # are then made anew.
    version: ClassVar[int] = 1
    takes_several: ClassVar[bool] = False  # a label may be a list, and empty
    specs: ClassVar[dict[str, TargetSpec]]

    @classmethod
    def of(cls, cfg):
        """Returns the Targets of InputParams."""
        return cls(cfg.label_names)

    def named(self, column):
        """Returns these Targets with label names, from the params or from a LabelColumn.

        Raises UserError where the column does not fit the task.
        """
        raise NotImplementedError

    def parse(self, label):
        """Parses the label of one row of a file.

        label: str, not empty; or any str or tuple of str if the task takes several. Returns
        {name: number or nested list of numbers}.
        Raises ValueError, whose text says which labels are valid.
        """
        raise NotImplementedError

    @property
    def settings(self):
        """What decides the arrays besides labels and their names: list of str, for hashes."""
        kind = f"{type(self).__qualname__} {self.version}"
        return [kind, *(f"{name} {s.dtype} {s.shape}" for name, s in self.specs.items())]

    @property
    def missing(self):
        """Returns {name: number} for a row without a label; `faults` reports it."""
        raise NotImplementedError

    def faults(self, arrays):
        """Finds the rows that cannot be trained on or scored.

        arrays: {name: array [N, ...]}. Returns {row: its invalid target as text}, rows increasing.
        """
        raise NotImplementedError

    @property
    def accepted(self):
        """The valid targets, as the rest of a sentence that begins with "labels"."""
        raise NotImplementedError


def named(labels):
    """Returns targets of what an input function yields: an array becomes {"labels": array}."""
    return labels if isinstance(labels, dict) else {"labels": labels}


def num_rows(targets):
    """Returns how many rows a batch has: int. targets: {name: tensor [B, ...]}."""
    return next(iter(targets.values())).shape[0]


class ClassTargets(Targets):
    """One class per row: {"labels": int32 [N]}, indices into `label_names`."""

    specs: ClassVar = {"labels": TargetSpec((), np.dtype(np.int32))}

    def named(self, column):
        names = self.label_names
        if column.kind == "text":
            names = names or distinct_names(column, column.read(), fewest=2)
        elif column.kind == "class":
            if names and len(names) != len(column.class_names):
                raise UserError(
                    f"label_names has {len(names)} names, but {column.source} has "
                    f"{len(column.class_names)} classes: {', '.join(column.class_names)}"
                )
            names = names or column.class_names
            if len(names) < 2:
                raise UserError(
                    f"{column.source} has a feature {column.name} of one class, "
                    f"{', '.join(names)}; a classifier needs two or more. Write another label_key"
                )
        elif column.kind != "integer" or not names:
            raise UserError(
                f"{column.source} has a feature {column.name} that is no class (ClassLabel) but "
                f"{column.description}; choose a data set for classification, write label_names "
                "where its labels are whole numbers from 0 on, or task: regression"
            )
        return replace(self, label_names=tuple(names))

    def parse(self, label):
        if label not in self._class_of_label:
            raise ValueError(f"the labels are {', '.join(self.label_names)}")
        return {"labels": self._class_of_label[label]}

    @functools.cached_property
    def _class_of_label(self):
        return classes_of_names(self.label_names)

    @property
    def missing(self):
        return {"labels": -1}

    def faults(self, arrays):
        labels = arrays["labels"]
        rows = np.flatnonzero((labels < 0) | (labels >= len(self.label_names)))
        return {row: f"label {labels[row]}" for row in rows.tolist()}

    @property
    def accepted(self):
        return f"go from 0 to {len(self.label_names) - 1}"


def distinct_names(column, labels, fewest):
    """Returns the label names of a LabelColumn: tuple of str. labels: list of str, of its rows."""
    names = names_of_labels(labels)
    if not fewest <= len(names) <= MAX_CLASSES:
        raise UserError(
            f"{column.source} has {len(names)} different labels in column {column.name}; "
            f"{fewest} to {MAX_CLASSES} are wanted. Write another label_column"
            + (", label_names, or task: regression" if len(names) > 1 else ", or label_names")
        )
    return names


def names_of_labels(labels):
    """Returns the distinct labels in order: numeric if all are whole numbers, else alphabetical.

    So labels 0, 1 and 2 are classes 0, 1 and 2; stars from 1 to 5 are classes 0 to 4, named 1 to 5.

    labels: list of str. Returns tuple of str.
    """
    names = set(labels)
    if all(re.fullmatch(r"[+-]?[0-9]{1,18}", name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def classes_of_names(names):
    """Returns {label in a file: class}: by name, and by number unless a name is a number."""
    classes = {name: i for i, name in enumerate(names)}
    if not any(re.fullmatch(r"[+-]?[0-9]+", name) for name in names):
        classes |= {str(i): i for i in range(len(names))}
    return classes
