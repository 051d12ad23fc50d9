# SPDX-License-Identifier: Apache-2.0
"""The batches of a run one behind the other in a file, read one at a time.

Masked words are drawn anew in every epoch, so that no row comes twice as it was; the twin is given
what the input pipeline computes for each step. Memory depends neither on rows nor on steps.

The file is one of NumPy: an array [steps, B] whose elements are rows, with a field for each feature
and target. Whole numbers have as few bytes as they need.
"""

import shutil
from pathlib import Path

import numpy as np

from common.console import log
from common.errors import RunError

NUMBER = "number"  # of a row in its split; -1 fills up a batch
OF_BITS = ("padding_mask", "segment_ids")


class StreamedRows:
    """The batches of a file, with the attributes and methods of `rows.Rows`.

    Attributes:
        num_steps, batch_size: int. num_tokens: int, T, the static length.
    """

    def __init__(self, path):
        self.path = Path(path)
        with open(path, "rb") as file:
            np.lib.format.read_magic(file)
            (self.num_steps, self.batch_size), _, self.dtype = np.lib.format.read_array_header_1_0(
                file
            )
            self._start = file.tell()
        (self.num_tokens,) = self.dtype["input_ids"].shape

    def _read(self, step):
        offset = self._start + step * self.batch_size * self.dtype.itemsize
        return np.fromfile(self.path, self.dtype, self.batch_size, offset=offset)

    def batch(self, step, part=slice(None)):
        """Returns the features and targets of a batch, or of a part of its rows: {name: int32 or
        float32 [B, ...]}; "padding_mask" is 1 on real tokens."""
        rows = self._read(step)[part]
        return {
            name: rows[name].astype(np.float32 if self.dtype[name].base.kind == "f" else np.int32)
            for name in self.dtype.names
            if name != NUMBER
        }

    def numbers(self, step):
        """Returns int64 [B], the number of each row of a batch in its split; -1 on filler."""
        return self._read(step)[NUMBER]


def write_batches(batches, path, num_ids, is_padding_1):
    """Writes batches of one length.

    Args:
        batches: `input.batches.Batches` or `input.streamed_batches.StreamedBatches`.
        num_ids: int, V.
        is_padding_1: bool. Whether `input_mask` is 1 on padding; otherwise it is 1 on tokens.
    Raises RunError where the disk has too little room.
    """
    with open(path, "wb") as file:
        for step, (features, targets, *_) in enumerate(batches):
            arrays = {name: np.asarray(each) for name, each in (features | targets).items()}
            mask = arrays.pop("input_mask")
            arrays["padding_mask"] = 1 - mask if is_padding_1 else mask
            (arrays[NUMBER],) = batches.rows_of(step, step + 1)
            if step == 0:
                dtype = _row_type(arrays, max(num_ids, mask.shape[1]))
                _begin(file, dtype, len(batches), len(mask))
            _records(arrays, dtype).tofile(file)


def write_zeros(path, batch_size, num_tokens, num_predictions, num_ids):
    """Writes a batch of one token a row, for a program that needs only shapes."""
    row = {name: np.zeros(num_tokens, np.int32) for name in ("input_ids", *OF_BITS)}
    row["padding_mask"][0] = 1
    row |= dict.fromkeys(("masked_lm_positions", "masked_lm_ids"), np.zeros(num_predictions, int))
    row |= {"masked_lm_weights": np.zeros(num_predictions, np.float32)}
    row |= {"next_sentence_labels": np.zeros((), np.int32), NUMBER: np.zeros((), np.int64)}
    arrays = {name: np.broadcast_to(each, (batch_size, *each.shape)) for name, each in row.items()}
    dtype = _row_type(arrays, max(num_ids, num_tokens))
    with open(path, "wb") as file:
        _begin(file, dtype, 1, batch_size)
        _records(arrays, dtype).tofile(file)


def _row_type(arrays, limit):
    """Returns the dtype of a row. arrays: {name: [B, ...]}; limit: int, all ids are below it."""

    def stored(name, array):
        if name in OF_BITS:
            return np.uint8
        is_id = array.dtype.kind == "i" and name != NUMBER
        return np.min_scalar_type(limit - 1) if is_id else array.dtype

    return np.dtype([(name, stored(name, a), a.shape[1:]) for name, a in arrays.items()])


def _begin(file, dtype, num_steps, batch_size):
    """Writes the head of a file, if there is room for the rest."""
    shape = num_steps, batch_size
    size, free = num_steps * batch_size * dtype.itemsize, shutil.disk_usage(file.name).free
    if size > free:
        raise RunError(
            f"the batches of {num_steps:,} steps need {size / 1e9:.1f} GB in {file.name}, where "
            f"{free / 1e9:.1f} GB are free; train in parts, of --steps "
            f"{max(1, num_steps * free // (2 * size)):,} for example: the next one goes on"
        )
    if size > 1e9:
        log(f"Writing the batches of {num_steps:,} steps, {size / 1e9:.1f} GB, to {file.name}")
    head = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, head)


def _records(arrays, dtype):
    records = np.zeros(len(next(iter(arrays.values()))), dtype)
    for name, array in arrays.items():
        records[name] = array
    return records
