# SPDX-License-Identifier: Apache-2.0
"""The short form of `fuzz_checkpoints.py`, and that it would see what it looks for."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.fuzz_checkpoints import MAKERS, OF_TENSORFLOW

ROOT = Path(__file__).resolve().parents[2]
NEED_TENSORFLOW = (*OF_TENSORFLOW, "keras")  # to be written, or to be read


def fuzz(*flags, before=""):
    """In a process of its own, which forks: this one may have used TensorFlow."""
    code = f"from tests.faults import fuzz_checkpoints as fuzz\n{before}\nfuzz.main()"
    command = [sys.executable, "-c", code, *map(str, flags)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def formats(*names):
    return [flag for name in names for flag in ("--format", name)]


def test_broken_checkpoints_are_read_or_refused_in_words():
    names = [name for name in MAKERS if name not in NEED_TENSORFLOW]
    done = fuzz("--inputs", 20 * len(names), *formats(*names))
    assert done.returncode == 0, done.stderr
    assert "140 inputs" in done.stdout
    for name in names:
        assert f"{name}: refused" in done.stdout


@pytest.mark.slow
def test_broken_checkpoints_of_tensorflow_are_read_or_refused_in_words():
    done = fuzz("--inputs", 300, *formats(*NEED_TENSORFLOW))
    assert done.returncode == 0, done.stderr
    for name in NEED_TENSORFLOW:
        assert f"{name}: refused" in done.stdout


@pytest.mark.parametrize(
    ("before", "told"),
    [
        ("fuzz.store.fault_in = lambda path: None", "read with other values than were written"),
        ("fuzz.open_checkpoint = lambda path: {}['x']", "KeyError: 'x'"),
        ("fuzz.open_checkpoint = lambda path: fuzz.os.abort()", "exit code -6"),
    ],
)
def test_an_answer_that_is_not_right_is_told_with_its_seed(before, told):
    # Only once the whole checkpoint has been read.
    before = f"""
def break_now(*args, read=fuzz.read_inputs):
    {before}
    read(*args)
fuzz.read_inputs = break_now
"""
    done = fuzz("--seed", 150, "--inputs", 100, "--format", "ours", before=before)
    assert done.returncode == 1
    assert told in done.stderr and "AssertionError: seed " in done.stderr
