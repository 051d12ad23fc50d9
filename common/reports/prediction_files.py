# SPDX-License-Identifier: Apache-2.0
"""Prediction files: the original's npz of the outputs, and beside it a table people can read; and
the same table of an evaluation, with what is true, and its mistakes."""

import csv
import io
from pathlib import Path

import numpy as np

from common.console import in_one_cell
from common.files import write_whole
from common.reports.listener import Listener


def write_predictions(folder, name, outputs, texts, records, id_columns=None):
    """Writes `<folder>/<name>.npz` and `<folder>/<name>.tsv`, each aside and renamed.

    The npz holds the task's outputs; the only one of a task is `arr_0`, as the original's logits
    were. The TSV has a line per row: id (row number), the id_columns, text (two texts: text_a,
    text_b), and what the record says. Tabs and line ends within a text or a label become spaces.

    Args:
        outputs: {name: array [N, ...]}.
        texts: list of N tuples of one or two str.
        records: list of N {column: str or float}, of a task's `predictions`.
        id_columns: {column: list of N str} of the file that was read, or None.
    Returns:
        Paths of the npz and of the TSV.
    """
    array = io.BytesIO()
    if len(outputs) == 1:
        np.savez(array, *outputs.values())
    else:
        np.savez(array, **outputs)
    table = table_of(*rows_of(records, texts, id_columns or {}))
    paths = [Path(folder) / f"{name}.npz", Path(folder) / f"{name}.tsv"]
    for path, content in zip(paths, (array.getvalue(), table), strict=True):
        write_whole(path, content)
    return paths


def rows_of(records, texts, id_columns):
    """Returns the columns of the TSV, list of str, and its rows, lists of str or float."""
    names = [["text"], ["text_a", "text_b"]][len(texts[0]) - 1] if texts[0] else []
    cells = zip(*id_columns.values(), strict=True) if id_columns else [()] * len(texts)
    rows = [
        [str(number), *of_row, *row_texts, *record.values()]
        for number, (of_row, row_texts, record) in enumerate(
            zip(cells, texts, records, strict=True)
        )
    ]
    return ["id", *id_columns, *names, *records[0]], rows


def table_of(columns, rows):
    """Returns a TSV. Tabs and line ends within a cell become spaces."""
    table = io.StringIO()
    writer = csv.writer(
        table, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None
    )
    for row in (columns, *rows):
        writer.writerow([in_one_cell(v if isinstance(v, str) else f"{v:.6f}") for v in row])
    return table.getvalue()


class EvaluationRows(Listener):
    """Writes eval/rows_<split>.tsv and eval/errors_<split>.tsv, the surest mistakes first."""

    def __init__(self, model_dir):
        self.folder = Path(model_dir) / "eval"

    def on_evaluation(self, step, report, is_chosen=True, rows=None, folder=""):
        if not is_chosen or rows is None:
            return
        for split, (columns, of_split, mistakes) in rows().items():
            surest = [n for n in np.argsort(-mistakes, kind="stable") if mistakes[n] > 0]
            errors = [of_split[n] for n in surest]
            for name, shown in (("rows", of_split), ("errors", errors)):
                write_whole(self.folder / folder / f"{name}_{split}.tsv", table_of(columns, shown))
