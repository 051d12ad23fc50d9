# SPDX-License-Identifier: Apache-2.0
"""metrics.jsonl: read back line by line, also after kills, resumes and full disks."""

import json
import math
import os
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import RunError
from common.reports.metrics_file import MetricsFile, has_evaluation, read_curves


@pytest.fixture
def metrics_file(tmp_path):
    metrics_file = MetricsFile(tmp_path)
    yield metrics_file
    metrics_file.close()


def _read_lines(model_dir):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = (model_dir / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def _places(model_dir):
    return [(line["split"], line["step"]) for line in _read_lines(model_dir)]


def test_nothing_is_written_before_the_first_figure(tmp_path):
    metrics_file = MetricsFile(tmp_path / "model")
    metrics_file.on_resume(5, 5)
    metrics_file.close()
    assert not (tmp_path / "model").exists()
    assert read_curves(tmp_path / "model") == {}
    assert not has_evaluation(tmp_path / "model", 5)


def test_figures_are_lines_with_their_split_and_step(tmp_path, metrics_file):
    metrics_file.on_figures("train", 100, {"train/cost_cls": np.float32(0.5), "train/lr": 5e-5})
    metrics_file.on_figures("eval", 100, {"eval/accuracy_cls": 0.75})
    train, evaluation = _read_lines(tmp_path)  # read while the file is open: it was flushed
    assert train.pop("time")[10] == "T"
    assert train == {"split": "train", "step": 100, "train/cost_cls": 0.5, "train/lr": 5e-5}
    assert (evaluation["split"], evaluation["eval/accuracy_cls"]) == ("eval", 0.75)


def test_figures_that_are_not_finite_are_strings_in_valid_json(tmp_path, metrics_file):
    figures = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.5}
    metrics_file.on_figures("train", 1, figures)
    (line,) = _read_lines(tmp_path)
    assert [line[name] for name in "abcd"] == ["NaN", "Infinity", "-Infinity", 1.5]
    np.testing.assert_equal({name: float(line[name]) for name in "abcd"}, figures)


def test_unknown_split_is_refused(metrics_file):
    with pytest.raises(ValueError, match="split is 'test'; available: eval, train"):
        metrics_file.on_figures("test", 1, {})


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_torn_file_gives_its_complete_lines_and_can_be_continued(tmp_path_factory, data):
    model_dir = tmp_path_factory.mktemp("model")
    first = MetricsFile(model_dir)
    for step in range(1, 6):
        first.on_figures("train", step, {"train/größe": step / 7})
    first.close()
    path = model_dir / "metrics.jsonl"
    content = path.read_bytes()
    ends = [i for i, byte in enumerate(content) if byte == ord("\n")]  # only the line end missing
    size = data.draw(st.integers(0, len(content)) | st.sampled_from(ends))
    path.write_bytes(content[:size])
    num_lines = content[:size].count(b"\n")
    expected = {step: step / 7 for step in range(1, num_lines + 1)}
    assert read_curves(model_dir) == ({("train", "train/größe"): expected} if expected else {})

    resumed = MetricsFile(model_dir)
    if data.draw(st.booleans()):
        resumed.on_resume(num_lines, num_lines)
    resumed.on_figures("train", 9, {"train/größe": 1.0})
    resumed.close()
    assert [line["step"] for line in _read_lines(model_dir)] == [*expected, 9]


def test_lines_are_complete_after_a_real_kill(tmp_path):
    program = """
import sys
from common.reports.metrics_file import MetricsFile
metrics_file = MetricsFile(sys.argv[1])
for step in range(10**9):
    metrics_file.on_figures("train", step, {"train/cost_cls": 0.5})
    if step == 100:
        print("writing", flush=True)
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGKILL)
    MetricsFile(tmp_path).on_resume(10**9, 10**9)
    steps = [line["step"] for line in _read_lines(tmp_path)]
    assert steps == list(range(len(steps)))
    assert len(steps) > 100  # what was written before the kill is on disk


def test_a_resume_drops_later_steps_of_both_splits_and_leaves_no_other_file(tmp_path, metrics_file):
    for step in (10, 20, 30):
        metrics_file.on_figures("train", step, {"train/cost_cls": 1.0})
        metrics_file.on_figures("eval", step, {"loss": 2.0})
    metrics_file.on_resume(20, 20)
    assert metrics_file.has_dropped
    metrics_file.on_figures("train", 25, {"train/cost_cls": 3.0})
    places = [("train", 10), ("eval", 10), ("train", 20), ("eval", 20), ("train", 25)]
    assert _places(tmp_path) == places
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    metrics_file.on_resume(25, 25)
    assert not metrics_file.has_dropped
    assert _places(tmp_path) == places


def test_an_evaluation_that_is_to_be_repeated_is_dropped(tmp_path, metrics_file):
    for step in (10, 20):
        metrics_file.on_figures("train", step, {"train/cost_cls": 1.0})
        metrics_file.on_figures("eval", step, {"loss": 2.0})
    assert has_evaluation(tmp_path, 20) and not has_evaluation(tmp_path, 15)
    metrics_file.on_resume(20, 19)
    assert _places(tmp_path)[-2:] == [("eval", 10), ("train", 20)]
    assert not has_evaluation(tmp_path, 20)


def test_a_full_disk_is_reported_and_the_next_run_continues_the_file(tmp_path, metrics_file):
    metrics_file.on_figures("train", 1, {"train/lr": 1.0})
    size = metrics_file.path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))
    try:
        with pytest.raises(RunError, match=r"metrics\.jsonl could not be written: .*too large"):
            metrics_file.on_figures("train", 2, {"train/lr": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    metrics_file.on_figures("train", 3, {"train/lr": 1.0})
    assert [line["step"] for line in _read_lines(tmp_path)] == [1, 3]


def test_curves_rise_in_steps_and_the_last_figure_of_a_step_wins(tmp_path, metrics_file):
    for step, value in ((1, 0.1), (3, 0.3), (2, 0.2), (3, 0.33)):
        metrics_file.on_figures("train", step, {"train/cost_cls": value})
    metrics_file.on_figures("eval", 3, {"eval/accuracy_cls": 0.9})
    metrics_file.on_figures("eval", 3, {"loss": 0.4})  # a second line adds to the first
    curves = read_curves(tmp_path)
    assert curves == {
        ("train", "train/cost_cls"): {1: 0.1, 2: 0.2, 3: 0.33},
        ("eval", "eval/accuracy_cls"): {3: 0.9},
        ("eval", "loss"): {3: 0.4},
    }
    assert list(curves["train", "train/cost_cls"]) == [1, 2, 3]
