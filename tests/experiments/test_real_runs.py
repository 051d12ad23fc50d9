# SPDX-License-Identifier: Apache-2.0
"""An experiment of 12 trainings, whose controller and runs are killed: minutes."""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.reference.tiny_bert import huggingface_tensors, save_huggingface

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 3600
FILE = {
    "experiment": "killed",
    "base": str(ROOT / "configs" / "params_bert_tiny.yaml"),
    "method": "grid",
    "metric": {"name": "eval/accuracy_cls", "goal": "maximize"},
    "seeds": [1, 2, 3],
    "parameters": {
        "optimizer.learning_rate": {"values": [1e-3, 1e-2]},
        "train_input.batch_size": {"values": [8, 16]},
        "runconfig.max_steps": {"value": 60},
        "runconfig.save_checkpoints_steps": {"value": 10},
        "runconfig.eval_every_steps": {"value": 20},
    },
}


def command(file, model_dir, tmp_path):
    flags = ["--mode", "experiment", "--params", file, "--model_dir", model_dir]
    flags += ["--data_dir", tmp_path / "data"]
    flags += ["--override", f"*_input.vocab_file={tmp_path / 'weights' / 'vocab.txt'}"]
    return [sys.executable, str(ROOT / "run.py"), *map(str, flags)]


def weights_of(model_dir):
    """Returns {run: SHA-256 of the weights of its last step}."""
    return {
        path.parts[-3]: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(model_dir.glob("*/checkpoint-60/weights.safetensors"))
    }


def trainers_in(model_dir):
    """Returns the process ids of run.py in the folders of an experiment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().decode("utf-8", "replace").split("\0")
            is_run = words[1:2] == [str(ROOT / "run.py")]
            if is_run and any(word.startswith(f"{model_dir}/") for word in words):
                found.append(int(path.parent.name))
    return found


@pytest.mark.slow
def test_twelve_runs_end_with_the_same_weights_however_often_something_is_killed(tmp_path):
    """Kills the controller 5 times and a run 5 times."""
    save_huggingface(tmp_path / "weights", huggingface_tensors())
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    vocab += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    (tmp_path / "weights" / "vocab.txt").write_text("".join(f"{each}\n" for each in vocab))
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(FILE))
    done = subprocess.run(
        command(file, tmp_path / "whole", tmp_path),
        capture_output=True, text=True, timeout=TIMEOUT_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = weights_of(tmp_path / "whole")
    assert len(expected) == 12 and len(set(expected.values())) == 12
    kills, disturbed = ["controller", "run"] * 5, tmp_path / "disturbed"
    while True:
        process = subprocess.Popen(
            command(file, disturbed, tmp_path), stdout=subprocess.PIPE, text=True
        )
        while process.poll() is None and kills:
            # Where the runs are at a kill differs: a start, a step, a save, an evaluation.
            time.sleep(3.7 + 2.3 * (len(kills) % 4))
            if kills[0] == "controller":
                process.kill()
                kills.pop(0)
            elif trainers := trainers_in(disturbed):
                os.kill(trainers[0], signal.SIGKILL)
                kills.pop(0)
        output = process.communicate(timeout=TIMEOUT_SECONDS)[0]
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
    assert not kills
    assert weights_of(disturbed) == expected
    assert output == done.stdout
    assert not trainers_in(disturbed)
