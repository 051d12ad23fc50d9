# SPDX-License-Identifier: Apache-2.0
"""The vocabulary of a checkpoint or of a params file: vocab.txt, tokenizer.json and others.

A vocabulary is a list of str, the entry of each id; one that WordPiece cannot use is a
LibraryVocab, with what the package tokenizers needs to know besides.
"""

from pathlib import Path

from common.checkpoints import sentencepiece, tokenizer_json
from common.checkpoints.small_files import write_json
from common.errors import UserError

VOCAB_TXT, PADS = "vocab.txt", ("[PAD]", "<pad>")


def read_vocab(path):
    """The entry of each id: list of str.

    path: path-like. UTF-8, one entry per line, the id is the line number from 0; a file named
    `vocab.json` is read with the `merges.txt` beside it, any other .json as a `tokenizer.json`, and
    a .model as ALBERT's SentencePiece.

    Raises:
        UserError: no such file, not UTF-8, or another kind of tokenizer.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{path}: no such vocabulary file; set vocab_file to the checkpoint's vocab.txt."
        )
    if path.name == tokenizer_json.VOCAB_JSON:
        return tokenizer_json.read_byte_bpe(path)
    if path.suffix == ".model":
        content = sentencepiece.read_content(path)
        return tokenizer_json.vocab_of(path, content)
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


def write_vocab(folder, vocab):
    """Writes `vocab.txt`, a line for each entry; of a LibraryVocab `tokenizer.json`.

    folder: Path; vocab: list of str. Returns the name of the file.
    """
    if isinstance(vocab, tokenizer_json.LibraryVocab):
        write_json(folder / tokenizer_json.NAME, vocab.content)
        return tokenizer_json.NAME
    content = "".join(f"{entry}\n" for entry in vocab)
    (folder / VOCAB_TXT).write_text(content, "utf-8", newline="\n")
    return VOCAB_TXT


def pad_token(vocab):
    """The entry that stands for padding. vocab: list of str."""
    return next((token for token in PADS if token in vocab), PADS[0])
