# SPDX-License-Identifier: Apache-2.0
"""Prediction files: the original's npz of logits, and beside it a table people can read."""

import csv
import io
from pathlib import Path

import numpy as np

from common.files import write_whole
from common.metrics.classification import softmax


def write_predictions(folder, name, logits, texts, label_names, temperature=1.0):
    """Writes `<folder>/<name>.npz` and `<folder>/<name>.tsv`, each aside and renamed.

    The npz holds one array `arr_0`, the logits, as the original's did. The TSV has a row per
    example: id (row number), text (two texts: text_a, text_b), label, and the probability of each
    label, softmax(logits / temperature); of a regression, its value in place of these. Tabs and
    line ends within a text become spaces.

    Args:
        folder: path-like, made if absent.
        name: str.
        logits: float [N, C].
        texts: list of N tuples of one or two str.
        label_names: C str.
        temperature: float > 0, of `common/metrics/calibration.py`.
    Returns:
        Paths of the npz and of the TSV.
    """
    folder = Path(folder)
    array = io.BytesIO()
    np.savez(array, logits)
    table = io.StringIO()
    columns = ["text"] if len(texts[0]) == 1 else ["text_a", "text_b"]
    writer = csv.writer(
        table, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None
    )
    if logits.shape[-1] == 1:
        names, answers = ["value"], [[f"{value:.6f}"] for (value,) in logits]
    else:
        names = ["label", *(f"p_{name}" for name in label_names)]
        answers = [
            [label_names[int(probabilities.argmax())], *(f"{p:.6f}" for p in probabilities)]
            for probabilities in softmax(np.asarray(logits, np.float64) / temperature)
        ]
    writer.writerow(["id", *columns, *names])
    for row, (row_texts, answer) in enumerate(zip(texts, answers, strict=True)):
        plain = [" ".join(text.replace("\0", " ").split()) for text in row_texts]
        writer.writerow([row, *plain, *answer])
    contents = {".npz": array.getvalue(), ".tsv": table.getvalue().encode("utf-8")}
    paths = []
    for suffix, content in contents.items():
        paths.append(folder / f"{name}{suffix}")
        write_whole(paths[-1], content)
    return paths
