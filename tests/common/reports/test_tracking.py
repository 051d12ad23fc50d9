# SPDX-License-Identifier: Apache-2.0
"""runconfig.tracking: the process that feeds a tracker, with a tracker that writes down what it is
told. The real ones need their packages: see docs/experiments.md."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from common.errors import UserError
from common.reports import feed_tracker, trackers, tracking
from common.reports.metrics_file import MetricsFile
from common.reports.trackers import TRACKERS, Tracker
from common.reports.tracking import Tracking, check_trackers, trackers_of


class Noting(Tracker):
    """Writes down what it is told; a file `fails` makes it raise once."""

    def note(self, *told):
        with open(self.folder / "told", "a") as file:
            file.write(json.dumps(told) + "\n")

    def begin(self, run):
        self.note("begin", run, self.project, self.name, self.params)
        return run or "new"

    def log(self, lines):
        if (self.folder / "fails").exists():
            (self.folder / "fails").unlink()
            raise ConnectionError("no server")
        self.note("log", [[line["split"], line["step"]] for line in lines])

    def end(self, exit_code):
        self.note("end", exit_code)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model_dir of a training that has ended, in the folder of an experiment."""
    monkeypatch.setitem(TRACKERS, "noting", Noting)
    monkeypatch.setattr(feed_tracker, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(feed_tracker, "is_input_over", lambda seconds: True)
    folder = tmp_path / "experiment" / "run-0"
    (folder / "runs" / "1").mkdir(parents=True)
    (folder / "params.yaml").write_text("optimizer: {learning_rate: 0.5}\n")
    record = {"mode": "train_and_eval", "exit_code": 143, "process": 1}
    (folder / "runs" / "1" / "run.json").write_text(json.dumps(record))
    write(folder, 5, 10)
    return folder


def write(folder, *steps):
    file = MetricsFile(folder)
    for step in steps:
        file.on_figures("train", step, {"train/cost_cls": 0.5})
        if step % 10 == 0:
            file.on_figures("eval", step, {"eval/accuracy_cls": 0.5})
    file.close()


def told(folder):
    return [json.loads(line) for line in (folder / "told").read_text().splitlines()]


def test_a_tracker_is_told_every_figure_once_also_after_a_resume(folder):
    assert feed_tracker.main("noting", str(folder)) == 0
    file = MetricsFile(folder)
    file.on_resume(5, 5)  # the steps after 5 come again
    file.close()
    write(folder, 10, 15, 20)
    assert feed_tracker.main("noting", str(folder)) == 0
    params = {"optimizer.learning_rate": 0.5}
    assert told(folder) == [
        ["begin", None, "experiment", "run-0", params],
        ["log", [["train", 5], ["train", 10], ["eval", 10]]],
        ["end", 143],
        ["begin", "new", "experiment", "run-0", params],
        ["log", [["train", 15], ["train", 20], ["eval", 20]]],
        ["end", 143],
    ]


def test_a_tracker_that_fails_is_told_again(folder, capsys):
    (folder / "fails").touch()
    assert feed_tracker.main("noting", str(folder)) == 0
    assert "ConnectionError: no server" in capsys.readouterr().err
    assert [line[0] for line in told(folder)] == ["begin", "log", "end"]


def test_figures_that_are_not_finite_reach_a_tracker_as_numbers():
    from common.reports.trackers import figures_of

    line = {"time": "", "split": "train", "step": 3, "a": "NaN", "b": "-Infinity", "c": 1}
    figures = figures_of(line)
    assert figures.pop("a") != 0 and figures == {"b": float("-inf"), "c": 1.0}


def test_a_training_neither_waits_for_its_tracker_nor_is_ended_by_it(tmp_path, monkeypatch):
    """Its process goes on after the end of the training, until it may end, and fails."""
    program = (
        "import os, sys, time; sys.stdin.read()\n"
        "while not os.path.exists('may end'): time.sleep(0.01)\n"
        "sys.exit(1)"
    )

    def start(command, **options):
        return subprocess.Popen([sys.executable, "-c", program], **options | {"cwd": tmp_path})

    run = SimpleNamespace(tracking=("mlflow",), is_training=True, model_dir=tmp_path)
    (listener,) = trackers_of(run)
    assert isinstance(listener, Tracking)
    monkeypatch.setattr(
        tracking, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": start})
    )
    listener.on_start(0, 10, None)
    process = listener.process
    try:
        assert process.poll() is None
        listener.close()  # would not return if it waited
        assert process.poll() is None
        (tmp_path / "may end").touch()
        assert process.wait(60) == 1
    finally:
        process.kill()


def test_a_tracker_that_is_not_installed_is_refused_before_the_training(monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    run = SimpleNamespace(tracking=("wandb",))
    with pytest.raises(UserError, match=r"wandb is not installed: pip install '.*\[wandb\]'"):
        check_trackers(run)
    check_trackers(SimpleNamespace(tracking=None))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "usage: python -m common.reports.feed_tracker mlflow|trackio|wandb MODEL_DIR"),
        (["comet", "{folder}"], "given: comet"),
        (["trackio", "nowhere"], "nowhere holds no params.yaml; name the model_dir of a training"),
        (
            ["trackio", "{folder}"],
            "trackio is not installed: pip install 'bert-classifier[trackio]'",
        ),
    ],
)
def test_wrong_usage_of_the_command_is_told_in_a_sentence(words, sentence, tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text("runconfig: {}\n")
    monkeypatch.setattr(trackers, "find_spec", lambda package: None)
    words = [word.format(folder=tmp_path) for word in words]
    assert sentence in feed_tracker.fault_in(words)
