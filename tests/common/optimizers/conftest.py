# SPDX-License-Identifier: Apache-2.0
"""Updates run operation by operation here: compiling them takes half a second for each shape.

A test of the compiled update asks for the fixture `compiled`.
"""

import pytest
import tensorflow as tf


@pytest.fixture
def compiled():
    """Updates are compiled in this test, as they are in training."""


@pytest.fixture(autouse=True)
def run_operation_by_operation(request):
    tf.config.run_functions_eagerly("compiled" not in request.fixturenames)
    yield
    tf.config.run_functions_eagerly(False)
