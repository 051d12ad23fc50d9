# SPDX-License-Identifier: Apache-2.0
"""Texts and labels of a caller in Python as a file of rows, which a training reads like any other.

So a run of `api.py` has its rows beside it, and run.py can continue or repeat it.
"""

import json

import numpy as np

from common.errors import UserError
from common.files import write_whole

COLUMNS = {1: ("text",), 2: ("text_a", "text_b")}
LABEL = "label"


def as_rows(texts):
    """Returns a list of tuples of one or two str, of texts or pairs of them. Raises UserError."""
    if isinstance(texts, str):
        raise UserError("a list of texts is wanted, not one text; write [text]")
    rows = [(each,) if isinstance(each, str) else tuple(each) for each in texts]
    for number, row in enumerate(rows):
        is_text = all(isinstance(text, str) for text in row)
        if not is_text or len(row) != len(rows[0]) or len(row) not in COLUMNS:
            raise UserError(
                f"row {number} is {row!r}; a text is wanted, or a pair of texts, in every row"
            )
    return rows


def write_rows(path, texts, labels, key):
    """Writes texts and labels as JSON Lines, unless the file has them already.

    Returns {dotted key: value} of the file. Raises UserError where a row has no label.
    """
    rows = as_rows(texts)
    labels = [] if labels is None else [as_plain(label) for label in labels]
    if len(labels) != len(rows) or not rows:
        raise UserError(f"{len(rows)} texts have {len(labels)} labels; one for each text is wanted")
    columns = COLUMNS[len(rows[0])]
    lines = [
        json.dumps({**dict(zip(columns, row, strict=True)), LABEL: label}, ensure_ascii=False)
        for row, label in zip(rows, labels, strict=True)
    ]
    content = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")
    if not path.is_file() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    named = {"text_columns": columns, "label_column": LABEL}
    return {f"*_input.{key}": str(path), **{f"*_input.{k}": v for k, v in named.items()}}


def as_plain(label):
    """A label as JSON has it: NumPy's numbers become Python's."""
    return label.item() if isinstance(label, np.generic) else label
