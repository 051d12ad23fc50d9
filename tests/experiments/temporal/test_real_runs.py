# SPDX-License-Identifier: Apache-2.0
"""Trainings on Temporal, one of whose workers is killed: minutes, in the environment of `make
temporal-setup`: .venv-temporal/bin/python -m pytest -m slow tests/experiments/temporal"""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.temporal.known_names import installed

ROOT = Path(__file__).resolve().parents[3]
TIMEOUT_SECONDS = 1800


def weights_of(model_dir):
    """Returns {run: SHA-256 of the weights of its last step}."""
    return {
        path.parts[-3]: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(model_dir.glob("*/checkpoint-100/weights.safetensors"))
    }


@pytest.mark.slow
def test_the_demo_ends_with_the_weights_and_the_table_of_the_local_executor(tmp_path):
    pytest.importorskip("temporalio", reason="make temporal-setup has the environment")
    demo = [sys.executable, "-m", "experiments.temporal.demo", "--model_dir", tmp_path / "temporal"]
    vocab = Path(installed("all-MiniLM-L6-v2")) / "vocab.txt"
    local = [sys.executable, "run.py", "--mode", "experiment", "--model_dir", tmp_path / "local"]
    local += ["--params", "configs/experiments/temporal_demo.yaml"]
    local += ["--data_dir", tmp_path / "temporal" / "data"]
    local += ["--override", f"*_input.vocab_file={vocab}"]
    told = [
        subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True
        )
        for command in (demo, local)
    ]
    assert "The worker is killed" in told[0].stderr
    assert told[0].stdout == told[1].stdout
    found = weights_of(tmp_path / "temporal")
    assert len(set(found.values())) == 4 and found == weights_of(tmp_path / "local")
