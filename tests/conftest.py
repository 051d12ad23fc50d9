# SPDX-License-Identifier: Apache-2.0
"""Fixtures that more than one folder of tests uses."""

import contextlib
import os
from pathlib import Path

import pytest

from common.platform.machine_code import set_xla_flags

set_xla_flags()  # as run.py does, before any test imports TensorFlow

with contextlib.suppress(ImportError):  # the environments of the CS SDK and of Beam lack it
    from hypothesis import HealthCheck, settings

    # The same examples at every run, and no limit of time, so that no test fails by chance or by
    # the load of a machine. tests/faults/ draws others each time it is asked to.
    settings.register_profile(
        "same_examples",
        derandomize=True,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("same_examples")


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory):
    """What runs keep is in a folder of the tests': none finds what one before them has left."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared_dir():
    """pathlib.Path of the data that lies beside the project; tests skip where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared"
    path = Path(os.environ.get("BERT_SHARED_DIR", default))
    if not path.is_dir():
        pytest.skip(f"no folder {path}; BERT_SHARED_DIR can name another one")
    return path
