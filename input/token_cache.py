# SPDX-License-Identifier: Apache-2.0
"""A split tokenised once: token ids of all texts in one array, kept on disk between runs.

Tokenising SST-2 takes about a second; reading the cache takes a few milliseconds, and every run,
epoch and sequence length shares it, because special tokens, truncation and padding come later.
"""

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

TEXTS_PER_CALL = 1024  # rows tokenised at once: enough to amortise a call, small in memory
ARRAYS = ("ids", "offsets", "labels")


@dataclass(frozen=True)
class Tokens:
    """Token ids of every text of a split, without special tokens.

    Attributes:
        ids: int32 [sum of lengths], text after text, row after row.
        offsets: int64 [N * K + 1]: text k of row n has the ids from offsets[n * K + k] on, up to
            the next offset.
        labels: int32 [N].
        texts_per_row: int. K, 1 or 2.
    """

    ids: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    texts_per_row: int

    def __len__(self):
        return len(self.labels)

    @property
    def lengths(self):
        """Tokens of each text, int64 [N, K]."""
        return np.diff(self.offsets).reshape(len(self), self.texts_per_row)


def tokenize_rows(rows, tokenizer, texts_per_row):
    """Tokenises a tf.data.Dataset of (texts <string>[K], label <int>[]). Returns Tokens."""
    ids, lengths, labels = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)], []

    def tokenize(texts, label):
        ragged = tokenizer.tokenize(tf.reshape(texts, [-1]))
        return ragged.flat_values, ragged.row_lengths(), label

    batches = rows.batch(TEXTS_PER_CALL).map(tokenize, num_parallel_calls=2).prefetch(2)
    for batch_ids, batch_lengths, batch_labels in batches.as_numpy_iterator():
        ids.append(batch_ids)
        lengths.append(batch_lengths)
        labels.append(batch_labels)
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    labels = np.concatenate(labels) if labels else np.zeros(0)
    return Tokens(
        np.concatenate(ids).astype(np.int32),
        offsets.astype(np.int64),
        labels.astype(np.int32),
        texts_per_row,
    )


def load_tokens(dataset, split, tokenizer, cache_dir):
    """Returns the Tokens of a split, from the cache where it holds them, else made and kept.

    Args:
        dataset: TextDataset.
        split: str.
        tokenizer: WordPieceTokenizer.
        cache_dir: Path, made if absent. Where it cannot be written the tokens are made each time.
    """
    key = f"{dataset.fingerprint(split)}|{tokenizer.fingerprint}"
    fingerprint = hashlib.sha256(key.encode()).hexdigest()
    name = dataset.processor.dataset.replace("/", "-")
    path = Path(cache_dir) / f"{name}-{split}-{fingerprint[:16]}.safetensors"
    texts_per_row = len(dataset.processor.text_keys)
    tokens = _read(path, texts_per_row)
    if tokens is None:
        tokens = tokenize_rows(dataset.read(split), tokenizer, texts_per_row)
        _write(path, tokens)
    return tokens


def _digest(arrays):
    digest = hashlib.sha256()
    for name in ARRAYS:
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return np.frombuffer(digest.digest(), np.uint8)


def _read(path, texts_per_row):
    """Returns Tokens, or None where the file is absent or its digest does not fit its arrays."""
    try:
        arrays = load_file(path)
        if not np.array_equal(arrays["digest"], _digest(arrays)):
            return None
    except (OSError, KeyError, SafetensorError):
        return None
    return Tokens(*(arrays[name] for name in ARRAYS), texts_per_row)


def _write(path, tokens):
    """Writes aside and renames, so that runs that share the cache never read half a file."""
    arrays = {name: getattr(tokens, name) for name in ARRAYS}
    aside = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(arrays | {"digest": _digest(arrays)}, aside)
        os.replace(aside, path)
    except (OSError, SafetensorError):
        pass  # a read-only or full disk costs the cache, not the run
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
