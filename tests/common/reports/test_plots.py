# SPDX-License-Identifier: Apache-2.0
"""What plots show, and the files they are written to."""

import gc
import math
from itertools import pairwise

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from common.reports.metrics_file import MetricsFile
from common.reports.plots import Plots, draw_confusion, draw_curves, smooth


def _report_of(num_classes, label="class number {}"):
    """A report with only what tables and pictures read."""
    confusion = np.full((num_classes, num_classes), 2) + 41 * np.eye(num_classes, dtype=int)
    scores = {"precision": 0.5, "recall": 0.5, "f1": 0.5}
    classes = [
        {"label": label.format(i), **scores, "support": int(confusion[i].sum())}
        for i in range(num_classes)
    ]
    report = {"accuracy": 0.75, "num_examples": 12, "per_class": classes}
    return {**report, "confusion": confusion.tolist()}


def test_evaluation_of_classes_writes_its_plot(tmp_path):
    Plots(tmp_path).on_evaluation(6315, {"num_examples": 7, "pearson": 0.5})
    # best_metric has chosen another one, whose plot stays.
    Plots(tmp_path).on_evaluation(6316, _report_of(2), is_chosen=False)
    assert not list(tmp_path.iterdir())
    Plots(tmp_path).on_evaluation(6315, _report_of(2))
    assert matplotlib.image.imread(tmp_path / "plots/confusion_validation.png").std() > 0.1
    assert [path.name for path in tmp_path.rglob("*.*")] == ["confusion_validation.png"]


@pytest.mark.parametrize("num_classes", [2, 3, 8, 20])
def test_confusion_picture_names_classes_and_counts_without_overlap(num_classes):
    figure = draw_confusion(_report_of(num_classes), "validation")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (axes,) = figure.axes
    names = [f"class number {i}" for i in range(num_classes)]
    assert [label.get_text() for label in axes.get_xticklabels()] == names
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    shown = [text.get_text().split("\n")[0] for text in axes.texts]
    diagonal_first = ["43", *["2"] * num_classes]
    assert shown == (diagonal_first * num_classes)[: num_classes**2]
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in axes.texts]
    right, below = pairwise(boxes), zip(boxes, boxes[num_classes:], strict=False)
    assert not any(one.overlaps(other) for one, other in (*right, *below))


def test_confusion_picture_of_very_many_classes_stays_small():
    figure = draw_confusion(_report_of(150), "validation")
    assert max(figure.get_size_inches()) < 30
    assert not figure.axes[0].texts


def test_labels_with_dollar_signs_and_classes_without_rows_are_drawn(tmp_path):
    report = _report_of(3, label="$_{}^$")  # as TeX, it would be refused
    report["confusion"][1] = [0, 0, 0]
    Plots(tmp_path).on_evaluation(1, report)
    assert (tmp_path / "plots/confusion_validation.png").stat().st_size > 5000


@pytest.mark.parametrize("label", ["very\tgood", "退货"])
def test_labels_that_no_font_has_are_drawn_without_a_warning(tmp_path, label):
    Plots(tmp_path).on_evaluation(1, _report_of(3, label=label))
    assert (tmp_path / "plots/confusion_validation.png").stat().st_size > 5000


def test_curves_mark_the_best_evaluation(tmp_path):
    curves = {
        ("train", "train/cost_cls"): {1: 0.9, 2: math.nan, 3: 0.5},
        ("train", "train/lr"): {1: 1e-5, 2: 2e-5, 3: 1e-5},
        ("eval", "loss"): {1000: 0.6, 2000: 0.4, 3000: 0.5},
        ("eval", "eval/accuracy_matched"): {1000: 0.7, 2000: 0.71, 3000: 0.73},
        ("eval", "eval/accuracy_mismatched"): {1000: 0.72, 2000: 0.74, 3000: 0.73},
    }
    figure = draw_curves(curves, "title")
    loss, accuracy, learning_rate = figure.axes
    assert [text.get_text() for text in loss.get_legend().get_texts()] == [
        "training, smoothed",
        "evaluation, best 0.4000 at step 2,000",
    ]
    assert [text.get_text() for text in accuracy.get_legend().get_texts()] == [
        "matched, best 0.7300 at step 3,000",
        "mismatched, best 0.7400 at step 2,000",
    ]
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == ["loss", "accuracy", "learning rate"]
    assert learning_rate.get_xlabel() == "step"
    assert loss.get_lines()[0].get_xdata().tolist() == [1, 3]  # not finite: left out


def test_curves_of_pre_training_name_its_two_accuracies():
    curves = {
        ("train", "train/cost"): {1: 10.9, 3: 9.5},
        ("train", "train/cost_cls"): {1: 0.7, 3: 0.6},
        ("eval", "eval/accuracy_masked_lm"): {3: 0.25},
        ("eval", "eval/accuracy_cls"): {3: 0.5},
    }
    loss, accuracy = draw_curves(curves, "title").axes
    assert loss.get_lines()[0].get_ydata().tolist() == [10.9, 9.5]
    assert [text.get_text() for text in accuracy.get_legend().get_texts()] == [
        "masked words, best 0.2500 at step 3",
        "next sentence, best 0.5000 at step 3",
    ]


@pytest.mark.parametrize(
    ("key", "panels"),
    [
        (("train", "train/cost_cls"), ["loss"]),
        (("eval", "loss"), ["loss"]),
        (("eval", "eval/accuracy_cls"), ["accuracy"]),
        (("train", "train/lr"), ["learning rate"]),
    ],
)
def test_one_point_of_one_curve_is_drawn(key, panels):
    figure = draw_curves({key: {7: 0.5}}, "title")
    FigureCanvasAgg(figure).draw()
    assert [axes.get_ylabel() for axes in figure.axes] == panels
    assert any(line.get_marker() == "o" for line in figure.axes[0].get_lines())


def test_curves_without_a_finite_figure_draw_nothing():
    assert draw_curves({("train", "train/cost_cls"): {1: math.nan}}, "title") is None
    assert draw_curves({("train", "train/unclipped_grad_norm"): {1: 1.0}}, "title") is None


def test_learning_curves_are_drawn_at_the_end_from_the_metrics_file(tmp_path):
    metrics_file, plots = MetricsFile(tmp_path), Plots(tmp_path)
    plots.on_end(None)
    assert not list(tmp_path.iterdir())
    for step in range(1, 30):
        figures = {"train/cost_cls": 1 / step, "train/lr": 1e-5 * step}
        metrics_file.on_figures("train", step, figures)
    plots.on_end(None)  # while the file is open
    metrics_file.close()
    height, width, _ = matplotlib.image.imread(tmp_path / "plots/learning_curves.png").shape
    assert width > 1200  # twice the width of a page's column
    assert height > 700


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=23), st.integers(0, 11))
def test_smoothing_is_the_mean_of_the_neighbours(values, window):
    expected = []
    for i in range(len(values)):
        reach = min(window // 2, i, len(values) - 1 - i)
        neighbours = values[i - reach : i + reach + 1]
        expected.append(sum(neighbours) / len(neighbours))
    assert smooth(values, window) == pytest.approx(expected, abs=1e-10)


def test_no_figure_outlives_its_evaluation(tmp_path):
    plots = Plots(tmp_path)
    gc.collect()
    gc.disable()  # a run's evaluations are few, for the collector
    try:
        plots.on_evaluation(1, _report_of(3))
        assert not any(isinstance(each, Figure) for each in gc.get_objects())
    finally:
        gc.enable()
