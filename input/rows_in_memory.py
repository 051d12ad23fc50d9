# SPDX-License-Identifier: Apache-2.0
"""Texts and labels of a caller in Python as a file of rows, which a training reads like any other.

So a run of `api.py` has its rows beside it, and run.py can continue or repeat it.
"""

import contextlib
import json
import math
import reprlib
from collections.abc import Mapping, Set

import numpy as np

from common.errors import UserError
from common.files import write_whole

COLUMNS = {1: ("text",), 2: ("text_a", "text_b")}
LABEL = "label"


def as_list(values, what):
    """Returns a list of a list or column. what: str, "texts" or so. Raises UserError.

    A table yields the names of its columns, a mapping its keys, a set any order: these are refused.
    """
    if isinstance(values, str):
        raise UserError(f"a list of {what} is wanted, not one text; write [text]")
    is_table = any(hasattr(values, name) for name in ("columns", "column_names"))
    kind = type(values).__name__
    if is_table or isinstance(values, Mapping | Set | bytes) or not hasattr(values, "__iter__"):
        shown = f"a {kind}" if is_table or hasattr(values, "__iter__") else reprlib.repr(values)
        raise UserError(
            f"the {what} are {shown}; a list is wanted, or one column of a table, such as "
            'table["text"]'
        )
    return list(values)


def as_rows(texts):
    """Returns a list of tuples of one or two str, of texts or pairs of them. Raises UserError."""
    given = as_list(texts, "texts")
    rows = [
        tuple(each) if isinstance(each, list | tuple | np.ndarray) else (each,) for each in given
    ]
    for number, row in enumerate(rows):
        is_text = all(isinstance(text, str) for text in row)
        if not is_text or len(row) != len(rows[0]) or len(row) not in COLUMNS:
            raise UserError(
                f"row {number} is {reprlib.repr(given[number])}; a text is wanted, or a pair of "
                "texts, in every row"
            )
    return rows


def as_labels(labels, num_rows):
    """Returns the labels of a number of texts as JSON has them: list. Raises UserError."""
    labels = [] if labels is None else [as_plain(each) for each in as_list(labels, "labels")]
    if len(labels) != num_rows or not num_rows:
        raise UserError(f"{num_rows} texts have {len(labels)} labels; one for each text is wanted")
    for number, label in enumerate(labels):
        is_known = isinstance(label, str | int | list | tuple | dict)
        if not is_known and not (isinstance(label, float) and math.isfinite(label)):
            raise UserError(
                f"label {number} is {reprlib.repr(label)}; a name or a number is wanted for each "
                "text; leave out the texts without one"
            )
    return labels


def write_rows(path, texts, labels, key):
    """Writes texts and labels as JSON Lines, unless the file has them already.

    Returns {dotted key: value} of the file. Raises UserError where a row has no label.
    """
    rows = as_rows(texts)
    labels = as_labels(labels, len(rows))
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
    answers = [] if answers is None else as_list(answers, "answers")
    answers = [_as_answers(each, number) for number, each in enumerate(answers)]
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


def _as_answers(value, number):
    if value is None or (isinstance(value, str) and not value):
        return []
    if not isinstance(value, str | dict | list | tuple):
        raise UserError(
            f"answer {number} is {reprlib.repr(value)}; a part of its text is wanted, or None"
        )
    return [value] if isinstance(value, str | dict) else list(value)


def _write_lines(path, rows):
    """Writes dicts as JSON Lines, unless the file has them already."""
    try:
        lines = [json.dumps(row, ensure_ascii=False, default=as_plain) for row in rows]
    except (TypeError, ValueError) as error:  # within a list of labels or spans
        raise UserError(f"the labels cannot be written as JSON: {error}") from None
    content = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")
    if not path.is_file() or path.read_bytes() != content:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content)
        except OSError as error:
            raise UserError(
                f"{path} cannot be written: {error.strerror}; choose another model_dir"
            ) from None


def as_plain(label):
    """A label as JSON has it: NumPy's numbers become Python's, and its arrays lists."""
    return label.tolist() if isinstance(label, np.generic | np.ndarray) else label


@contextlib.contextmanager
def put_back_if_refused(folder):
    """A context in which a UserError gives the files of a folder back what they had before it.

    The rows of a training that cannot go on with others stay those that it was trained on.
    """
    former = {path: path.read_bytes() for path in folder.glob("*.jsonl")}
    try:
        yield
    except UserError:
        for path, content in former.items():
            if path.read_bytes() != content:
                write_whole(path, content)
        raise
