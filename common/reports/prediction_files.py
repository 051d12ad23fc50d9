# SPDX-License-Identifier: Apache-2.0
"""Prediction files: the original's npz of the outputs, and beside it a table people can read."""

import csv
import io
from pathlib import Path

import numpy as np

from common.files import write_whole


def in_one_cell(text):
    """A text without what would end its cell or its line in a table: tabs and line ends."""
    return " ".join(text.replace("\0", " ").split())


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
    array, table = io.BytesIO(), io.StringIO()
    if len(outputs) == 1:
        np.savez(array, *outputs.values())
    else:
        np.savez(array, **outputs)
    columns = ["text"] if len(texts[0]) == 1 else ["text_a", "text_b"]
    writer = csv.writer(
        table, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None
    )
    id_columns = id_columns or {}
    writer.writerow(["id", *id_columns, *columns, *map(in_one_cell, records[0])])
    rows = zip(*id_columns.values(), texts, records, strict=True)
    for row, (*cells, row_texts, record) in enumerate(rows):
        values = [v if isinstance(v, str) else f"{v:.6f}" for v in record.values()]
        writer.writerow([row, *map(in_one_cell, [*cells, *row_texts, *values])])
    paths = [Path(folder) / f"{name}.npz", Path(folder) / f"{name}.tsv"]
    for path, content in zip(paths, (array.getvalue(), table.getvalue()), strict=True):
        write_whole(path, content)
    return paths
