# SPDX-License-Identifier: Apache-2.0
"""The tasks of words and of questions by the command line, on files of a few texts."""

import json
from pathlib import Path

import pytest
import yaml

import run
from tests.reference.toy_words import NUM_ROWS, PROCESSORS, make_task_data

TASKS = [name for name in PROCESSORS if name != "classification"]


@pytest.fixture(params=TASKS)
def values(request, tmp_path):
    """A params file of the task, as plain values: packed rows, texts longer than they are."""
    keys = {name: str(each) for name, each in make_task_data(tmp_path, request.param).items()}
    return {
        "train_input": {
            **keys,
            "cache_dir": str(tmp_path / "cache"),
            "max_sequence_length": 10,
            "batch_size": 4,
            "packing": "packed",
        },
        "model": {
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_heads": 2,
            "filter_size": 16,
            "max_position_embeddings": 16,
        },
        "optimizer": {"learning_rate": 1e-3},
        "runconfig": {"max_steps": 4, "tf_random_seed": 1},
    }


def call(values, folder, *flags):
    """Runs the command in this process. Returns (exit code, model_dir)."""
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    arguments = ["--params", str(folder / "params.yaml"), "--model_dir", str(folder / "model_dir")]
    return run.main([*arguments, *map(str, flags)]), folder / "model_dir"


def test_validate_only_describes_windows_and_writes_nothing_else(values, tmp_path, capsys):
    code, model_dir = call(values, tmp_path, "--mode", "train_and_eval", "--validate_only")
    report = json.loads((model_dir / "validate" / "report.json").read_text())
    assert (code, report["problems"]) == (0, [])
    assert [path.name for path in model_dir.iterdir()] == ["validate"]
    data = report["data"]["train"]
    assert data["summary"]["num_truncated"] == 0  # nothing is cut: texts become windows
    assert data["rows"] > NUM_ROWS["train"]
    printed = capsys.readouterr().out
    assert "cuts no row" in printed and "packed into" in printed


def test_a_file_that_cannot_be_read_is_the_only_problem(values, tmp_path):
    """And not the size of the vocabulary, too, which is known without it."""
    Path(values["train_input"]["train_file"]).write_text("{")
    code, model_dir = call(values, tmp_path, "--mode", "train", "--validate_only")
    (problem,) = json.loads((model_dir / "validate" / "report.json").read_text())["problems"]
    assert code == 2 and values["train_input"]["train_file"] in problem


def test_compile_only_keeps_the_programs_of_packed_rows_and_no_checkpoint(values, tmp_path):
    code, model_dir = call(values, tmp_path, "--mode", "train_and_eval", "--compile_only")
    assert code == 0
    assert {path.name for path in model_dir.iterdir()} == {"compiled", "runs"}
    programs = [path.name for path in model_dir.rglob("*.pb")]
    assert any(name.startswith("train-1x") for name in programs)  # one long row
    assert any(name.startswith("predict-") for name in programs)
