# SPDX-License-Identifier: Apache-2.0
"""A checkpoint with new words: the vector of each is the mean of the pieces that it was before.

`--mode train_vocab` with `extend_vocab_file` writes extension.json beside its vocab.txt. Training
that starts from a checkpoint of the vocabulary that was extended, and names that vocab.txt, gets
rows for the new words: of the word embeddings, and of what the masked-word head has for each entry.
"""

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.checkpoints.names import LazyTensor, axes_of
from common.checkpoints.small_files import read_json
from common.checkpoints.vocab import read_vocab
from common.console import counted
from common.errors import UserError

NAME = "extension.json"


@dataclass(frozen=True)
class Extension:
    """What a vocabulary adds to the one it extends.

    Attributes:
        vocab_file: Path, of the extended vocabulary.
        base_size: int, entries of the vocabulary that was extended.
        base_sha256: str, of those entries.
        pieces: {id of a new word: ids of the pieces that it was cut into, list of int}.
    """

    vocab_file: Path
    base_size: int
    base_sha256: str
    pieces: dict

    def content(self):
        """Returns the content of extension.json: dict."""
        return {
            "base_size": self.base_size,
            "base_sha256": self.base_sha256,
            "pieces": {str(i): pieces for i, pieces in self.pieces.items()},
        }

    def num_rows(self, rows):
        """Returns how many rows a table of so many rows has with the new words."""
        return max(rows, max(self.pieces) + 1)

    def extended(self, name, tensor):
        """Returns a weight with the rows of the new words: anything with a shape.

        name: neutral name. tensor: of a checkpoint.
        """
        axis = axes_of(name).find("V")
        if axis < 0:
            return tensor
        shape = list(tensor.shape)
        shape[axis] = self.num_rows(shape[axis])

        def read():
            old = np.asarray(tensor)
            new = np.zeros(shape, old.dtype)
            old_rows, new_rows = np.moveaxis(old, axis, 0), np.moveaxis(new, axis, 0)
            new_rows[: len(old_rows)] = old_rows
            for i, pieces in self.pieces.items():
                new_rows[i] = old_rows[pieces].astype(np.float64).mean(axis=0)
            return new

        return LazyTensor(shape, read)


def hash_of_entries(vocab):
    """Returns the SHA-256 of a vocabulary, hexadecimal. vocab: list of str."""
    return hashlib.sha256("\n".join(vocab).encode()).hexdigest()


def read_extension(vocab_file):
    """Returns the Extension that lies beside a vocabulary; None where there is none.

    Raises:
        UserError: it cannot be read, or does not fit the vocabulary.
    """
    path = Path(vocab_file).parent / NAME
    content = read_json(path)
    if content is None or Path(vocab_file).name != "vocab.txt":
        return None
    size, digest, pieces = map(content.get, ("base_size", "base_sha256", "pieces"))
    is_whole = type(size) is int and isinstance(digest, str) and isinstance(pieces, dict) and pieces
    ids = {}
    for i, old in pieces.items() if is_whole else ():
        is_right = re.fullmatch(r"[0-9]{1,9}", i) and isinstance(old, list) and old
        if not (is_right and all(type(piece) is int and 0 <= piece < size for piece in old)):
            is_whole = False
            break
        ids[int(i)] = old
    if not is_whole or max(ids) >= len(read_vocab(vocab_file)):
        raise UserError(
            f"{path} does not fit {vocab_file}; write both again with --mode train_vocab, or move "
            f"{NAME} away to start the new words from what the checkpoint has"
        )
    return Extension(Path(vocab_file), size, digest, ids)


def with_new_words(checkpoint, vocab_file):
    """Returns the checkpoint to start a training from, with the new words of a vocabulary.

    Args:
        checkpoint: Checkpoint. vocab_file: path, or None: that of the checkpoint.
    Raises:
        UserError: the vocabulary extends another one than the checkpoint's.
    """
    extension = None if vocab_file is None else read_extension(vocab_file)
    if extension is None:
        return checkpoint
    own = checkpoint.config.get("vocab_file")
    if own is not None:
        entries = read_vocab(own)
        if entries == read_vocab(vocab_file):
            return checkpoint  # trained with the new words
        if hash_of_entries(entries) != extension.base_sha256:
            raise UserError(
                f"{vocab_file} extends another vocabulary than {own} of {checkpoint.path}; extend "
                "that one, or give the checkpoint of the vocabulary that was extended"
            )
    rows = checkpoint.config.get("vocab_size") or extension.base_size
    if rows < extension.base_size:
        raise UserError(
            f"{vocab_file} extends a vocabulary of {extension.base_size:,} entries, but "
            f"{checkpoint.path} has embeddings of {rows:,}; give the checkpoint of the vocabulary "
            "that was extended"
        )
    note = f"{counted(len(extension.pieces), 'new word')}: the mean of the vectors of its pieces"
    notes = [*checkpoint.config.get("notes", ()), note]
    config = checkpoint.config | {"vocab_size": extension.num_rows(rows), "notes": notes}
    return replace(checkpoint, config=config, extension=extension)
