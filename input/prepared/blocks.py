# SPDX-License-Identifier: Apache-2.0
"""Rows of token ids in shards on disk, which are read by position.

A shard is a safetensors file of two tensors:

    ids    uint16 or int32 [n]   the texts of all rows, one behind the other
    rows   uint32 [N, 2 + K + L] of each row: where it begins in ids, the lengths of its K texts,
                                 its L targets, and the CRC-32 of all that and of its ids

Nothing of it stays in memory. Rows are read with `os.pread` and not mapped, because the pages of a
map count as memory of the process: with 4 GB of text they would be all that it has.
"""

import json
import os
import threading
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Protocol

import numpy as np
from safetensors.numpy import save

from common.errors import UserError
from input.token_cache import Tokens

MAX_OPEN = 256  # files; a process may have 1,024
MAX_HEADER_BYTES = 10_000
DTYPES = {"U16": np.dtype("<u2"), "I32": np.dtype("<i4"), "U32": np.dtype("<u4")}


class RowStore(Protocol):
    """Rows of token ids that are read by position; their numbers count from 0.

    Attributes:
        texts_per_row: int, K: 1 or 2.
        length_counts: int [L + 1], how many rows have 0, 1, ... L tokens, without special ones.
        content: str, the number of rows and a hash of them.
        notes: list of str, for whoever trains on them.
        token_counts: int [V], how often the rows have each token; None: not known.
        has_special_tokens: bool. Whether the texts contain [CLS] and [SEP].
        masks: as `masking.Masking`, for rows that are masked already; None: masks are drawn.
        skipped: list of str about rows that are left out.
    """

    def __len__(self):
        """Returns the number of rows."""

    def lengths(self, rows):
        """Returns the tokens of each text of some rows, int64 [M, K]. rows: int [M]."""

    def read(self, rows):
        """Returns the Tokens of some rows, with their targets. rows: int [M]."""


def shard_bytes(rows, ids, targets):
    """Returns the content of a shard.

    Args:
        rows: `pairing.Rows`.
        ids: uint16 or int32 [n], into which the spans of the rows point.
        targets: {name: int [N]}, each from 0 to 2^32 - 1.
    """
    spans = rows.spans
    lengths = spans[..., 1] - spans[..., 0]  # [N, K]
    totals = lengths.sum(axis=1)
    ends = np.cumsum(lengths.ravel())
    places = np.repeat(spans[..., 0].ravel() - (ends - lengths.ravel()), lengths.ravel())
    ids = ids[places + np.arange(len(places))]
    row_ends = np.cumsum(totals)
    starts = row_ends - totals
    columns = [starts, *lengths.T, *targets.values()]
    table = np.stack([column.astype(np.uint32) for column in columns], axis=1)  # [N, 1 + K + L]
    content, size = memoryview(ids.tobytes()), ids.itemsize
    limits = zip(table, (starts * size).tolist(), (row_ends * size).tolist(), strict=True)
    checks = [_check(entry.tobytes(), content[start:end]) for entry, start, end in limits]
    table = np.concatenate([table, np.array(checks, np.uint32)[:, None]], axis=1)
    return save({"ids": ids, "rows": table})


def _check(entry, ids):
    """Returns the check of a row: int. entry: bytes of its numbers before the check."""
    return zlib.crc32(ids, zlib.crc32(entry))


class Blocks:
    """A RowStore of the shards in a folder, without special tokens.

    Args:
        folder: path-like.
        shards: list of (file name, number of rows).
        texts_per_row: int, K.
        targets: list of str, the names of the targets in their order.
        vocab_size: int. Ids are below it.
        length_counts, content, notes, token_counts: see RowStore.
    Raises:
        UserError: a shard is missing, or other than its manifest says.
    """

    has_special_tokens, masks, skipped = False, None, ()

    def __init__(
        self,
        folder,
        shards,
        texts_per_row,
        targets,
        vocab_size,
        length_counts,
        content,
        notes=(),
        token_counts=None,
    ):
        self.folder, self.texts_per_row, self.vocab_size = Path(folder), texts_per_row, vocab_size
        self.length_counts = np.asarray(length_counts)
        self.content, self.notes, self.token_counts = content, list(notes), token_counts
        self._names = [name for name, number in shards if number]
        self._targets = list(targets)
        self._num_columns = 2 + texts_per_row + len(self._targets)
        numbers = [number for _, number in shards if number]
        self._first_rows = np.concatenate([[0], np.cumsum(numbers, dtype=np.int64)])
        self._open = OrderedDict()  # {shard: _Shard}, the last used at the end
        self._lock = threading.Lock()  # two threads may read, and one may close a file

    def __len__(self):
        return int(self._first_rows[-1])

    def __del__(self):
        for shard in getattr(self, "_open", {}).values():
            os.close(shard.descriptor)

    def lengths(self, rows):
        with self._lock:
            table, _ = self._table(rows)
        return table[:, 1 : 1 + self.texts_per_row].astype(np.int64)

    def read(self, rows):
        with self._lock:
            table, shards = self._table(rows)
            lengths = table[:, 1 : 1 + self.texts_per_row].astype(np.int64)
            parts, dtype = self._ids_of(rows, table, lengths.sum(axis=1).tolist(), shards)
        ids = np.frombuffer(b"".join(parts), dtype).astype(np.int32)
        if len(ids) and not 0 <= ids.min() <= ids.max() < self.vocab_size:
            raise UserError(
                f"{self.folder} has the id {ids.max()}, but the vocabulary has only "
                f"{self.vocab_size} entries; give the one that it was prepared with"
            )
        offsets = np.concatenate([[0], np.cumsum(lengths.ravel())])
        columns = table[:, 1 + self.texts_per_row : -1].astype(np.int32).T
        targets = dict(zip(self._targets, columns, strict=True))
        return Tokens(ids, offsets, targets, self.texts_per_row)

    def _ids_of(self, rows, table, sizes, shards):
        """Returns the bytes of the ids of each row, list, and their dtype."""
        parts, dtype = [], DTYPES["I32"]
        for row, entry, size, number in zip(rows, table, sizes, shards, strict=True):
            shard = self._shard(number)
            is_whole = size < len(self.length_counts)
            content = shard.ids(int(entry[0]), size) if is_whole else b""
            if not is_whole or _check(entry[:-1].tobytes(), content) != entry[-1]:
                raise self._damaged(shard.path, f"row {int(row):,} is not what was written")
            parts.append(content)
            dtype = shard.dtype
        return parts, dtype

    def _table(self, rows):
        """Returns the entries of some rows, uint32 [M, columns], and the shard of each."""
        rows = np.asarray(rows, np.int64)
        shards = np.searchsorted(self._first_rows, rows, side="right") - 1
        within = (rows - self._first_rows[shards]).tolist()
        shards = shards.tolist()
        parts = [self._shard(s).entry(row) for s, row in zip(shards, within, strict=True)]
        table = np.frombuffer(b"".join(parts), DTYPES["U32"])
        return table.reshape(len(rows), self._num_columns), shards

    def _shard(self, number):
        """Returns the _Shard, opened if it is not open."""
        shard = self._open.get(number)
        if shard is None:
            if len(self._open) >= MAX_OPEN:
                os.close(self._open.popitem(last=False)[1].descriptor)
            shard = self._open[number] = self._opened(number)
        else:
            self._open.move_to_end(number)
        return shard

    def _opened(self, number):
        path = self.folder / self._names[number]
        num_rows = int(self._first_rows[number + 1] - self._first_rows[number])
        try:
            return _Shard(path, num_rows, self._num_columns)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._damaged(path, error) from None

    def _damaged(self, path, error):
        return UserError(
            f"{path} is damaged: {error}; delete it and start again, and it is prepared anew"
        )


class _Shard:
    """An open file of a shard. Raises OSError, ValueError, KeyError or TypeError: it is none."""

    def __init__(self, path, num_rows, num_columns):
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            begin = 8 + int.from_bytes(os.pread(self.descriptor, 8, 0), "little")
            if not 8 < begin <= MAX_HEADER_BYTES:
                raise ValueError("it is no safetensors file")
            header = json.loads(os.pread(self.descriptor, begin - 8, 8))
            self.dtype = DTYPES[header["ids"]["dtype"]]
            (num_ids,), start = header["ids"]["shape"], header["ids"]["data_offsets"][0]
            table = header["rows"]
            if table["dtype"] != "U32" or table["shape"] != [num_rows, num_columns]:
                raise ValueError(f"it has not {num_rows:,} rows of {num_columns} numbers")
            self._ids, self._table = begin + start, begin + table["data_offsets"][0]
            self._width, self._num_ids = 4 * num_columns, num_ids
            size = num_ids * self.dtype.itemsize + num_rows * self._width
            if os.fstat(self.descriptor).st_size != begin + size:
                raise ValueError("it is not as long as it says")
        except BaseException:
            os.close(self.descriptor)
            raise

    def entry(self, row):
        return os.pread(self.descriptor, self._width, self._table + row * self._width)

    def ids(self, start, number):
        size = self.dtype.itemsize
        return os.pread(self.descriptor, number * size, self._ids + start * size)
