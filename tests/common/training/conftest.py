# SPDX-License-Identifier: Apache-2.0
"""What the tests of evaluator, calibrator, exporter and predictor begin from."""

import shutil

import pytest

from tests.reference.toy_session import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model_dir with checkpoints 4, 8 and 12, in which no test writes."""
    model_dir = tmp_path_factory.mktemp("trained")
    train(model_dir, max_steps=12, save_checkpoints_steps=4)
    return model_dir


@pytest.fixture
def model_dir(trained, tmp_path):
    """A copy of `trained`, for a test to write in."""
    return shutil.copytree(trained, tmp_path / "model_dir")
