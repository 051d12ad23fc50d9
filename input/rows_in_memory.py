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
    pairs = zip(rows, labels, strict=True)
    _write_lines(path, [dict(zip(columns, row, strict=True)) | {LABEL: of} for row, of in pairs])
    named = {"text_columns": columns, "label_column": LABEL}
    return {f"*_input.{key}": str(path), **{f"*_input.{k}": v for k, v in named.items()}}


def write_questions(path, pairs, answers, key):
    """As `write_rows`, of pairs (question, text) and their answers.

    answers: for each pair a str that stands in its text; a list of them; in place of a str also a
    dict {"text", "answer_start"}. None, "" or an empty list: there is no answer in the text.
    """
    rows = as_rows(pairs)
    if rows and len(rows[0]) != 2:
        raise UserError("questions are pairs (question, text); these are texts alone")
    answers = [] if answers is None else [_as_answers(each) for each in answers]
    if len(answers) != len(rows) or not rows:
        raise UserError(
            f"{len(rows)} questions have {len(answers)} answers; one for each is wanted: a part of "
            "its text, or None"
        )
    lines = [
        {"question": question, "context": context, "answers": of_row}
        for (question, context), of_row in zip(rows, answers, strict=True)
    ]
    _write_lines(path, lines)
    may_lack = {} if all(answers) else {"*_input.version_2_with_negative": True}
    return {f"*_input.{key}": str(path), **may_lack}


def _as_answers(value):
    if value is None or (isinstance(value, str) and not value):
        return []
    return [value] if isinstance(value, str | dict) else list(value)


def _write_lines(path, rows):
    """Writes dicts as JSON Lines, unless the file has them already."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    content = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")
    if not path.is_file() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)


def as_plain(label):
    """A label as JSON has it: NumPy's numbers become Python's."""
    return label.item() if isinstance(label, np.generic) else label
