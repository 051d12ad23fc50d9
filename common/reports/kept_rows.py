# SPDX-License-Identifier: Apache-2.0
"""eval/rows_<split>.tsv read again: what an evaluation kept of each row."""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UserError

TEXTS = ("text", "text_a", "text_b")
PROBABILITY = "p_"


@dataclass(frozen=True)
class KeptRows:
    """The rows of a split, column by column.

    Attributes:
        split: str.
        columns: {name: list of N str}.
        mistakes: list of int, the rows of eval/errors_<split>.tsv, the surest mistake first.
    """

    split: str
    columns: dict
    mistakes: list

    def __len__(self):
        return len(self.columns["id"])

    def __getitem__(self, name):
        return self.columns[name]

    def __contains__(self, name):
        return name in self.columns

    def has(self, *names):
        """Whether there are such columns, with a value for each row."""
        return all(name in self and "" not in self[name] for name in names)

    def texts(self, row):
        """Returns the texts of a row: list of one or two str, or of none."""
        return [self.columns[name][row] for name in TEXTS if name in self.columns]

    def where(self, row):
        """Returns where a row stands: its place in the data, or else its number."""
        return self.columns["place"][row] if "place" in self else f"row {self['id'][row]}"

    @property
    def true_column(self):
        """The name of the column with what is true; None where no row has an answer."""
        return next((name for name in self.columns if name.endswith("_true")), None)

    @property
    def answer_column(self):
        """The name of the column with what was predicted; None without what is true."""
        true = self.true_column
        return None if true is None else true.removesuffix("_true")

    @functools.cached_property
    def is_right(self):
        """bool [N]; None where the file does not say."""
        if not self.has("correct"):
            return None
        return np.array([each == "yes" for each in self["correct"]])

    @property
    def num_words(self):
        """Words of each row's texts, parted by blanks: int64 [N]."""
        sums = [sum(len(text.split()) for text in self.texts(row)) for row in range(len(self))]
        return np.array(sums, np.int64)

    def numbers(self, name):
        """Returns a column as float64 [N]."""
        return np.array(self[name], np.float64)

    def classes(self, names):
        """Returns (probabilities, float64 [N, C], labels, int64 [N]) of a classifier's rows, for
        label names in their order; None where the columns are others or a label is not known."""
        columns = [f"{PROBABILITY}{name}" for name in names]
        if not all(column in self for column in columns) or "label_true" not in self:
            return None
        number = {name: place for place, name in enumerate(names)}
        labels = [number.get(label, -1) for label in self["label_true"]]
        if -1 in labels:
            return None
        return np.stack([self.numbers(c) for c in columns], axis=1), np.array(labels)


def read_kept_rows(folder):
    """Returns the KeptRows of every split that was evaluated: list, in the order of their names.

    folder: path-like, `eval` of a model_dir. Raises UserError for a file that is no such table.
    """
    found = []
    for path in sorted(Path(folder).glob("rows_*.tsv")):
        columns, split = _read_table(path), path.stem.removeprefix("rows_")
        number = {name: row for row, name in enumerate(columns["id"])}
        errors = path.with_name(f"errors_{split}.tsv")
        ids = _read_table(errors)["id"] if errors.exists() else []
        found.append(KeptRows(split, columns, [number[each] for each in ids if each in number]))
    return [rows for rows in found if len(rows)]


def _read_table(path):
    """Returns {column: list of str} of a table that an evaluation wrote. Raises UserError."""
    names, *lines = path.read_text("utf-8").removesuffix("\n").split("\n")
    names = names.split("\t")
    rows = [line.split("\t") for line in lines]
    for number, row in enumerate(rows, 2):
        if len(row) != len(names):
            raise UserError(
                f"{path}, line {number} has {len(row)} columns, the first line {len(names)}; "
                "write it again with --mode eval"
            )
    if "id" not in names:
        raise UserError(f"{path} has no column id; write it again with --mode eval")
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    return dict(zip(names, map(list, columns), strict=True))
