# SPDX-License-Identifier: Apache-2.0
"""The report of the latest evaluation: eval/report-validation.json, and a text table."""

from pathlib import Path

from common.files import write_whole
from common.reports.listener import Listener
from common.reports.metrics_file import to_json

MAX_TABLE_WIDTH = 100  # columns of text; instead of a wider confusion matrix, its plot is named


class EvaluationReport(Listener):
    """Writes the file: per-class metrics and confusion matrix. model_dir: path-like."""

    def __init__(self, model_dir):
        self.path = Path(model_dir) / "eval" / "report-validation.json"

    def on_evaluation(self, step, report):
        content = {"name": "validation", "step": int(step), **report}
        write_whole(self.path, to_json(content, indent=2) + "\n")


def evaluation_text(step, report):
    """Returns a report as text: a line of figures and, for classes, tables of their metrics."""
    head = f"validation at step {step}: "
    if "per_class" not in report:
        figures = {key: value for key, value in report.items() if isinstance(value, (int, float))}
        count = figures.pop("num_examples")
        listed = "".join(f"{key} {value:.4f}, " for key, value in figures.items())
        return f"{head}{listed}{count} examples"
    classes = report["per_class"]
    head += (
        f"accuracy {report['accuracy']:.4f}, loss {report['loss']:.4f}, "
        f"{report['num_examples']} examples"
    )
    rows = [["class", "precision", "recall", "f1", "examples"]]
    for figures in classes:
        scores = [f"{figures[metric]:.4f}" for metric in ("precision", "recall", "f1")]
        rows.append([figures["label"], *scores, str(figures["support"])])
    matrix = [["true \\ predicted", *(figures["label"] for figures in classes)]]
    for figures, counts in zip(classes, report["confusion"], strict=True):
        matrix.append([figures["label"], *map(str, counts)])
    matrix = _align(matrix)
    if max(map(len, matrix)) > MAX_TABLE_WIDTH:
        matrix = [f"confusion matrix of {len(classes)} classes: plots/confusion_validation.png"]
    return "\n".join([head, *_align(rows), "", *matrix])


def _align(rows):
    """Returns rows of str as lines, the first column aligned left and the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in rows
    ]
