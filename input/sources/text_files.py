# SPDX-License-Identifier: Apache-2.0
"""The user's own files as a source: CSV, TSV and JSON Lines -> rows of texts and a label.

Only `TextFileSource.read` needs TensorFlow. A file is read as a whole, so that its error message
lists all bad rows with their lines.

    .csv    comma-separated, text with commas, quotes or line ends in double quotes (RFC 4180)
    .tsv    tab-separated, no quoting, one row per line
    .jsonl  one JSON object per line

CSV and TSV begin with a row of column names. Empty lines are skipped.
"""

import csv
import difflib
import functools
import hashlib
import io
import json
import math
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from common.console import counted, log
from common.errors import UserError
from common.files import UTF16_MARKS
from common.tasks.targets import LabelColumn, normalized, number_form
from input.sources.file_source import FileSource, fingerprint_of, read_bytes, refuse

PARSER_VERSION = 2  # part of the fingerprint: raise it with any change that changes a row
MAX_CHARACTERS = 1_000_000  # of a text; a longer one comes from an unclosed quotation mark
MAX_LABEL_CHARACTERS = 200
UNKNOWN = "?"  # as programs write a label that is not known
DELIMITERS = (";", "\t", "|", ",")  # looked for where a file has not the columns


@dataclass(frozen=True)
class TextRows:
    """The rows of a file."""

    texts: list[tuple[str, ...]]  # one or two of each row
    # `normalized`, tuples where the file has lists, or the RowFault of a row without; None: the
    # file has no labels.
    labels: list | None
    lines: list[int]  # the line on which each row begins, from 1
    faults: list[tuple[int, str]]  # line and reason of each bad row
    columns: tuple[str, ...]  # all columns
    others: list[tuple[str, ...]]  # the cells of id_columns


# ---- Bytes to rows -------------------------------------------------------------------------------


class RowFault(ValueError):
    """The reason why a row is bad."""


@functools.lru_cache(maxsize=2)  # label names, rows and texts of a file are requested separately
def parse_rows(
    content,
    suffix,
    text_columns,
    label_column,
    source,
    takes_several=False,
    delimiter=None,
    id_columns=(),
):
    """Parses texts and labels of a file. Returns TextRows.

    Args:
        content: bytes of the file.
        suffix: key of FORMATS.
        text_columns: tuple of one or two str.
        source: str, names the file in messages.
        takes_several: bool. Whether a label may be a list, and empty: of a row without any.
        delimiter: str, between the columns of CSV and TSV; None: that of the format.
        id_columns: tuple of str, further columns to keep.
    Raises:
        UserError: the file is empty or lacks a column.
    """
    text = decoded(content, source)
    delimiter = delimiter or DELIMITER_OF[suffix]
    hint = _delimiter_hint(text, text_columns, delimiter)
    texts, labels, lines, faults, others = [], [], [], [], []
    names, place, columns = None, None, {}  # columns: those of all rows, in order
    for line, cells in FORMATS[suffix](io.StringIO(text, newline="\n"), delimiter):
        place = place or f"{source}, line {line}"
        try:
            if isinstance(cells, RowFault):
                raise cells
            if suffix != ".jsonl" and names is None:
                names = [name.strip() for name in cells]
                check_columns(names, text_columns, label_column, place, hint)
                columns = dict.fromkeys(names)
                continue
            row = cells if suffix == ".jsonl" else cells_of(cells, names)
            columns.update(dict.fromkeys(row))
            row_texts = tuple(_text(row, column) for column in text_columns)
        except RowFault as fault:
            if suffix != ".jsonl" and names is None:
                raise UserError(f"{place}: the row of names {fault}{hint}") from None
            faults.append((line, str(fault)))
            continue
        try:
            labels.append(_label(row, label_column, takes_several))
        except RowFault as fault:
            labels.append(fault)
        texts.append(row_texts)
        lines.append(line)
        cells = [row.get(column, "") for column in id_columns]
        others.append(tuple(c if isinstance(c, str) else json.dumps(c) for c in cells))
    if place is None:
        raise UserError(f"{source} is empty; its first line has the names of the columns")
    if columns:
        check_columns(list(columns), text_columns, label_column, place, hint)
    if not texts and not faults:
        raise UserError(f"{source} holds no rows")
    has_labels = label_column in columns
    labels = labels if has_labels else None
    return TextRows(texts, labels, lines, faults, tuple(columns), others)


def read_content(path):
    """Returns the bytes of a file of FORMATS. Raises UserError."""
    if path.suffix.lower() not in FORMATS:
        raise UserError(
            f"{path}: its name ends in no known format; available: {', '.join(FORMATS)}"
        )
    return read_bytes(path)


def decoded(content, source):
    """Returns the text of a file's bytes. source: names the file in messages."""
    if content.startswith(UTF16_MARKS):
        raise UserError(f"{source} is UTF-16; save it as UTF-8")
    # A byte that is not UTF-8 becomes a lone surrogate, which `_check_characters` reports.
    return content.decode("utf-8-sig", "surrogateescape")


def _csv(lines, delimiter):
    """Yields (line, list of str or RowFault) of each row."""
    csv.field_size_limit(MAX_CHARACTERS)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            end = f" up to line {reader.line_num}" if reader.line_num > line else ""
            yield line, RowFault(f"is not CSV{end}: {error}")
            continue
        if cells:
            yield line, cells


def _tsv(lines, delimiter):
    """As `_csv`."""
    for line, text in enumerate(lines, start=1):
        text = text.removesuffix("\n").removesuffix("\r")
        if text:
            yield line, text.split(delimiter)


def _jsonl(lines, delimiter):
    """Yields (line, dict or RowFault) of each line."""
    del delimiter
    for line, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield line, RowFault(f"is not JSON: {error}")
            continue
        is_object = isinstance(value, dict)
        yield line, value if is_object else RowFault(f"is {shown(value)}; an object is wanted")


FORMATS: dict[str, Iterator] = {".csv": _csv, ".tsv": _tsv, ".jsonl": _jsonl}
DELIMITER_OF = {".csv": ",", ".tsv": "\t", ".jsonl": None}


def _delimiter_hint(text, text_columns, delimiter):
    """Returns advice where the first line of a file has the columns, otherwise separated, or ""."""
    first_line = text.lstrip().partition("\n")[0]
    for other in DELIMITERS:
        try:
            names = [name.strip() for name in next(csv.reader([first_line], delimiter=other), [])]
        except csv.Error:
            continue
        if other != delimiter and set(text_columns) <= set(names):
            return f", separated by {json.dumps(other)}: {advice_on(other)}"
    return ""


def advice_on(delimiter):
    """Returns what to write for a file with this character between its columns."""
    quoted = "$'\\t'" if delimiter == "\t" else f"'{delimiter}'"
    return f"write delimiter: {json.dumps(delimiter)}, or --delimiter {quoted}"


def check_columns(columns, text_columns, label_column, place, hint):
    """Raises UserError where a column is missing or ambiguous.

    columns: list of str, the names in the first row, or the keys of all objects.
    """
    missing = [name for name in text_columns if name not in columns]
    if missing:
        raise UserError(
            f"{place} has no column {listed(missing)}, which text_columns (--text_columns) "
            f"names; it has {shown(listed(columns))}{hint or _name_hint(text_columns, columns)}"
        )
    doubled = [name for name in (*text_columns, label_column) if columns.count(name) > 1]
    if doubled:
        raise UserError(f"{place} has two columns {doubled[0]}; give them different names")


def _name_hint(text_columns, columns):
    """Returns advice where a column has about the name of a missing one, or ""."""
    for name in columns:
        if [part.strip() for part in name.split(",")] == list(text_columns):
            quoted = shlex.quote(listed([name]))
            return f"; a name with a comma stands between double quotes: --text_columns {quoted}"
    missing = next(name for name in text_columns if name not in columns)
    near = difflib.get_close_matches(missing, columns, n=1)
    return f"; did you mean {shown(near[0])}?" if near else ""


def listed(names):
    """Returns names as `--text_columns` takes them: one with a comma between double quotes."""
    quoted = ('"' + name.replace('"', '""') + '"' if "," in name else name for name in names)
    return ", ".join(quoted)


def cells_of(cells, columns):
    """Returns {column: value} of a row."""
    if len(cells) != len(columns):
        number = counted(len(cells), "column")
        raise RowFault(f"has {number}, the row of names {len(columns)}")
    return dict(zip(columns, cells, strict=True))


def _text(row, column):
    if column not in row:
        raise RowFault(f"has no {column}")
    text = row[column]
    if not isinstance(text, str):
        raise RowFault(f"{column} is {shown(text)}; text is wanted")
    _check_characters(text, column)
    if len(text) > MAX_CHARACTERS:
        raise RowFault(f"{column} has {len(text):,} characters, more than {MAX_CHARACTERS:,}")
    return text


def _label(row, column, takes_several):
    """Returns the label as text: 1 and "1" are the same, true is "true"; a tuple of a list."""
    label = row.get(column)
    if takes_several and isinstance(label, str) and not label.strip():
        return ""
    if label is None:
        raise RowFault(f"has no {column}")
    if takes_several and isinstance(label, list):
        return tuple(_name(each, column) for each in label)
    return _name(label, column)


def _name(label, column):
    if isinstance(label, bool | int) or (isinstance(label, float) and math.isfinite(label)):
        label = json.dumps(label)
    if not isinstance(label, str) or len(label) > MAX_LABEL_CHARACTERS:
        several = "; several in a row are labels of task: multi_label"
        hint = several if isinstance(label, list) else ""
        raise RowFault(f"{column} is {shown(label)}; a name or a number is wanted{hint}")
    _check_characters(label, column)
    if label.strip().casefold() == "nan":  # as programs write a number that is missing
        raise RowFault(f"{column} is {label.strip()}, which stands for none")
    return normalized(label)


def _without_unknown(labels, column):
    """The labels, with a RowFault in place of each `?`, which stands for none beside words.

    Where all labels are signs alone, as with punctuation marks, it is one of them.
    """
    texts = "".join(
        label if isinstance(label, str) else "".join(label)
        for label in labels
        if not isinstance(label, RowFault)
    )
    if not any(map(str.isalnum, texts)):
        return labels
    reason = f"{column} is {UNKNOWN}, which stands for none; if it is a class, write label_names"
    return [RowFault(reason) if each in (UNKNOWN, (UNKNOWN,)) else each for each in labels]


def _check_characters(text, column):
    check_utf8(text, column)
    if not text.strip():
        raise RowFault(f"{column} is empty")


def check_utf8(text, what):
    """Raises RowFault for half a character (a lone surrogate), as JSON can write it."""
    lone = re.search("[\ud800-\udfff]", text)
    if lone:
        raise RowFault(f"{what} is not UTF-8 at character {lone.start() + 1}")


def shown(value, most=60):
    """Returns a value for a message: on one line, at most `most` characters."""
    try:
        text = value if isinstance(value, str) else json.dumps(value)
    except RecursionError:
        return "nested too deeply"
    text = " ".join(text[: most + 20].split())
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= most else text[: most - 3] + "..."


# ---- The source ----------------------------------------------------------------------------------


class TextFileSource(FileSource):
    """A FileSource of rows of texts and a label.

    Args:
        cfg: InputParams: train_file, eval_file, delimiter, on_bad_row.
        processor: DataProcessor: text_keys and label_key are columns here.
        needs_targets: bool, see Source.
    Raises:
        UserError: a file cannot be read, or its rows cannot be used.
    """

    def __init__(self, cfg, processor, targets, needs_targets=True):
        super().__init__(cfg, processor, targets, needs_targets)
        self._delimiter, self._id_columns = cfg.delimiter, cfg.id_columns or ()
        self._told = set()  # splits to predict whose missing columns have been told
        self._takes_several = targets.takes_several
        column = LabelColumn(
            str(cfg.train_file), processor.label_key, "text", read=self._labels_in_train_file
        )
        self.targets = targets.named(column)

    def fingerprint(self, split):
        settings = [
            *(PARSER_VERSION, MAX_CHARACTERS, self.processor.text_keys, self.processor.label_key),
            *(self._path(split).suffix.lower(), self._delimiter, self._skips_bad_rows),
            *(self.needs_targets, self.targets.label_names),
            *self.targets.settings,
        ]
        return fingerprint_of(settings, read_content(self._path(split)))

    def content(self, split):
        rows = self._parsed(split)
        labels = [number_form(str(label)) for label in rows.labels or ()]
        digest = hashlib.sha256(json.dumps([rows.texts, labels]).encode()).hexdigest()
        return f"{counted(len(rows.texts), 'row')}, {digest[:32]}"

    def read(self, split, batch_size):
        """See Source. Without a label column, rows have the targets of `Targets.missing`."""
        import tensorflow as tf  # here, so that a file is checked before this slow import

        rows, targets = self._rows(split)
        with tf.device("/cpu:0"):
            texts = [list(row) for row in rows.texts]
            return tf.data.Dataset.from_tensor_slices((texts, targets)).batch(batch_size)

    def tokenize(self, split, tokenizer):
        from input.token_cache import tokenize_source

        return tokenize_source(self, split, tokenizer)

    def read_texts(self, split):
        return self._rows(split)[0].texts

    def skipped(self, split):
        rows, _ = self._rows(split)
        return [f"{self._path(split)}, line {line}: {text}" for line, text in rows.faults]

    def places(self, split, rows):
        lines = self._rows(split)[0].lines
        return [f"{self._path(split)}, line {lines[row]}" for row in rows]

    def id_columns(self, split):
        """See Source. Rows to predict may lack a column, which is told; others may not."""
        if not self._id_columns:
            return {}
        rows, _ = self._rows(split)
        missing = [name for name in self._id_columns if name not in rows.columns]
        reason = f"{self._path(split)} has no column {', '.join(missing)}, which id_columns names"
        if missing and self.needs_targets:
            raise UserError(f"{reason}; it has {shown(', '.join(rows.columns))}")
        if missing and split not in self._told:
            self._told.add(split)
            log(f"{reason}; predictions are without it")
        columns = zip(self._id_columns, zip(*rows.others, strict=True), strict=True)
        return {name: list(cells) for name, cells in columns if name not in missing}

    def _parsed(self, split):
        path, columns = self._path(split), (self.processor.text_keys, self.processor.label_key)
        more = str(path), self._takes_several, self._delimiter, self._id_columns
        return parse_rows(read_content(self._path(split)), path.suffix.lower(), *columns, *more)

    def _labels_in_train_file(self):
        """Returns the label of every row: list of str."""
        if self._paths["train"] is None:
            raise UserError(
                "neither label_names nor train_file is given, so the names of the classes are "
                "unknown; write label_names, in the order of the training"
            )
        path, rows = self._paths["train"], self._parsed("train")
        if rows.labels is None:
            self._refuse(rows.faults, path)
            raise UserError(
                f"{path} has no column {self.processor.label_key}; it has "
                f"{shown(', '.join(rows.columns))}. Write the one with the labels as label_column "
                "(--label_column)"
            )
        labels = _without_unknown(rows.labels, self.processor.label_key)
        without = [
            (line, str(label))
            for line, label in zip(rows.lines, labels, strict=True)
            if isinstance(label, RowFault)
        ]
        self._refuse(sorted(rows.faults + without), path)
        return [label for label in labels if not isinstance(label, RowFault)]

    def _rows(self, split):
        """Returns the TextRows with valid targets, and these: {name: array [N, ...]}.

        Raises:
            UserError: there are bad rows and on_bad_row is error, or no row is valid.
        """
        path, parsed = self._path(split), self._parsed(split)
        texts, targets, lines, others, faults = [], [], [], [], list(parsed.faults)
        labels = parsed.labels or [None] * len(parsed.texts)
        rows = zip(parsed.texts, labels, parsed.lines, parsed.others, strict=True)
        for text, label, line, other in rows:
            try:
                row_targets = self.targets.missing if label is None else self._parse(label)
            except RowFault as fault:
                if self.needs_targets:
                    faults.append((line, str(fault)))
                    continue
                row_targets = self.targets.missing
            texts.append(text)
            targets.append(row_targets)
            lines.append(line)
            others.append(other)
        self._refuse(sorted(faults), path)
        if not texts:
            raise UserError(f"{path} holds no row that can be used; {len(faults)} cannot")
        rows = TextRows(texts, None, lines, sorted(faults), parsed.columns, others)
        specs = self.targets.specs
        return rows, {
            name: np.array([row[name] for row in targets], specs[name].dtype) for name in specs
        }

    def _refuse(self, faults, path):
        if not self._skips_bad_rows:
            refuse(faults, path, advice=" (--override '*_input.on_bad_row=skip')")

    def _parse(self, label):
        """Returns the targets of a label of TextRows. Raises RowFault."""
        if isinstance(label, RowFault):
            raise label
        try:
            return self.targets.parse(label)
        except ValueError as error:
            reason = f"label is {shown(label)}; {shown(str(error), 75)}"
            raise RowFault(reason) from None
