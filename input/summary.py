# SPDX-License-Identifier: Apache-2.0
"""What stands in the rows that a run reads: classes, repeated rows, contradictions, lengths.

It is told before a training; `data_report.py` looks at the same rows closely. Rows are the same
where their tokens are, as the network reads them: an uncased vocabulary knows no case. SST-2
(67,349 rows) takes 0.1 s.
"""

import itertools
from dataclasses import dataclass

import numpy as np

from common.console import counted


@dataclass(frozen=True)
class Summary:
    """The rows of a split."""

    split: str
    num_rows: int
    labels: str  # of `Targets.describe`
    least: int  # tokens of the shortest row, with special tokens
    median: int
    most: int  # before it is cut
    num_truncated: int  # rows that are cut
    num_repeated: int  # rows that are the same as an earlier one
    num_contradicting: int  # texts whose rows have different labels
    num_in_train: int  # rows that are among those of the split train, too

    @property
    def lines(self):
        """Sentences for the reader: list of str."""
        counts = {
            "rows that repeat an earlier one": self.num_repeated,
            "texts with different labels": self.num_contradicting,
            "rows that are in train, too": self.num_in_train,
        }
        listed = "; ".join(f"{what}: {count:,}" for what, count in counts.items() if count)
        return [
            f"Data {self.split}: {counted(self.num_rows, 'row')} ({self.labels}); {self.least} to "
            f"{self.most} tokens, median {self.median}; {self.num_truncated / self.num_rows:.1%} "
            "of the rows are cut",
            *([f"  {listed}"] if listed else []),
        ]


def summarize(batches_of_split, targets):
    """Returns the Summary of each split.

    batches_of_split: {split: Batches}; targets: Targets of their task, with the network's names.
    """
    train = batches_of_split.get("train")
    summaries = []
    for split, batches in batches_of_split.items():
        rows, lengths = batches.row_hashes, batches.num_tokens + batches.num_cut
        labeled = rows
        if batches.word_rows is None:  # else the targets are of words, not of rows
            labeled = rows ^ (_numbered(batches.targets) * 0x9E3779B97F4A7C1)  # of text and label
        num_labels = labels_per_text(rows, labeled)
        is_in_train = np.isin(rows, train.row_hashes) if train is not None else rows[:0]
        summaries.append(
            Summary(
                split,
                len(rows),
                targets.describe(batches.targets),
                int(lengths.min()),
                int(np.median(lengths)),
                int(lengths.max()),
                batches.num_truncated,
                len(rows) - len(num_labels),
                int((num_labels > 1).sum()),
                int(is_in_train.sum()) if split != "train" else 0,
            )
        )
    return summaries


def labels_per_text(rows, labeled):
    """Returns how many different labels each different text has: int [M].

    rows, labeled: int64 [N], of each row a number for its text, and one for text and label.
    """
    _, first = np.unique(labeled, return_index=True)
    return np.unique(rows[first], return_counts=True)[1]


def notes_on_rows(cfg, num_rows, label_names):
    """What somebody with few rows, or with numbers for labels, may not expect: list of sentences.

    cfg: InputParams of the training. label_names: tuple of str, or None.
    """
    notes, left_out = [], num_rows % cfg.batch_size
    if left_out > num_rows / 10:
        notes.append(
            f"each epoch leaves out {left_out:,} of {counted(num_rows, 'row')}, because it is "
            f"whole batches of {cfg.batch_size}; a smaller batch_size leaves out fewer"
        )
    if cfg.task == "classification" and not cfg.label_names and _has_fractions(label_names or ()):
        notes.append(
            f"each number is a class of its own ({', '.join(label_names[:3])}, ...); to learn the "
            "number itself write task: regression (--override '*_input.task=regression')"
        )
    return notes


def _has_fractions(label_names):
    """Whether all names are numbers, and not all of them whole."""
    try:
        numbers = [float(name) for name in label_names]
    except ValueError:
        return False
    return not all(number.is_integer() for number in numbers)


def row_hashes(tokens):
    """Returns a number for each row, the same for the same tokens: int64 [N]. tokens: Tokens."""
    texts = text_hashes(tokens)
    if tokens.texts_per_row == 2:
        texts = [hash(pair) for pair in zip(texts[::2], texts[1::2], strict=True)]
    return np.array(texts, np.int64)


def text_hashes(tokens):
    """As `row_hashes`, of each text: list of N * texts_per_row int."""
    ids, size = tokens.ids.tobytes(), tokens.ids.itemsize
    offsets = (tokens.offsets * size).tolist()
    return [hash(ids[start:end]) for start, end in itertools.pairwise(offsets)]


def _numbered(targets):
    """Returns a number for each row, the same for the same targets: int64 [N]."""
    numbers = np.zeros(1, np.int64)
    columns = [column for array in targets.values() for column in array.reshape(len(array), -1).T]
    for column in columns:
        numbers = numbers * 1_000_003 + np.unique(column, return_inverse=True)[1]
    return numbers
