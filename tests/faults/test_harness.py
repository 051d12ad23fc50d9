# SPDX-License-Identifier: Apache-2.0
"""The short forms of `harness.py` and `damage.py`, and that they would see what they look for."""

import subprocess
import sys
from pathlib import Path

import pytest

from common.checkpoints import store
from tests.faults import damage, harness

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 1200


def run_harness(*flags):
    """In a process of its own: this one may have used TensorFlow, and could not be forked."""
    command = [sys.executable, "tests/faults/harness.py", *flags]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_killed_runs_end_with_the_bits_of_one_that_went_through():
    said = run_harness("--configuration=plain", "--kills=2")
    assert "plain: 2 kills, 1 runs brought to their end with the same bits" in said


@pytest.mark.slow
def test_failing_writes_and_disks_leave_what_was_saved():
    said = run_harness("--configuration=plain", "--kills=0", "--failures=4", "--disks")
    assert "4 writes that failed or took long, same bits at the end" in said
    assert "gone during the run: exit code" in said


def test_damaged_files_are_detected(tmp_path):
    results = damage.damage_all(200, 0, tmp_path)
    assert results.total() == 200
    for name in ("weights.safetensors", "manifest.json", "split.tfrecord", "given.yaml"):
        assert any(name in key and key.endswith("detected") for key in results), name


def test_a_damage_that_nobody_sees_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "fault_in", lambda path: None)
    with pytest.raises(AssertionError, match=r"damage \d+ of seed 0: checkpoint, "):
        damage.damage_all(20, 0, tmp_path)


def test_the_harness_verifies_by_itself(tmp_path):
    (tmp_path / "one").mkdir()
    checkpoints = damage.Checkpoints(tmp_path / "one")
    assert harness.fault_in(checkpoints.path) is None
    for file in checkpoints.files:
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert harness.fault_in(checkpoints.path) is not None
        file.write_bytes(content)
