# SPDX-License-Identifier: Apache-2.0
"""What the token cache and `data.py` ask of every source of rows."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import tensorflow as tf

    from common.tasks.targets import Targets
    from input.sources.processors import DataProcessor


class Source(Protocol):
    """The splits of one data set. `str(source)` names it in messages.

    The rows of a split have a fixed order; their numbers count from 0.

    Attributes:
        processor: DataProcessor: names of splits, texts and labels.
        targets: Targets, whose label names are known.
    """

    processor: "DataProcessor"
    targets: "Targets"

    def fingerprint(self, split: str) -> str:
        """Returns a hash of what the rows of a split depend on: content, and how it is read."""

    def num_rows(self, split: str) -> int:
        """Returns how many rows `read` gives, unless damaged ones are skipped."""

    def read(self, split: str, batch_size: int) -> "tf.data.Dataset":
        """Returns the rows of a split in order, batch_size at a time.

        Elements: (texts <string>[n, 1 or 2], {target: tensor [n, ...]}).
        """

    def read_texts(self, split: str) -> list[tuple[str, ...]]:
        """Returns the texts of a split, in row order."""

    def skipped(self, split: str) -> list[str]:
        """Returns a sentence for each row, or run of rows, that `read` leaves out."""

    def places(self, split: str, rows: list[int]) -> list[str]:
        """Returns the place of each row: file, and line or record."""

    def damages(self, split: str) -> list[str]:
        """Returns a sentence for each file that cannot be read to its end."""
