# SPDX-License-Identifier: Apache-2.0
"""Prediction files: the original's npz of logits, and beside it a table people can read."""

import csv
import io
import os
from pathlib import Path

import numpy as np

from common.metrics.classification import softmax


def write_predictions(folder, name, logits, texts, label_names):
    """Writes `<folder>/<name>.npz` and `<folder>/<name>.tsv`, each aside and renamed.

    The npz holds one array `arr_0`, the logits, as the original's did. The TSV has a row per
    example: id (row number), text (two texts: text_a, text_b), label, and the probability of each
    label. Tabs and line ends within a text become spaces.

    Args:
        folder: path-like, made if absent.
        name: str.
        logits: float [N, C].
        texts: list of N tuples of one or two str.
        label_names: C str.
    Returns:
        Paths of the npz and of the TSV.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    array = io.BytesIO()
    np.savez(array, logits)
    table = io.StringIO()
    columns = ["text"] if len(texts[0]) == 1 else ["text_a", "text_b"]
    writer = csv.writer(
        table, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None
    )
    writer.writerow(["id", *columns, "label", *(f"p_{name}" for name in label_names)])
    for row, (row_texts, probabilities) in enumerate(zip(texts, softmax(logits), strict=True)):
        plain = [" ".join(text.replace("\0", " ").split()) for text in row_texts]
        label = label_names[int(probabilities.argmax())]
        writer.writerow([row, *plain, label, *(f"{p:.6f}" for p in probabilities)])
    contents = {".npz": array.getvalue(), ".tsv": table.getvalue().encode("utf-8")}
    paths = []
    for suffix, content in contents.items():
        path = folder / f"{name}{suffix}"
        aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            aside.write_bytes(content)
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        paths.append(path)
    return paths
