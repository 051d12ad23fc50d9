# SPDX-License-Identifier: Apache-2.0
"""The export under google-research/bert's names, against a checkpoint that its program wrote."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from common.checkpoints.containers import tf_bundle
from common.checkpoints.formats import google_tf1
from common.checkpoints.load import load_weights, open_checkpoint
from common.errors import UserError
from common.export.export import export
from model import make_model
from tests.reference.tiny_bert import tiny_params

FIXTURE = Path(__file__).parents[5] / "shared" / "fixtures" / "google_tf1"
needs_fixture = pytest.mark.skipif(
    not FIXTURE.is_dir(), reason="../shared/fixtures/google_tf1, written by Google's, is not there"
)


def tensors_of(prefix):
    """{name: array} of a name-based checkpoint."""
    reader = tf.train.load_checkpoint(str(prefix))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


@needs_fixture
def test_reading_and_writing_gives_every_bit_back(tmp_path):
    theirs = tensors_of(FIXTURE / "bert_model.ckpt")
    weights = google_tf1.read_weights(FIXTURE / "bert_model.ckpt")
    tf_bundle.write(tmp_path / "bert_model.ckpt", google_tf1.google_tensors(weights))
    ours = tensors_of(tmp_path / "bert_model.ckpt")
    assert set(ours) == set(theirs)
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype and ours[name].tobytes() == array.tobytes(), name
    assert {path.name for path in tmp_path.iterdir()} == {
        "bert_model.ckpt.index",
        "bert_model.ckpt.data-00000-of-00001",
    }


@needs_fixture
def test_names_and_config_are_those_of_the_program(make_classifier, tmp_path):
    folder, _ = export("tf1", make_classifier(encoder_nonlinearity="gelu_tanh"), tmp_path / "out")
    theirs = tensors_of(FIXTURE / "bert_model.ckpt")
    layers = max(int(name.split("layer_")[1].split("/")[0]) for name in theirs if "layer_" in name)
    ours = tensors_of(folder / "bert_model.ckpt")
    assert layers == 1  # two, as in the tiny network
    expected = {name for name in theirs if not name.startswith("cls/")}
    assert set(ours) == expected | {"output_weights", "output_bias"}  # run_classifier.create_model
    written = json.loads((folder / "bert_config.json").read_text())
    assert set(json.loads((FIXTURE / "bert_config.json").read_text())) <= set(written)
    assert written["hidden_act"] == "gelu"


def test_values_stand_under_their_names_and_the_output_layer_is_transposed(
    make_classifier, tmp_path
):
    classifier = make_classifier(encoder_nonlinearity="relu")
    folder, notes = export("tf1", classifier, tmp_path / "out")
    ours, weights = tensors_of(folder / "bert_model.ckpt"), classifier.weights
    for theirs, expected in {
        "bert/embeddings/token_type_embeddings": weights["embeddings/segment_embeddings"],
        "bert/encoder/layer_1/attention/output/dense/kernel": weights[
            "encoder/layer_1/attention/output/kernel"
        ],
        "bert/encoder/layer_0/attention/output/LayerNorm/gamma": weights[
            "encoder/layer_0/attention_layer_norm/gamma"
        ],
        "bert/pooler/dense/bias": weights["pooler/bias"],
        "output_weights": weights["classifier/kernel"].T,
        "output_bias": weights["classifier/bias"],
    }.items():
        np.testing.assert_array_equal(ours[theirs], expected)
    assert notes == []


def test_this_project_reads_the_export_back_bit_by_bit(make_classifier, tmp_path):
    classifier = make_classifier(encoder_nonlinearity="gelu_tanh")
    folder, _ = export("tf1", classifier, tmp_path / "out")
    model = make_model(tiny_params(encoder_nonlinearity="gelu_tanh", seed=11))
    checkpoint = open_checkpoint(folder)
    report = load_weights(model, checkpoint)
    assert checkpoint.config["encoder_nonlinearity"] == "gelu_tanh"
    assert checkpoint.config["label_names"] == classifier.label_names  # of export.json
    assert checkpoint.config["do_lower_case"] is True
    assert not report.fresh and not report.unused
    for name, variable in model.weights_by_name().items():
        assert variable.numpy().tobytes() == classifier.weights[name].tobytes(), name


def test_what_the_program_would_compute_otherwise_is_noted(make_classifier, tmp_path):
    rows = {"add_special_tokens": False}
    classifier = make_classifier(layer_norm_epsilon=1e-5, rows=rows)
    folder, notes = export("tf1", classifier, tmp_path / "out")
    assert "[CLS]" in notes[0] and "erf" in notes[1] and "1e-05" in notes[2]
    card = (folder / "README.md").read_text()
    assert all(note in card for note in notes)


def test_an_activation_that_the_program_lacks_is_refused(make_classifier, tmp_path):
    with pytest.raises(UserError, match="silu"):
        export("tf1", make_classifier(encoder_nonlinearity="silu"), tmp_path / "out")
