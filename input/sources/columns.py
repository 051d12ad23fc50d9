# SPDX-License-Identifier: Apache-2.0
"""Which columns of a file hold the text and the label, where nothing says so."""

import io
from pathlib import Path

from common.errors import UserError
from input.sources.text_files import (
    DELIMITER_OF,
    DELIMITERS,
    FORMATS,
    RowFault,
    advice_on,
    decoded,
    listed,
    read_content,
    shown,
)

# The texts of a row under the names of GLUE's data sets and of most files; the label is `label`.
TEXTS = (
    ("text",),
    ("sentence",),
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
)
LABEL = "label"


def find_columns(path, text_columns=None, label_column=None, delimiter=None):
    """Returns (text columns, label column): those given, else those that the names leave no doubt
    of: `label`, and beside it nothing but one of TEXTS.

    Args:
        path: str, of a file of FORMATS.
        text_columns: tuple or list of str, or None. label_column: str or None.
        delimiter: str between columns, or None: that of the format.
    Raises:
        UserError: the file cannot be read, or its columns leave a doubt; it lists them.
    """
    if text_columns is not None and label_column is not None:
        return text_columns, label_column  # which the source checks
    is_usable = isinstance(delimiter, str) and len(delimiter) == 1  # else it is refused later
    delimiter = delimiter if is_usable else None
    names = column_names(Path(path).expanduser(), delimiter)
    label = label_column or (LABEL if LABEL in names else None)
    if label is not None and label not in names:
        raise UserError(
            f"{path} has no column {label}, which label_column (--label_column) names; it has "
            f"{shown(listed(names), 200)}"
        )
    others = sorted(name for name in names if name != label)
    texts = text_columns or next((each for each in TEXTS if sorted(each) == others), None)
    unknown = []
    if texts is None:
        unknown.append("--text_columns NAME (or A,B for pairs of texts)")
    if label is None:
        unknown.append("--label_column NAME")
    if unknown:
        raise UserError(
            f"{path} has the columns {shown(listed(names), 200)}: name those to use, "
            f"{' and '.join(unknown)}{_separator_hint(names, delimiter)}"
        )
    return texts, label


def column_names(path, delimiter=None):
    """Returns the columns of a file, or the keys of its objects: list of str. Raises UserError."""
    suffix = path.suffix.lower()
    text = decoded(read_content(path), path)
    names, faults = {}, []
    delimiter = delimiter or DELIMITER_OF[suffix]
    for line, cells in FORMATS[suffix](io.StringIO(text, newline="\n"), delimiter):
        if isinstance(cells, RowFault):
            faults.append(f"{path}, line {line}: {cells}")
        else:
            names |= dict.fromkeys(cells if suffix == ".jsonl" else map(str.strip, cells))
        if suffix != ".jsonl":
            break
    if not names:
        empty = f"{path} is empty; its first line has the names of the columns"
        raise UserError(faults[0] if faults else empty)
    return list(names)


def _separator_hint(names, delimiter):
    """Returns advice where a row of names seems to be separated by another character, or ""."""
    row = "".join(names)
    other = next((each for each in DELIMITERS if row.count(each) >= max(1, len(names) - 1)), None)
    if delimiter is not None or other is None:
        return ""
    return f"; if another character separates them, {advice_on(other)}"
