# SPDX-License-Identifier: Apache-2.0
"""What all sources of a user's own files have: where a split lies, and the refusal of bad rows."""

import hashlib
import json
from pathlib import Path

from common.console import counted
from common.errors import UserError
from input.sources.source import Source

MAX_LISTED = 20  # bad rows in a message


class FileSource(Source):
    """A Source over the files `train_file` and `eval_file`, as splits train and validation.

    Args:
        cfg: InputParams: train_file, eval_file, on_bad_row.
        processor, targets, needs_targets: see Source.
    """

    def __init__(self, cfg, processor, targets, needs_targets=True):
        self.processor, self.targets, self.needs_targets = processor, targets, needs_targets
        self._paths = {"train": cfg.train_file, "validation": cfg.eval_file}
        self._skips_bad_rows = cfg.on_bad_row == "skip"

    def __str__(self):
        return "the files " + ", ".join(path for path in self._paths.values() if path)

    def num_rows(self, split):
        return len(self.read_texts(split))

    def damages(self, split):
        """Returns []: UserError is raised if a file cannot be read."""
        del split
        return []

    def _path(self, split):
        path = self._paths[split]
        if path is None:
            key = "train_file" if split == "train" else "eval_file"
            instead = "; or eval_fraction, the share of train_file to hold out" * (split != "train")
            raise UserError(f"{key} is not given; write the path of a file{instead}")
        return Path(path)


def refuse(faults, where, row_name="row", unit="line", advice=""):
    """Raises UserError where there are bad rows.

    Args:
        faults: list of sentences, or of (number of the row, reason).
        where: str, the file or the split, for messages.
        row_name, unit: str, what a row is, and what its number counts.
        advice: str, after the advice to skip bad rows.
    """
    if not faults:
        return
    first = faults[:MAX_LISTED]
    listed = [f"  {x if isinstance(x, str) else f'{unit} {x[0]}: {x[1]}'}" for x in first]
    if len(faults) > MAX_LISTED:
        listed.append(f"  and {len(faults) - MAX_LISTED} more")
    what = "file" if unit == "line" else "data"
    advice = f"Correct the {what}; or write on_bad_row: skip to leave such {row_name}s out{advice}"
    number = counted(len(faults), row_name)
    raise UserError("\n".join([f"{where}: {number} cannot be used", *listed, advice]))


def fingerprint_of(settings, content):
    """Returns a hash of the bytes of a file, and of what decides how they are read."""
    digest = hashlib.sha256(json.dumps(settings).encode())
    digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def read_bytes(path):
    """Returns the bytes of a file. Raises UserError."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is not a file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
