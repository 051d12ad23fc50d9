# SPDX-License-Identifier: Apache-2.0
"""What a run leaves for people: read back line by line, event by event, picture by picture."""

import json
import math
import os
import resource
import signal
import subprocess
import sys
from itertools import pairwise

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg

from common.errors import RunError
from common.reports.reports import (
    Reports,
    closing_summary,
    draw_confusion,
    draw_curves,
    evaluation_table,
    read_curves,
    smooth,
)

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


def _report_of(num_classes, label="class number {}"):
    """A report with only what tables and pictures read."""
    confusion = np.full((num_classes, num_classes), 2) + 41 * np.eye(num_classes, dtype=int)
    scores = {"precision": 0.5, "recall": 0.5, "f1": 0.5}
    classes = [
        {"label": label.format(i), **scores, "support": int(confusion[i].sum())}
        for i in range(num_classes)
    ]
    return {**REPORT, "per_class": classes, "confusion": confusion.tolist()}


@pytest.fixture
def without_events(monkeypatch):
    """For tests of metrics.jsonl alone, which then need no TensorFlow."""
    monkeypatch.setattr(Reports, "_write_events", lambda *arguments: None)


def _read_lines(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def _read_events(event_dir):
    """Returns {(name, step): value} of a folder's event files, through TensorFlow's reader."""
    import tensorflow as tf

    paths = sorted(map(str, event_dir.glob("events.out.tfevents.*")))
    values = {}
    for record in tf.data.TFRecordDataset(paths):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            assert value.metadata.plugin_data.plugin_name == "scalars"
            values[value.tag, event.step] = float(tf.make_ndarray(value.tensor))
    return values


def test_nothing_is_written_before_the_first_figure(tmp_path):
    reports = Reports(tmp_path / "model")
    assert reports.plot_curves() is None
    reports.truncate_after(5)
    reports.close()
    assert not (tmp_path / "model").exists()


def test_scalars_reach_the_lines_and_the_events_of_their_split(tmp_path):
    reports = Reports(tmp_path)
    reports.scalars("train", 100, {"train/cost_cls": np.float32(0.5), "train/lr": 5e-5})
    assert not (tmp_path / "eval").exists()
    reports.scalars("eval", 100, {"eval/accuracy_cls": 0.75})
    # Read while the files are open: both were flushed.
    train, evaluation = _read_lines(tmp_path / "metrics.jsonl")
    assert train.pop("time")[10] == "T"
    assert train == {"split": "train", "step": 100, "train/cost_cls": 0.5, "train/lr": 5e-5}
    assert (evaluation["split"], evaluation["eval/accuracy_cls"]) == ("eval", 0.75)
    assert _read_events(tmp_path) == {
        ("train/cost_cls", 100): 0.5,
        ("train/lr", 100): np.float32(5e-5),
    }
    assert _read_events(tmp_path / "eval") == {("eval/accuracy_cls", 100): 0.75}
    reports.close()


def test_tensorboard_shows_a_resumed_run_once(tmp_path):
    """Its Python reader, which unlike its faster one drops nothing by itself."""
    pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")
    # A process of its own: tensorboard's warnings are not this project's.
    program = """
import sys
import tensorflow as tf
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1]).Reload()
print([(e.step, float(tf.make_ndarray(e.tensor_proto))) for e in events.Tensors("train/lr")])
"""
    first = Reports(tmp_path)
    for step in (1, 2, 3, 4):
        first.scalars("train", step, {"train/lr": step})
    first.close()
    (events,) = tmp_path.glob("events.*")
    # Files are read in the order of their names, which open with the second they were made in.
    events.rename(tmp_path / "events.out.tfevents.1000000000.host.1.0.v2")
    second = Reports(tmp_path)
    second.truncate_after(2)
    second.scalars("train", 3, {"train/lr": 30})
    second.close()
    shown = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "[(1, 1.0), (2, 2.0), (3, 30.0)]"


def test_figures_that_are_not_finite_are_strings_in_valid_json(tmp_path, without_events):
    reports = Reports(tmp_path)
    figures = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.5}
    reports.scalars("train", 1, figures)
    (line,) = _read_lines(tmp_path / "metrics.jsonl")
    assert [line[name] for name in "abcd"] == ["NaN", "Infinity", "-Infinity", 1.5]
    np.testing.assert_equal({name: float(line[name]) for name in "abcd"}, figures)
    reports.close()


def test_unknown_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="split is 'test'; available: eval, train"):
        Reports(tmp_path).scalars("test", 1, {})


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_file_torn_anywhere_gives_its_whole_lines_and_can_be_continued(tmp_path_factory, data):
    model_dir = tmp_path_factory.mktemp("model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reports, "_write_events", lambda *arguments: None)
        reports = Reports(model_dir)
        for step in range(1, 6):
            reports.scalars("train", step, {"train/größe": step / 7})
        reports.close()
        path = model_dir / "metrics.jsonl"
        whole = path.read_bytes()
        ends = [i for i, byte in enumerate(whole) if byte == ord("\n")]  # only the line end missing
        size = data.draw(st.integers(0, len(whole)) | st.sampled_from(ends))
        path.write_bytes(whole[:size])
        num_whole = whole[:size].count(b"\n")
        expected = {step: step / 7 for step in range(1, num_whole + 1)}
        curves = read_curves(path)
        assert curves == ({("train", "train/größe"): expected} if expected else {})

        resumed = Reports(model_dir)
        if data.draw(st.booleans()):
            resumed.truncate_after(num_whole)
        resumed.scalars("train", 9, {"train/größe": 1.0})
        resumed.close()
        assert [line["step"] for line in _read_lines(path)] == [*expected, 9]


def test_lines_are_whole_after_a_real_kill(tmp_path):
    program = """
import sys
from common.reports.reports import Reports
Reports._write_events = lambda *arguments: None
reports = Reports(sys.argv[1])
for step in range(10**9):
    reports.scalars("train", step, {"train/cost_cls": 0.5})
    if step == 100:
        print("writing", flush=True)
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGKILL)
    Reports(tmp_path).truncate_after(10**9)
    steps = [line["step"] for line in _read_lines(tmp_path / "metrics.jsonl")]
    assert steps == list(range(len(steps)))
    assert len(steps) > 100  # what was written before the kill is on disk


def test_truncating_drops_later_steps_of_both_splits_and_leaves_no_other_file(
    tmp_path, without_events
):
    reports = Reports(tmp_path)
    for step in (10, 20, 30):
        reports.scalars("train", step, {"train/cost_cls": 1.0})
        reports.scalars("eval", step, {"loss": 2.0})
    reports.truncate_after(20)
    reports.scalars("train", 25, {"train/cost_cls": 3.0})
    reports.close()
    lines = _read_lines(tmp_path / "metrics.jsonl")
    assert [(line["split"], line["step"]) for line in lines] == [
        ("train", 10),
        ("eval", 10),
        ("train", 20),
        ("eval", 20),
        ("train", 25),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_an_evaluation_that_is_to_be_repeated_is_dropped(tmp_path, without_events):
    reports = Reports(tmp_path)
    assert not reports.has_evaluation(10)
    for step in (10, 20):
        reports.scalars("train", step, {"train/cost_cls": 1.0})
        reports.scalars("eval", step, {"loss": 2.0})
    assert reports.has_evaluation(20) and not reports.has_evaluation(15)
    reports.truncate_after(20, evaluated_step=19)
    lines = _read_lines(tmp_path / "metrics.jsonl")
    assert [(line["split"], line["step"]) for line in lines][-2:] == [("eval", 10), ("train", 20)]
    assert not reports.has_evaluation(20)


def test_a_full_disk_is_told_and_the_next_run_continues_the_file(tmp_path, without_events):
    reports = Reports(tmp_path)
    reports.scalars("train", 1, {"train/lr": 1.0})
    size = reports.metrics_path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))
    try:
        with pytest.raises(RunError, match=r"metrics\.jsonl could not be written: .*too large"):
            reports.scalars("train", 2, {"train/lr": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    reports.scalars("train", 3, {"train/lr": 1.0})
    reports.close()
    assert [line["step"] for line in _read_lines(reports.metrics_path)] == [1, 3]


def test_events_that_cannot_be_written_are_told(tmp_path):
    (tmp_path / "eval").write_text("a file where a folder is to be made")
    reports = Reports(tmp_path)
    with pytest.raises(RunError, match=r"eval/events.* could not be written: .*Checkpoints are"):
        reports.scalars("eval", 1, {"loss": 1.0})
    reports.close()


def test_curves_rise_in_steps_and_the_last_figure_of_a_step_wins(tmp_path, without_events):
    reports = Reports(tmp_path)
    for step, value in ((1, 0.1), (3, 0.3), (2, 0.2), (3, 0.33)):
        reports.scalars("train", step, {"train/cost_cls": value})
    reports.scalars("eval", 3, {"eval/accuracy_cls": 0.9})
    reports.scalars("eval", 3, {"loss": 0.4})  # a second line adds to the first
    reports.close()
    curves = read_curves(tmp_path / "metrics.jsonl")
    assert curves == {
        ("train", "train/cost_cls"): {1: 0.1, 2: 0.2, 3: 0.33},
        ("eval", "eval/accuracy_cls"): {3: 0.9},
        ("eval", "loss"): {3: 0.4},
    }
    assert list(curves["train", "train/cost_cls"]) == [1, 2, 3]


def test_evaluation_writes_its_report_and_picture_and_returns_the_table(tmp_path):
    reports = Reports(tmp_path)
    text = reports.evaluation(6315, REPORT, "mismatched")
    assert text == (
        "mismatched at step 6315: accuracy 0.7500, loss 0.5633, 12 examples\n"
        "  class  precision  recall      f1  examples\n"
        "  dog       0.6000  0.7500  0.6667         4\n"
        "  cat       0.8571  0.7500  0.8000         8\n"
        "\n"
        "  true \\ predicted  dog  cat\n"
        "  dog                 3    1\n"
        "  cat                 2    6"
    )
    written = json.loads((tmp_path / "eval/report-mismatched.json").read_text())
    assert written == {"name": "mismatched", "step": 6315, **REPORT}
    assert matplotlib.image.imread(tmp_path / "plots/confusion_mismatched.png").std() > 0.1
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["confusion_mismatched.png"]


def test_report_with_a_loss_that_is_not_finite_is_valid_json(tmp_path):
    Reports(tmp_path).evaluation(1, {**REPORT, "loss": math.nan})
    assert json.loads((tmp_path / "eval/report-validation.json").read_text())["loss"] == "NaN"


def test_wide_confusion_matrix_is_left_to_its_picture():
    lines = evaluation_table(1, _report_of(20), "validation").splitlines()
    assert lines[-1] == "confusion matrix of 20 classes: plots/confusion_validation.png"
    assert len(lines) == 1 + 1 + 20 + 1 + 1


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
    Reports(tmp_path).evaluation(1, report)
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


def test_learning_curves_are_written_while_the_run_goes_on(tmp_path, without_events):
    reports = Reports(tmp_path)
    for step in range(1, 30):
        reports.scalars("train", step, {"train/cost_cls": 1 / step, "train/lr": 1e-5 * step})
    path = reports.plot_curves()
    assert path == tmp_path / "plots" / "learning_curves.png"
    height, width, _ = matplotlib.image.imread(path).shape
    assert width > 1200  # twice the width of a page's column
    assert height > 700
    reports.scalars("train", 30, {"train/cost_cls": 0.0})
    reports.close()
    assert len(_read_lines(tmp_path / "metrics.jsonl")) == 30


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=23), st.integers(0, 11))
def test_smoothing_is_the_mean_of_the_neighbours(values, window):
    expected = []
    for i in range(len(values)):
        reach = min(window // 2, i, len(values) - 1 - i)
        neighbours = values[i - reach : i + reach + 1]
        expected.append(sum(neighbours) / len(neighbours))
    assert smooth(values, window) == pytest.approx(expected, abs=1e-10)


def test_closing_summary_is_aligned():
    text = closing_summary([("accuracy", "0.9106"), ("written to", "runs/sst2")])
    assert text == "  accuracy    0.9106\n  written to  runs/sst2"
    assert closing_summary([]) == ""
