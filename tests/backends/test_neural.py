# SPDX-License-Identifier: Apache-2.0
"""`.neural` samples compiled for PyTorch, run in an environment that has nothing of this project.

TensorFlow and ONNX Runtime: `tests/extras/neural/test_compile.py`.
"""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from common.BaseModel import EVAL
from extras.neural import __main__ as program
from tests.reference.small_neural import NAMES, ROWS, features_of, small_text

pytestmark = pytest.mark.backends

PYTHON = Path(__file__).resolve().parents[2] / ".venv-backends" / "bin" / "python"
CODE = """
import sys
import numpy, torch
sys.path.insert(0, ".")
rows = {name: torch.tensor(each) for name, each in numpy.load("rows.npz").items()}
for name in sys.argv[1:]:
    network = __import__(name).load().eval()
    with torch.no_grad():
        numpy.save(f"{name}.npy", network(rows).numpy())
"""


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """{sample: (logits of PyTorch, Classifier)}."""
    folder, classifiers = tmp_path_factory.mktemp("neural"), {}
    for name in NAMES:
        file = folder / f"{name}.neural"
        file.write_text(small_text(name).replace(', weights="pretrained_bert.h5"', ""), "utf-8")
        flags = ["compile", str(file), "--backend", "pytorch"]
        assert program.main([*flags, "--output", str(folder / f"{name}.py")]) == 0
        classifiers[name] = program.classifier_of(program.make_parser().parse_args(flags))[0]
    np.savez(folder / "rows.npz", **ROWS)
    done = subprocess.run(
        [PYTHON, "-I", "-c", CODE, *NAMES], cwd=folder, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return {name: (np.load(folder / f"{name}.npy"), each) for name, each in classifiers.items()}


@pytest.mark.parametrize("name", NAMES)
def test_pytorch_computes_each_sample(computed, name):
    logits, classifier = computed[name]
    outputs = classifier.model.build_model(features_of(classifier.params.task), EVAL)
    expected = np.asarray(outputs.get("mlm_logits", outputs.get("logits")))
    real = ROWS["padding_mask"] > 0 if expected.ndim == 3 else slice(None)
    # Float32 with sums in another order; values up to 1.
    np.testing.assert_allclose(logits[real], expected[real], rtol=0, atol=1e-5)
