# SPDX-License-Identifier: Apache-2.0
"""runs/<id>/: what a start was, from its beginning, and what became of it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from common.errors import BusyError, RunError, UserError
from common.signals import Stopped
from common.training import run_record
from common.training.result import Result
from common.training.run_record import RunRecord, on_record, program_version
from tests.reference.tiny_bert import tiny_params


@pytest.fixture
def params(tmp_path):
    (tmp_path / "model_dir").mkdir()
    return tiny_params().with_runconfig(model_dir=str(tmp_path / "model_dir"), mode="eval")


def read(record, name="run.json"):
    return json.loads((record.folder / name).read_text("utf-8"))


def test_a_start_is_on_disk_at_once_and_completed_at_the_end(params):
    record = RunRecord(params, ["run.py", "--mode", "eval"])
    facts = read(record)
    assert facts["id"] == record.folder.name and record.folder.parent.name == "runs"
    assert (facts["mode"], facts["command"]) == ("eval", ["run.py", "--mode", "eval"])
    assert facts["ended"] is None and facts["exit_code"] is None
    assert facts["program"] == program_version() and len(facts["params_sha256"]) == 64
    record.end(143, "The run was stopped")
    ended = {"ended": read(record)["ended"], "exit_code": 143, "reason": "The run was stopped"}
    ended["peak_memory_bytes"] = read(record)["peak_memory_bytes"]
    assert read(record) == facts | ended
    assert 10**7 < ended["peak_memory_bytes"] < 10**12  # of a process that runs Python
    assert read(record)["ended"] >= facts["started"]


@pytest.mark.parametrize(
    ("error", "exit_code", "reason"),
    [
        (UserError("lr is -1"), 2, "lr is -1"),
        (BusyError("wait"), 75, "wait"),
        (RunError("a NaN"), 1, "The run failed: a NaN"),
        (OSError("full"), 1, "The run failed: full"),
        (Stopped(15), 143, "The run was stopped by SIGTERM"),
        (KeyboardInterrupt(), 130, "Interrupted"),
    ],
)
def test_an_exception_completes_the_record_of_run_py_and_of_fit(params, error, exit_code, reason):
    with pytest.raises(type(error)), on_record(params, []) as record:
        raise error
    facts = read(record)
    assert (facts["exit_code"], facts["reason"]) == (exit_code, reason) and facts["ended"]


def test_starts_have_folders_of_their_own_and_params_tell_in_their_hash(params):
    records = [RunRecord(params, []), RunRecord(params.with_runconfig(mode="predict"), [])]
    records.append(RunRecord(params.with_runconfig(eval_steps=3), []))
    assert len({record.id for record in records}) == 3
    first, second, other = (read(record)["params_sha256"] for record in records)
    assert first == second != other


def test_the_result_is_kept_with_the_versions_that_computed_it(params):
    record = RunRecord(params, [])
    result = Result(mode="eval", outcome="Evaluated", model_dir="d", seconds=1.5, figures={"x": 2})
    record.keep(result)
    content = read(record, "result-eval.json")
    assert content["run"] == record.id and content["figures"] == {"x": 2.0}
    assert {"python", "tensorflow", "keras"} <= set(content["versions"])


def test_figures_that_are_not_finite_are_kept_as_in_metrics_jsonl(params):
    record = RunRecord(params, [])
    figures = {"loss": float("nan"), "eval/f1_score": 0.5}
    record.keep(
        Result(mode="eval", outcome="Evaluated", model_dir="d", seconds=1.5, figures=figures)
    )
    content = (record.folder / "result-eval.json").read_text("utf-8")
    assert json.loads(content)["figures"] == {"loss": "NaN", "eval/f1_score": 0.5}


def test_a_start_that_is_refused_makes_no_model_dir_and_an_accepted_one_does(params, tmp_path):
    (tmp_path / "model_dir").rmdir()
    record = RunRecord(params, [])
    record.end(2, "no checkpoint")
    assert not (tmp_path / "model_dir").exists()
    record = RunRecord(params, [])
    record.accept()
    record.end(0)
    assert read(record)["exit_code"] == 0


def test_a_folder_that_cannot_be_written_costs_the_record_alone(params, tmp_path):
    (tmp_path / "model_dir").rmdir()
    (tmp_path / "model_dir").write_text("a file where the folder should be")
    record = RunRecord(params, [])
    record.end(0)
    assert not record.folder.exists()


def test_a_path_that_is_not_utf_8_is_kept_with_its_bytes_escaped(params):
    model_dir = f"{params.runconfig.model_dir}\udcff"  # as Python reads the byte FF of a command
    record = RunRecord(params.with_runconfig(model_dir=model_dir), ["--model_dir", model_dir])
    record.accept()
    record.keep(Result(mode="eval", outcome="Evaluated", model_dir=model_dir, seconds=1.5))
    record.end(0)
    assert read(record)["command"] == ["--model_dir", model_dir]
    assert read(record, "result-eval.json")["model_dir"] == model_dir


def test_a_model_dir_that_was_deleted_is_not_made_anew(params):
    record = RunRecord(params, [])
    shutil.rmtree(params.runconfig.model_dir)
    record.keep(Result(mode="train", outcome="Trained", model_dir="d", seconds=1.5))
    record.end(1)
    assert not Path(params.runconfig.model_dir).exists()


def test_the_version_is_the_commit_or_that_of_the_project_file(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True)

    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    monkeypatch.setattr(run_record, "ROOT", tmp_path)
    assert program_version() == "1.2.3"
    git("init", "-q")
    git("add", "pyproject.toml")
    git("commit", "-qm", "Begin")
    commit = program_version()
    assert len(commit) == 40
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.4"\n')
    assert program_version() == f"{commit}-dirty"
