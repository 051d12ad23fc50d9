# SPDX-License-Identifier: Apache-2.0
"""eval/report-validation.json, of the latest evaluation or the best of training; a text table."""

import contextlib
import json
from pathlib import Path

from common.console import counted, in_one_cell
from common.files import write_whole
from common.reports.listener import Listener
from common.reports.metrics_file import to_json

MAX_TABLE_WIDTH = 100  # columns of text; instead of a wider confusion matrix, its plot is named


class EvaluationReport(Listener):
    """Writes the file: per-class metrics and confusion matrix. model_dir: path-like."""

    def __init__(self, model_dir):
        self.model_dir = model_dir

    def on_evaluation(self, step, report, is_chosen=True, rows=None, folder=""):
        if not is_chosen:
            return
        content = {"name": "validation", "step": int(step), **report}
        write_whole(path_of(self.model_dir, folder), to_json(content, indent=2) + "\n")


def path_of(model_dir, folder=""):
    """Returns the Path of the report; folder: as of `Listener.on_evaluation`."""
    return Path(model_dir, "eval", folder, "report-validation.json")


def read_report(model_dir, folder=""):
    """Returns the dict of the report that was written last; {} without one."""
    with contextlib.suppress(OSError, ValueError):
        report = json.loads(path_of(model_dir, folder).read_text("utf-8"))
        return report if isinstance(report, dict) else {}
    return {}


def evaluation_text(step, report):
    """Returns a report as text: a line of figures and, for classes, tables of their metrics."""
    classes, is_matrix = report.get("per_class", ()), "confusion" in report
    names = ("accuracy", "loss") if is_matrix else report
    figures = {key: report[key] for key in names if isinstance(report[key], float)}
    listed = ", ".join(f"{key} {value:.4f}" for key, value in figures.items())
    examples = counted(report["num_examples"], "example")
    lines = [f"validation at step {step}: {listed}, {examples}"]
    if classes:
        columns = [c for c in ("precision", "recall", "f1", "threshold") if c in classes[0]]
        labels = [in_one_cell(of_class["label"]) for of_class in classes]
        rows = [["class", *columns, "examples"]]
        for label, of_class in zip(labels, classes, strict=True):
            scores = [f"{of_class[column]:.4f}" for column in columns]
            rows.append([label, *scores, str(of_class["support"])])
        lines += _align(rows)
    if is_matrix:
        matrix = [["true \\ predicted", *labels]]
        for label, counts in zip(labels, report["confusion"], strict=True):
            matrix.append([label, *map(str, counts)])
        matrix = _align(matrix)
        if max(map(len, matrix)) > MAX_TABLE_WIDTH:
            matrix = [f"confusion matrix of {len(classes)} classes: plots/confusion_validation.png"]
        lines += ["", *matrix]
    return "\n".join(lines)


def _align(rows):
    """Returns rows of str as lines, the first column aligned left and the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in rows
    ]
