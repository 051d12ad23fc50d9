# SPDX-License-Identifier: Apache-2.0
"""The report of an evaluation: its file and its text."""

import json
import math

import numpy as np

from common.reports.evaluation_report import EvaluationReport, evaluation_text

REPORT = {
    "num_examples": 12,
    "accuracy": 0.75,
    "loss": 0.5632616875,
    "mcc": 0.478,
    "macro_f1": 0.7333,
    "per_class": [
        {"label": "dog", "precision": 0.6, "recall": 0.75, "f1": 0.6667, "support": 4},
        {"label": "cat", "precision": 0.8571, "recall": 0.75, "f1": 0.8, "support": 8},
    ],
    "confusion": [[3, 1], [2, 6]],
}


def test_evaluation_writes_its_report(tmp_path):
    EvaluationReport(tmp_path).on_evaluation(6315, REPORT)
    written = json.loads((tmp_path / "eval/report-validation.json").read_text())
    assert written == {"name": "validation", "step": 6315, **REPORT}
    assert [path.name for path in tmp_path.rglob("*.*")] == ["report-validation.json"]


def test_report_with_a_loss_that_is_not_finite_is_valid_json(tmp_path):
    EvaluationReport(tmp_path).on_evaluation(1, {**REPORT, "loss": math.nan})
    assert json.loads((tmp_path / "eval/report-validation.json").read_text())["loss"] == "NaN"


def test_text_of_classes_is_a_table_and_their_confusion():
    assert evaluation_text(6315, REPORT) == (
        "validation at step 6315: accuracy 0.7500, loss 0.5633, 12 examples\n"
        "  class  precision  recall      f1  examples\n"
        "  dog       0.6000  0.7500  0.6667         4\n"
        "  cat       0.8571  0.7500  0.8000         8\n"
        "\n"
        "  true \\ predicted  dog  cat\n"
        "  dog                 3    1\n"
        "  cat                 2    6"
    )


def test_a_label_with_a_tab_or_a_line_end_keeps_the_tables_in_shape():
    classes = [
        of_class | {"label": f"{n}\t\ndog"} for n, of_class in enumerate(REPORT["per_class"])
    ]
    lines = evaluation_text(6315, {**REPORT, "per_class": classes}).splitlines()
    assert [line[:7] for line in lines[2:4]] == ["  0 dog", "  1 dog"] and len(lines) == 8


def test_text_of_figures_alone_is_a_line():
    report = {"num_examples": 7, "pearson": 0.5, "loss": 0.25}
    assert (
        evaluation_text(3, report)
        == "validation at step 3: pearson 0.5000, loss 0.2500, 7 examples"
    )


def test_text_leaves_out_what_is_no_number():
    report = {"num_examples": 7, "loss": 0.25, "per_label": [{"label": "x"}], "threshold": "none"}
    assert evaluation_text(3, report) == "validation at step 3: loss 0.2500, 7 examples"


def test_text_names_the_plot_of_a_wide_confusion_matrix():
    classes = [{**REPORT["per_class"][0], "label": f"class number {i}"} for i in range(20)]
    report = {**REPORT, "per_class": classes, "confusion": np.ones((20, 20), int).tolist()}
    lines = evaluation_text(1, report).splitlines()
    assert lines[-1] == "confusion matrix of 20 classes: plots/confusion_validation.png"
    assert len(lines) == 1 + 1 + 20 + 1 + 1
