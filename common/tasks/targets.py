# SPDX-License-Identifier: Apache-2.0
"""What the outputs of a network are compared with, and how it is read from the labels of a source.

A source says where labels stand and of what kind they are (`LabelColumn`); a task says what they
mean (`Targets`). Token cache, batches and steps carry {name: array [N, ...]} and know no more.
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
    """One array of targets: what a row has of it.

    Attributes:
        shape: tuple of int, of one row; () for a number.
        dtype: np.dtype.
    """

    shape: tuple[int, ...]
    dtype: np.dtype


@dataclass(frozen=True)
class LabelColumn:
    """What a source knows of its labels before it reads them.

    Attributes:
        source: str, names the data set or the file in messages.
        name: str, of the feature or column.
        kind: "class", a number whose names are known; "integer"; "number"; "text"; "other".
        class_names: tuple of str, the names of kind "class".
        description: str, the type in the words of the library that reads it.
        read: () -> list of str, the labels of the training rows; of kind "text" alone.
    """

    source: str
    name: str
    kind: str
    class_names: tuple[str, ...] = ()
    description: str = ""
    read: Callable[[], list[str]] | None = None


@dataclass(frozen=True)
class Targets:
    """The targets of a task.

    Attributes:
        label_names: tuple of str, what the outputs of a row are called: those of `label_names` in
            the params file, or None; after `named` always known.
        specs: {name: TargetSpec}.
    """

    label_names: tuple[str, ...] | None = None
    specs: ClassVar[dict[str, TargetSpec]]

    def named(self, column):
        """Returns these Targets with the label names that a LabelColumn has or leaves open.

        Raises:
            UserError: the task cannot be learned from such a column.
        """
        raise NotImplementedError

    def parse(self, label):
        """Reads the label of a row of a file.

        label: str, not empty. Returns {name: number or nested list of them}.
        Raises ValueError where it is no label; the text says what would be one.
        """
        raise NotImplementedError

    @property
    def missing(self):
        """What a row without a label has: {name: number}, one that `faults` finds."""
        raise NotImplementedError

    def faults(self, arrays):
        """Finds the rows that can be neither trained on nor scored.

        arrays: {name: array [N, ...]}. Returns {row: what it has, for a message}, rows increasing.
        """
        raise NotImplementedError

    @property
    def accepted(self):
        """What `faults` lets pass, as the end of a sentence that begins with "labels"."""
        raise NotImplementedError


def named(labels):
    """Returns targets of what an input function yields: an array becomes {"labels": array}."""
    return labels if isinstance(labels, dict) else {"labels": labels}


def num_rows(targets):
    """Returns how many rows a batch has: int. targets: {name: tensor [B, ...]}."""
    return next(iter(targets.values())).shape[0]


class ClassTargets(Targets):
    """One class a row: {"labels": int32 [N]}, from 0 on in the order of `label_names`."""

    specs: ClassVar = {"labels": TargetSpec((), np.dtype(np.int32))}

    def named(self, column):
        names = self.label_names
        if column.kind == "text":
            names = names or _distinct_names(column)
        elif column.kind == "class":
            if names and len(names) != len(column.class_names):
                raise UserError(
                    f"label_names has {len(names)} names, but {column.source} has "
                    f"{len(column.class_names)} classes: {', '.join(column.class_names)}"
                )
            names = names or column.class_names
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


def _distinct_names(column):
    names = names_of_labels(column.read())
    if not 2 <= len(names) <= MAX_CLASSES:
        raise UserError(
            f"{column.source} has {len(names)} different labels in column {column.name}; "
            f"2 to {MAX_CLASSES} are wanted. Write another label_column"
            + (", label_names, or task: regression" if len(names) > 1 else ", or label_names")
        )
    return names


def names_of_labels(labels):
    """The distinct labels in order: as numbers where all are whole numbers, else by the alphabet.

    So labels 0, 1 and 2 are classes 0, 1 and 2; stars from 1 to 5 are classes 0 to 4, whose names
    are 1 to 5.

    Args:
        labels: list of str.
    Returns:
        tuple of str.
    """
    names = set(labels)
    if all(re.fullmatch(r"[+-]?[0-9]{1,18}", name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def classes_of_names(names):
    """{label as it stands in a file: class}: by name, and by number where no name is a number."""
    classes = {name: i for i, name in enumerate(names)}
    if not any(re.fullmatch(r"[+-]?[0-9]+", name) for name in names):
        classes |= {str(i): i for i in range(len(names))}
    return classes
