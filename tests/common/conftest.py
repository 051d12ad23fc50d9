# SPDX-License-Identifier: Apache-2.0
"""A tiny classifier to export, and its files in a process without this project."""

import os
import re
import subprocess
import sys

import pytest


@pytest.fixture(scope="session")
def make_classifier():
    """`tiny_classifier.make_classifier`."""
    # Here, as most tests of this folder need nothing of TensorFlow.
    from tests.reference.tiny_classifier import make_classifier

    return make_classifier


# A network with every key of ModelParams that BERT's other programs do not know.
UNUSUAL = {
    "embedding_size": 4,
    "position_embedding_type": "fixed",
    "use_segment_embedding": False,
    "use_pre_normalization": True,
    "attention_type": "dot_product",
    "use_ffn_bias": False,
    "use_projection_bias_in_attention": False,
    "use_ffn_bias_in_attention": False,
    "pooler_type": "mean",
}


@pytest.fixture(scope="session")
def unusual():
    """{key of ModelParams: value} of a network that only the formats for any network can hold."""
    return UNUSUAL


@pytest.fixture(scope="session")
def run_alone():
    """A function that runs Python code in a folder, without this project, and gives its output."""

    def run(code, folder):
        # -I: neither the working directory nor PYTHONPATH is searched for modules.
        result = subprocess.run(
            [sys.executable, "-I", "-W", "ignore", "-c", code],
            cwd=folder,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout

    return run


@pytest.fixture(scope="session")
def code_of():
    """A function that gives the blocks of one language in a model card: list of str."""

    def blocks(folder, language):
        card = (folder / "README.md").read_text("utf-8")
        return re.findall(rf"```{language}\n(.*?)```", card, flags=re.DOTALL)

    return blocks
