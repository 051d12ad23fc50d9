# SPDX-License-Identifier: Apache-2.0
"""Targets: the arrays that outputs are compared with, and how labels of a source become them.

A source describes its column of labels (`LabelColumn`); the task interprets it (`Targets`). Token
cache, batches and steps only carry {name: array [N, ...]}.
"""

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import ClassVar, Literal

import numpy as np

from common.console import counted
from common.errors import UserError

MAX_CLASSES = 1000  # more distinct labels than that are texts or measurements
MAX_LISTED = 20  # classes in a summary
NUMBER = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{0,18})?")
UNNAMED = re.compile("LABEL_[0-9]+")  # what Hugging Face calls classes without names
WHOLE_NUMBER = re.compile(r"([+-]?[0-9]{1,18})(\.0*)?")


TOKENS = -1  # in a shape: as many as the row of the features has tokens


@dataclass(frozen=True)
class TargetSpec:
    """Shape and type of one array of targets."""

    shape: tuple[int, ...]  # of one row; () for a number; TOKENS for one a token
    dtype: np.dtype

    def shape_in(self, num_tokens):
        """Returns the shape in a row of so many tokens."""
        return tuple(num_tokens if size == TOKENS else size for size in self.shape)


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
    has_classes: ClassVar[bool] = False  # label names are those of classes
    # What rows are of, a key of READER_OF in `data.py`.
    rows: ClassVar[Literal["texts", "words", "questions", "streams"]] = "texts"
    # How many outputs a network gets where neither params, checkpoint nor data name them; None: the
    # task has no such number.
    default_outputs: ClassVar[int | None] = 2

    def num_outputs(self, label_names=None):
        """Returns how many outputs the network has: int; None where labels do not decide it.

        label_names: those that a checkpoint knows, or None.
        """
        if self.default_outputs is None:
            return None
        return len(label_names or self.label_names or ()) or self.default_outputs

    def describe(self, arrays):
        """Returns how often each label is there: str. arrays: {name: array [N, ...]}."""
        raise NotImplementedError

    def counts(self, arrays):
        """Returns how often each label is there: {name: int}; {} where labels are no names."""
        del arrays
        return {}

    def labels_of(self, arrays):
        """Returns the label of each row for a reader: list of str."""
        raise NotImplementedError

    def in_order_of(self, label_names, arrays):
        """Returns targets of this data for a network whose outputs have the label names.

        arrays: {name: array [N, ...]} in the order of `self.label_names`. Raises UserError where
        the network lacks one of these.
        """
        del label_names
        return arrays

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


def described(label_names, counts):
    """Returns the rows of each label for a summary: str. counts: collection of int."""
    listed = [f"{name} {count:,}" for name, count in zip(label_names, counts, strict=True)]
    if len(listed) > MAX_LISTED:
        rarest = f"{len(listed)} classes of {min(counts):,} to {max(counts):,} rows"
        return f"{', '.join(listed[:MAX_LISTED])}, ...; {rarest}"
    return ", ".join(listed)


def named(labels):
    """Returns targets of what an input function yields: an array becomes {"labels": array}."""
    return labels if isinstance(labels, dict) else {"labels": labels}


def num_rows(targets):
    """Returns how many rows a batch has: int. targets: {name: tensor [B, ...]}."""
    return next(iter(targets.values())).shape[0]


# Features and targets of the P tokens to predict of each row, <>[R, P].
PREDICTED = {
    "masked_lm_positions": np.dtype(np.int32),
    "masked_lm_ids": np.dtype(np.int32),
    "masked_lm_weights": np.dtype(np.float32),
}
POSITIONS = "masked_lm_positions"  # the one of them that is a feature


class PretrainingTargets(Targets):
    """What masking gives of a row, and whether its second text follows the first.

    No file has them: `input/masking.py` makes the first three, the data the last.
    """

    default_outputs, rows = None, "streams"
    specs: ClassVar = {"next_sentence_labels": TargetSpec((), np.dtype(np.int32))}

    @classmethod
    def of(cls, cfg):
        return cls(())

    def describe(self, arrays):
        labels = arrays.get("next_sentence_labels", ())
        if not len(labels):
            return "single texts"
        others = int(np.sum(labels))
        return f"second text follows {len(labels) - others:,}, is another {others:,}"

    def faults(self, arrays):
        return {}

    @property
    def missing(self):
        return {}


class ClassTargets(Targets):
    """One class per row: {"labels": int32 [N]}, indices into `label_names`."""

    specs: ClassVar = {"labels": TargetSpec((), np.dtype(np.int32))}
    has_classes = True

    def describe(self, arrays):
        return described(self.label_names, self.counts(arrays).values())

    def counts(self, arrays):
        labels = arrays["labels"]
        counts = np.bincount(labels[labels >= 0], minlength=len(self.label_names))
        return dict(zip(self.label_names, counts.tolist(), strict=True))

    def labels_of(self, arrays):
        return [self.label_names[label] for label in arrays["labels"].tolist()]

    def in_order_of(self, label_names, arrays):
        places, labels = places_in(label_names, self.label_names), arrays["labels"]
        if places is None:
            raise UserError(other_names(self.label_names, label_names))
        is_class = (labels >= 0) & (labels < len(places))
        ordered = np.array(places, labels.dtype)[np.where(is_class, labels, 0)]
        return arrays | {"labels": np.where(is_class, ordered, labels)}

    def named(self, column):
        names = self.label_names
        if column.kind == "text":
            names = names or distinct_names(column, column.read(), fewest=2)
        elif column.kind == "class":
            if names and len(names) != len(column.class_names):
                raise UserError(
                    f"label_names has {counted(len(names), 'name')}, but {column.source} has "
                    f"{counted(len(column.class_names), 'class', 'classes')}: "
                    f"{', '.join(column.class_names)}"
                )
            if not names or places_in(names, column.class_names) is not None:
                names = column.class_names  # label_names only orders them: see `data.py`
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
        number = self._classes.of_label(label)
        if number is None:
            raise ValueError(f"the labels are {', '.join(self.label_names)}")
        return {"labels": number}

    @functools.cached_property
    def _classes(self):
        return Classes(self.label_names)

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
            f"{column.source} has {counted(len(names), 'different label')} in column "
            f"{column.name}; "
            f"{fewest} to {MAX_CLASSES} are wanted. Write another label_column (--label_column)"
            + (", label_names, or task: regression" if len(names) > 1 else ", or label_names")
        )
    return names


def names_of_labels(labels):
    """Returns the distinct labels in order: by value if all are numbers, else alphabetical.

    So labels 0, 1 and 2 are classes 0, 1 and 2; stars from 1 to 5 are classes 0 to 4, named 1 to 5.
    A whole number in several forms, as 0 and 0.0, is one label.

    labels: list of str, each `normalized`. Returns tuple of str.
    """
    forms: dict[str, set] = {}
    for label in set(labels):
        forms.setdefault(number_form(label), set()).add(label)
    names = [number if len(labels) > 1 else labels.pop() for number, labels in forms.items()]
    if all(map(NUMBER.fullmatch, names)):
        return tuple(sorted(names, key=lambda name: (Decimal(name), name)))
    return tuple(sorted(names))


# ---- Names that are the same ---------------------------------------------------------------------


def normalized(label):
    """A label without blanks around it, its characters composed (NFC)."""
    return unicodedata.normalize("NFC", label).strip()


def number_form(label):
    """The same text for all forms of a whole number, as 0, 0.0 and +0."""
    match = WHOLE_NUMBER.fullmatch(label)
    return str(int(match[1])) if match else label


def plain(name):
    """What names are compared by: without case and blanks, whole numbers in one form."""
    return number_form("".join(normalized(name).casefold().split()))


class Classes:
    """Finds classes by their names: as written, or else `plain` where one class alone fits.

    Args:
        names: tuple of str, starting at class 0.
    """

    def __init__(self, names):
        self.exact = {name: i for i, name in enumerate(names)}
        forms = [plain(name) for name in names]
        counts = Counter(forms)
        self.plain = {form: i for i, form in enumerate(forms) if counts[form] == 1}
        has_numbers = any(map(WHOLE_NUMBER.fullmatch, names))
        self.numbers = {} if has_numbers else {str(i): i for i in range(len(names))}

    def of_name(self, name):
        """Returns the class: int, or None."""
        return self.exact.get(name, self.plain.get(plain(name)))

    def of_label(self, label):
        """As `of_name`; in a file a label is also the number of a class, unless a name is one."""
        number = self.of_name(label)
        return self.numbers.get(number_form(label)) if number is None else number


def places_in(names, others):
    """Returns where each of the others is among the names: list of int; None if one is not."""
    classes = Classes(names)
    places = [classes.of_name(name) for name in others]
    return None if None in places or len(set(places)) < len(places) else places


def other_names(names, label_names):
    """Returns the refusal of data whose label names are not those of the network: str."""
    return (
        f"the labels of this data are {', '.join(names)}, but the network has "
        f"{', '.join(label_names)}; give every input the same train_file or label_names"
    )


def similar_names(names):
    """Returns the groups of names that are alike but for case and blanks: list of lists of str."""
    groups: dict[str, list] = {}
    for name in names:
        groups.setdefault(plain(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]
