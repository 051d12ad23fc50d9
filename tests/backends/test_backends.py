# SPDX-License-Identifier: Apache-2.0
"""The network under JAX and PyTorch is that under TensorFlow: masks, outputs, losses, gradients.

`make test-backends` runs it. TensorFlow computes the cases in .venv, the other backends in
.venv-backends, which has no TensorFlow; each is a process of its own, as Keras has one backend.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.backends.cases import CASES

pytestmark = pytest.mark.backends

ROOT = Path(__file__).resolve().parents[2]
OTHERS = ROOT / ".venv-backends" / "bin" / "python"
PYTHONS = {"tensorflow": Path(sys.executable), "jax": OTHERS, "torch": OTHERS}
TIMEOUT_SECONDS = 900  # of a process on a busy machine; alone each takes under a minute
# float32 rounds by 6e-8; sums in another order, through two layers and back, differ by up to 5e-7
# of the largest number of an array, and of 1 where all are smaller. Where TensorFlow does not use
# oneDNN, as on some processors, its softmax is less exact: 4.3e-6 in the gradients of unscaled
# attention, of which JAX and PyTorch agree to 4e-7. Five times that.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each backend computes: {backend: {"case/name": array}}."""
    folder = tmp_path_factory.mktemp("backends")

    def compute(backend):
        file = folder / f"{backend}.npz"
        # JAX compiles in half the time without its optimizations.
        settings = {"KERAS_BACKEND": backend, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
        done = subprocess.run(
            [PYTHONS[backend], "-m", "tests.backends.cases", file],
            cwd=ROOT,
            env=os.environ | settings,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
        assert done.returncode == 0, done.stderr
        return dict(np.load(file))

    with ThreadPoolExecutor() as pool:
        return dict(zip(PYTHONS, pool.map(compute, PYTHONS), strict=True))


@pytest.mark.parametrize("backend", ["jax", "torch"])
@pytest.mark.parametrize("case", CASES)
def test_a_backend_computes_what_tensorflow_computes(results, backend, case):
    of_tensorflow, of_backend = (
        {name: array for name, array in results[each].items() if name.startswith(f"{case}/")}
        for each in ("tensorflow", backend)
    )
    assert of_backend.keys() == of_tensorflow.keys()
    for name, expected in of_tensorflow.items():
        actual = of_backend[name]
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape), name
        if expected.dtype == bool:
            np.testing.assert_array_equal(actual, expected, err_msg=name)
        else:
            tolerance = TOLERANCE * max(1.0, abs(expected).max())
            np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance, err_msg=name)


def test_every_backend_runs_with_the_same_keras(results):
    assert len({str(arrays["keras"]) for arrays in results.values()}) == 1
