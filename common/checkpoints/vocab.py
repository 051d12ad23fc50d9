# SPDX-License-Identifier: Apache-2.0
"""The vocabulary of a checkpoint or of a params file: `vocab.txt` or `tokenizer.json`."""

from pathlib import Path

from common.checkpoints import tokenizer_json
from common.errors import UserError


def read_vocab(path):
    """The entry of each id: list of str.

    path: path-like. UTF-8, one entry per line, the id is the line number from 0; a file named .json
    is read as a `tokenizer.json`.

    Raises:
        UserError: no such file, not UTF-8, or another kind of tokenizer.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{path}: no such vocabulary file; set vocab_file to the checkpoint's vocab.txt."
        )
    if path.suffix == ".json":
        return tokenizer_json.read_vocab(path)
    content = path.read_bytes()
    try:
        # Split at line feeds only, because characters such as U+2028 can be entries.
        lines = content.decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8; "
            "save the vocabulary as UTF-8."
        ) from None
    # The reference removes white space at the end of an entry.
    return [line.rstrip() or line.rstrip("\r") for line in lines]
