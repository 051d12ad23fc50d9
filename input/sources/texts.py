# SPDX-License-Identifier: Apache-2.0
"""Texts of any size, some lines at a time, for what counts them: plain text, JSON Lines, CSV, TFDS.

Each line is a text; a text with line ends in it counts as several. No more than a block of lines is
in memory, whatever the size of the files.

    .jsonl, .ndjson     one object a line, with texts under `text_columns`
    .csv, .tsv          a row of column names, then rows with texts in `text_columns`
    any other           a text a line
"""

import glob
import io
import itertools
import os
import re
from pathlib import Path

from common.errors import UserError
from common.files import UTF16_MARKS
from input.sources.text_files import (
    DELIMITER_OF,
    FORMATS,
    RowFault,
    cells_of,
    check_columns,
)

BLOCK_BYTES = 1_000_000
MAX_LINE_BYTES = 16_000_000  # a longer line is refused: it would be held whole
UTF8_MARK = b"\xef\xbb\xbf"
GZIP_MARK = b"\x1f\x8b"
JSON_LINES = (".jsonl", ".ndjson")
DEFAULT_COLUMN = "text"


class TextFiles:
    """The texts of files.

    Args:
        paths: list of path-like: files, folders, or patterns such as `corpus/*.txt`.
        text_columns: tuple of str, of JSON Lines, CSV and TSV; None: `text`.
        delimiter: str, between the columns of CSV and TSV; None: that of the format.
    Attributes:
        files: list of str.
    Raises:
        UserError: a path names no file.
    """

    def __init__(self, paths, text_columns=None, delimiter=None):
        self.files = find_files(paths)
        self._columns, self._delimiter = tuple(text_columns or (DEFAULT_COLUMN,)), delimiter

    def __str__(self):
        more = len(self.files) - 1
        return f"{self.files[0]}{f' and {more:,} more files' if more else ''}"

    def blocks(self):
        """Yields the texts, a str of some lines at a time.

        Raises:
            UserError: a file cannot be read; the text names its line.
        """
        for path in self.files:
            suffix = Path(path).suffix.lower()
            suffix = JSON_LINES[0] if suffix in JSON_LINES else suffix
            blocks = _decoded(path)
            yield from self._rows(path, suffix, blocks) if suffix in FORMATS else blocks

    def _rows(self, path, suffix, blocks):
        """Yields the texts of the rows of a file, a str of some rows at a time."""
        lines = itertools.chain.from_iterable(io.StringIO(block, newline="\n") for block in blocks)
        texts, size, names = [], 0, None
        for line, cells in FORMATS[suffix](lines, self._delimiter or DELIMITER_OF[suffix]):
            if isinstance(cells, RowFault):
                raise UserError(f"{path}, line {line}: {cells}")
            if suffix != JSON_LINES[0] and names is None:
                names = [name.strip() for name in cells]
                check_columns(names, self._columns, None, f"{path}, line {line}", "")
                continue
            try:
                row = cells if names is None else cells_of(cells, names)
                found = [_text(row, column) for column in self._columns]
            except RowFault as fault:
                raise UserError(f"{path}, line {line}: {fault}") from None
            texts += found
            size += sum(map(len, found))
            if size >= BLOCK_BYTES:
                yield "\n".join(texts)
                texts, size = [], 0
        yield "\n".join(texts)


class TfdsTexts:
    """The texts of a split of a data set of TensorFlow Datasets.

    Args:
        dataset, data_dir, split, text_keys: as of the keys of an input section.
    Raises:
        UserError: the data set cannot be opened, or lacks the split or a feature.
    """

    def __init__(self, dataset, data_dir, split, text_keys=None):
        from input.sources.tfds import open_builder  # imports TensorFlow

        self._builder, self._split = open_builder(dataset, Path(data_dir)), split
        self._name = f"data set {dataset} in {Path(data_dir) / dataset}"
        info = self._builder.info
        self._keys = tuple(text_keys or (DEFAULT_COLUMN,))
        if split not in info.splits or not info.splits[split].num_examples:
            raise UserError(
                f"{self._name} has no rows in split {split}; its splits are "
                f"{', '.join(info.splits)}"
            )
        missing = [key for key in self._keys if key not in info.features]
        if missing:
            raise UserError(
                f"{self._name} has no feature {', '.join(missing)}; it has "
                f"{', '.join(sorted(info.features))}. Write the ones with texts as text_keys"
            )

    def __str__(self):
        return f"split {self._split} of {self._name}"

    def blocks(self):
        """See TextFiles."""
        import tensorflow_datasets as tfds

        config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
        rows = self._builder.as_dataset(split=self._split, shuffle_files=False, read_config=config)
        for number, batch in enumerate(rows.batch(1024).as_numpy_iterator()):
            for key in self._keys:
                try:
                    yield b"\n".join(batch[key].tolist()).decode()
                except (TypeError, AttributeError):
                    raise UserError(
                        f"{self._name} has a feature {key} that is no text; choose other text_keys"
                    ) from None
                except UnicodeDecodeError as error:
                    raise UserError(
                        f"{self}, {key} of records from {1024 * number} on: not UTF-8 "
                        f"({error.reason})"
                    ) from None


class GivenTexts:
    """Texts that a program gives. texts: iterable of str, which is read once."""

    def __init__(self, texts):
        self._texts = texts

    def __str__(self):
        return "the given texts"

    def blocks(self):
        """See TextFiles."""
        for text in self._texts:
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise UserError(
                    f"a text has half a character at {error.start + 1}; decode it as UTF-8"
                ) from None
            yield text


def _text(row, column):
    """Returns the text of a row; the paragraphs of a list are lines. Raises RowFault."""
    if column not in row:
        raise RowFault(f"has no {column}, which text_columns names; it has {', '.join(row)}")
    value = row[column]
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, str) for part in parts):
        raise RowFault(f"{column} is no text, and no list of texts")
    text = "\n".join(parts)
    if lone := re.search("[\ud800-\udfff]", text):
        raise RowFault(f"{column} is half a character at {lone.start() + 1}")
    return text


def find_files(paths):
    """Returns the files that paths, folders and patterns name: list of str, each once.

    Raises:
        UserError: one names no file.
    """
    found = {}
    for path in map(os.fspath, paths):
        if os.path.isdir(path):
            inside = sorted(Path(path).rglob("*"))
            files = [str(file) for file in inside if _is_visible_file(file, path)]
        elif os.path.exists(path):
            files = [path]
        else:
            files = sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file))
        if not files:
            what = "holds no files" if os.path.isdir(path) else "there is no such file"
            raise UserError(f"{path}: {what}; write the path of text files or of their folder")
        found |= dict.fromkeys(files)
    return list(found)


def _is_visible_file(file, folder):
    parts = file.relative_to(folder).parts
    return file.is_file() and not any(part.startswith(".") for part in parts)


def _decoded(path):
    """Yields a file as str, some whole lines at a time. Raises UserError with the line."""
    line, rest = 1, b""
    try:
        with open(path, "rb") as file:
            while chunk := file.read(BLOCK_BYTES):
                if line == 1 and not rest:
                    _check_kind(path, chunk)
                    chunk = chunk.removeprefix(UTF8_MARK)
                end = chunk.rfind(b"\n") + 1
                if end:
                    yield _decode(path, line, rest + chunk[:end])
                    line += chunk.count(b"\n")
                    rest = chunk[end:]
                else:
                    rest += chunk
                if len(rest) > MAX_LINE_BYTES:
                    raise UserError(
                        f"{path}, line {line}: has more than {MAX_LINE_BYTES:,} bytes; each line "
                        "is a text, so break it into lines"
                    )
            if rest:
                yield _decode(path, line, rest)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _check_kind(path, start):
    if start.startswith(UTF16_MARKS):
        raise UserError(f"{path} is UTF-16; save it as UTF-8")
    if start.startswith(GZIP_MARK):
        raise UserError(f"{path} is compressed with gzip; unpack it")


def _decode(path, line, content):
    """Returns the text of bytes that begin with a line of a file."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line += content.count(b"\n", 0, error.start)
        byte = error.start - content.rfind(b"\n", 0, error.start)
        raise UserError(
            f"{path}, line {line}: byte {byte} of the line, 0x{content[error.start]:02x}, is not "
            "UTF-8; save the file as UTF-8"
        ) from None
