# SPDX-License-Identifier: Apache-2.0
"""What the token cache and `data.py` ask of every source of rows."""

from typing import Protocol

from common.errors import UserError


class Source(Protocol):
    """The splits of one data set. `str(source)` names it in messages.

    The rows of a split have a fixed order; their numbers count from 0.

    Attributes:
        processor: DataProcessor: names of splits, texts and labels.
        targets: Targets, whose label names are known.
        needs_targets: bool. False: rows to predict, which may lack a valid target.
    """

    def fingerprint(self, split):
        """Returns a hash of what the rows of a split depend on: content, and how it is read."""

    def content(self, split):
        """Returns how many rows a split has, and a hash of them, wherever its files lie: str."""

    def num_rows(self, split):
        """Returns how many rows `read` gives, unless damaged ones are skipped."""

    def read(self, split, batch_size):
        """Returns a tf.data.Dataset of the rows of a split in order, batch_size at a time.

        Elements: (texts <string>[n, 1 or 2], {target: tensor [n, ...]}).
        """

    def tokenize(self, split, tokenizer):
        """Returns the Tokens of a split, its rows in order."""

    def word_spans(self, split):
        """Returns where the words of each text stand, [(first character, the one after)] of every
        row; None, as here, where the source has no words."""

    def answers(self, split):
        """Returns the right answers of each row, list of lists of str, empty where its text has
        none, None where they are not known; None, as here, where the source has no questions."""

    def read_texts(self, split):
        """Returns the texts of a split, in row order: list of tuples of one or two str."""

    def skipped(self, split):
        """Returns a sentence for each row, or run of rows, that `read` leaves out."""

    def places(self, split, rows):
        """Returns the place of each row, a list of int: file, and line or record, as str."""

    def id_columns(self, split):
        """Returns {column: list of str}, the cells of the columns that id_columns names."""

    def damages(self, split):
        """Returns a sentence for each file that cannot be read to its end."""


def unreadable(source, split, reason):
    """Returns the UserError of a split that cannot be read to its end. reason: str."""
    what = f"split {split} of {source} cannot be read: {reason}"
    return UserError(
        "\n  ".join([what, *source.damages(split)])
        + "\nCopy it there again; or delete the folder to have it prepared again; or write "
        "on_bad_row: skip to leave such rows out"
    )
