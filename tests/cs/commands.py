# SPDX-License-Identifier: Apache-2.0
"""Runs the real commands: run.py in the main environment, and the worker in this one."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 1200


def run_command(python, *arguments, launcher=None, code=0, **overrides):
    """Runs run.py to its end, with an exit code. python: of the main environment; overrides:
    {dotted key: value}. Returns the CompletedProcess."""
    command = [*([ROOT / "bin" / launcher] if launcher else []), python, "run.py", *arguments]
    for key, value in overrides.items():
        command += ["--override", f"{key}={value}"]
    done = subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env=os.environ | {"BERT_CS_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def lower(job, folder):
    """Lowers a Job. folder: the job's, which has its rows. Returns the report."""
    job.write(folder)
    done = subprocess.run(
        [sys.executable, "-m", "common.cs.worker", str(folder)],
        cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads((folder.parent / "validate.json").read_text())


def figures_of(model_dir, split="train"):
    """Returns {step: line} of metrics.jsonl."""
    lines = map(json.loads, (model_dir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line for line in lines if line["split"] == split}
