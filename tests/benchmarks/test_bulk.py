# SPDX-License-Identifier: Apache-2.0
"""`benchmarks/bulk.py` measures what is installed, names what is not, and counts right labels."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import bulk

ROOT = Path(__file__).resolve().parents[2]


def test_what_is_not_installed_is_left_out():
    everything = bulk.plan("g: lines", lambda package: True, lambda package: True)
    labels = {(spec.who, spec.label) for spec in everything}
    assert len(labels) == len(everything)
    assert ("ours", "int8, --engine onnx_int8") in labels and ("openvino", "bfloat16") in labels
    assert all(spec.label.startswith((*bulk.PRECISIONS, "int8")) for spec in everything)
    without = bulk.plan("g: lines", lambda p: p == "onnxruntime", lambda p: p == "onnxruntime")
    assert {spec.who for spec in without} == {"ours", "onnx"}
    assert "bfloat16, --engine openvino" not in {spec.label for spec in without}
    alone = bulk.plan("g: lines", lambda package: False, lambda package: False)
    assert [spec.label for spec in alone] == list(bulk.PRECISIONS)


@pytest.mark.slow
def test_it_measures_the_rows_and_lines_of_a_training(tmp_path, tmp_path_factory):
    pytest.importorskip("onnxruntime", reason="pip install onnx onnxruntime")
    from api import Classifier
    from tests.test_api import KEYS, LABELS, SEED, TEXTS, weights

    clf = Classifier(weights.__wrapped__(tmp_path_factory), overrides=SEED)
    clf.fit(TEXTS, LABELS, validation=(TEXTS[:8], LABELS[:8]), model_dir=tmp_path / "run", **KEYS)
    flags = ["--model_dir", str(tmp_path / "run"), "--peer", sys.executable]
    flags += ["--blocks", "1", "--lines", "50", "--logs", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "benchmarks/bulk.py", *flags], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 sentences: evaluated" in done.stdout and "50 sentences: lines" in done.stdout
    of = {name: count for count, name in re.findall(r"\((\d+) of 8\)  (.*)", done.stdout)}
    assert of["ours: float32"] == of["onnx: float32"] == of["ours: float32, --engine onnx"]
