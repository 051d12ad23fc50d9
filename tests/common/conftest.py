# SPDX-License-Identifier: Apache-2.0
"""A tiny classifier to export: random weights, a vocabulary of 23 entries, two to five labels."""

import os
import re
import subprocess
import sys

import pytest

VOCAB = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "never", "once", "dull", "it", "was"),
    *("dragged", "good", "bad", "##ly", "##er", ".", ",", "!", "caf", "##e", "a", "b", "|"),
]  # fmt: skip
LABELS = ("awful", "bad", "so so", "good", "père")


@pytest.fixture(scope="session")
def make_classifier():
    """A function that makes a Classifier; its keyword arguments are those of ModelParams.

    rows: those of InputParams.
    """
    # Here, as most tests of this folder need nothing of TensorFlow.
    from common.export.export import Classifier
    from input.features import Layout, TextFeatures
    from input.tokenizers.wordpiece import WordPieceTokenizer
    from model import make_model
    from tests.reference.tiny_bert import VOCAB_SIZE, randomize, tiny_params

    assert len(VOCAB) == VOCAB_SIZE

    def make(texts_per_row=1, num_classes=5, quantize=None, rows=None, task=None, **model):
        params = tiny_params(num_classes, task=task, **model)
        data = params.predict_input.model_copy(update=rows or {})
        params = params.model_copy(update={"predict_input": data})
        network = make_model(params, LABELS[:num_classes])
        randomize(network)
        return Classifier(
            network,
            params,
            VOCAB,
            TextFeatures(
                WordPieceTokenizer(VOCAB),
                texts_per_row,
                data.max_sequence_length,
                Layout(data.add_special_tokens, data.invert_mask, data.pad_id),
            ),
            metrics={"accuracy": 0.875},
            step=1234,
            quantize=quantize,
        )

    return make


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
