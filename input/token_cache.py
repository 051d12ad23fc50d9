# SPDX-License-Identifier: Apache-2.0
"""The tokens of a split: the ids of all texts in one array, cached on disk between runs.

Tokenising SST-2 takes about a second, reading the cache a few milliseconds. All runs, epochs and
sequence lengths share it, because special tokens, truncation and padding come later.
"""

import contextlib
import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tensorflow as tf
from safetensors import SafetensorError
from safetensors.numpy import load, save

from common.errors import UserError
from common.files import write_whole
from common.signals import poll

ROWS_PER_CALL = 1024  # rows tokenised at once: enough to amortise a call, small in memory
TARGETS = "targets/"  # prefix of their names in a file


@dataclass(frozen=True)
class Tokens:
    """Token ids of every text of a split, without special tokens.

    Attributes:
        ids: int32 [sum of lengths], text after text, row after row.
        offsets: int64 [N * K + 1]: the ids of text k of row n begin at offsets[n * K + k] and end
            at the next offset.
        targets: {name: array [N, ...]}; empty for texts without labels.
        texts_per_row: int. K, 1 or 2.
        skipped: tuple of str, a sentence for each row of the source that was skipped.
    """

    ids: np.ndarray
    offsets: np.ndarray
    targets: dict[str, np.ndarray]
    texts_per_row: int
    skipped: tuple[str, ...] = ()

    def __len__(self):
        return (len(self.offsets) - 1) // self.texts_per_row

    @property
    def lengths(self):
        """Tokens of each text, int64 [N, K]."""
        return np.diff(self.offsets).reshape(len(self), self.texts_per_row)

    def take(self, rows):
        """Returns the Tokens of some rows, in the order given. rows: int [M]."""
        lengths = self.lengths[rows]
        starts = self.offsets[:-1].reshape(len(self), self.texts_per_row)[rows].ravel()
        offsets = np.concatenate([[0], np.cumsum(lengths.ravel())])
        places = np.repeat(starts - offsets[:-1], lengths.ravel()) + np.arange(offsets[-1])
        targets = {name: array[rows] for name, array in self.targets.items()}
        return replace(self, ids=self.ids[places], offsets=offsets, targets=targets)


def tokenize_rows(rows, tokenizer, texts_per_row):
    """Tokenises a tf.data.Dataset of (texts <string>[n, K], {target: tensor [n, ...]}).

    Returns Tokens.
    """

    @tf.autograph.experimental.do_not_convert  # no control flow depends on a tensor
    def tokenize(texts, targets):
        ragged = tokenizer.traced(tf.reshape(texts, [-1]))
        return ragged.flat_values, ragged.row_lengths(), targets

    batches = rows.map(tokenize, num_parallel_calls=2).prefetch(2)
    empty = {
        name: np.zeros((0, *spec.shape[1:]), spec.dtype.as_numpy_dtype)
        for name, spec in rows.element_spec[1].items()
    }
    return _joined(batches.as_numpy_iterator(), texts_per_row, empty)


def tokenize_texts(rows, tokenizer):
    """Tokenises texts in memory. rows: list of at least one tuple of K str.

    Returns Tokens without targets.
    """

    def batches():
        for first in range(0, len(rows), ROWS_PER_CALL):
            batch = rows[first : first + ROWS_PER_CALL]
            ragged = tokenizer.traced(tf.constant([text for texts in batch for text in texts]))
            yield ragged.flat_values.numpy(), ragged.row_lengths().numpy(), {}

    return _joined(batches(), len(rows[0]), {})


def _joined(batches, texts_per_row, empty):
    """Concatenates batches of (ids int32 [n], lengths int64 [B * K], {target: [B, ...]}).

    empty: {target: array [0, ...]}, of the same types and shapes. Returns Tokens.
    """
    ids, lengths = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
    targets = {name: [array] for name, array in empty.items()}
    for batch_ids, batch_lengths, batch_targets in batches:
        poll()
        ids.append(batch_ids)
        lengths.append(batch_lengths)
        for name, array in batch_targets.items():
            targets[name].append(array)
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    return Tokens(
        np.concatenate(ids).astype(np.int32),
        offsets.astype(np.int64),
        {name: np.concatenate(arrays) for name, arrays in targets.items()},
        texts_per_row,
    )


def load_tokens(source, split, tokenizer, cache_dir):
    """Returns the Tokens of a split, from the cache or else tokenised and then cached.

    Args:
        source: Source.
        split: str.
        tokenizer: WordPieceTokenizer.
        cache_dir: Path, created if absent. If it cannot be written, nothing is cached.
    Raises:
        UserError: the source's files change while they are read.
    """
    content = source.fingerprint(split)
    fingerprint = hashlib.sha256(f"{content}|{tokenizer.fingerprint}".encode()).hexdigest()
    name = re.sub(r"[^\w.-]", "-", f"{source.processor.dataset}-{split}")
    path = Path(cache_dir) / f"{name}-{fingerprint[:16]}.safetensors"
    texts_per_row = len(source.processor.text_keys)
    tokens = _read(path, texts_per_row, fingerprint)
    if tokens is None:
        tokens = tokenize_rows(source.read(split, ROWS_PER_CALL), tokenizer, texts_per_row)
        tokens = replace(tokens, skipped=tuple(source.skipped(split)))
        check_unchanged(source, split, content)
        _write(path, _serialized(tokens, fingerprint))
    return tokens


def check_unchanged(source, split, fingerprint):
    """Raises UserError if a split's files no longer have this fingerprint."""
    if source.fingerprint(split) != fingerprint:
        raise UserError(
            f"split {split} of {source} changed while it was read; start again when the program "
            "that writes it has finished"
        )


def _serialized(tokens, fingerprint):
    """Returns the bytes of a cache file.

    Its digest covers values, types, shapes and the fingerprint, so that a renamed file is detected.
    """
    arrays = {"ids": tokens.ids, "offsets": tokens.offsets}
    arrays |= {f"{TARGETS}{name}": array for name, array in tokens.targets.items()}
    skipped = "\n".join(tokens.skipped).encode("utf-8", "backslashreplace")
    arrays["skipped"] = np.frombuffer(skipped, np.uint8)
    digest = hashlib.sha256(fingerprint.encode())
    for name, array in sorted(arrays.items()):
        array = np.ascontiguousarray(array)
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.data)
    return save(arrays | {"digest": np.frombuffer(digest.digest(), np.uint8)})


def _read(path, texts_per_row, fingerprint):
    """Returns Tokens, or None if the file is absent, or not what `_write` would write."""
    try:
        content = path.read_bytes()
        arrays = load(content)
        skipped = tuple(arrays["skipped"].tobytes().decode().split("\n"))
        targets = {
            name.removeprefix(TARGETS): array
            for name, array in arrays.items()
            if name.startswith(TARGETS)
        }
        tokens = Tokens(
            arrays["ids"],
            arrays["offsets"],
            targets,
            texts_per_row,
            skipped if skipped != ("",) else (),
        )
        return tokens if _serialized(tokens, fingerprint) == content else None
    except (OSError, KeyError, ValueError, SafetensorError):
        return None


def _write(path, content):
    """Writes the file atomically, because runs share the cache."""
    with contextlib.suppress(OSError):  # without a cache on a read-only or full disk
        write_whole(path, content)
