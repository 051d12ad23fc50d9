# SPDX-License-Identifier: Apache-2.0
"""Keras .weights.h5: what this project's save_weights and its export write, and what is refused.

Damage is tested in test_hostile_files.py.
"""

import h5py
import numpy as np
import pytest
import yaml

from common.checkpoints.formats import keras_h5
from common.checkpoints.load import load_weights, open_checkpoint
from common.errors import UserError
from common.export.export import export
from common.params import no_effect
from model import make_model
from tests.reference.tiny_bert import randomize, tiny_params


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"use_pre_normalization": True},
        {"use_segment_embedding": False},
        {"use_position_embedding": False},
        {"num_hidden_layers": 12},  # layer 10 comes after layer 9
    ],
)
def test_a_weights_file_of_keras_holds_what_was_saved(tmp_path, model):
    params = tiny_params(**model)
    saved = make_model(params)
    values = randomize(saved)
    saved.save_weights(tmp_path / "model.weights.h5")
    for path in (tmp_path, tmp_path / "model.weights.h5"):
        checkpoint = open_checkpoint(path)
        assert checkpoint.format == "keras_h5"
        loaded = make_model(params)
        report = load_weights(loaded, checkpoint)
        assert set(report.loaded) == set(values) and not report.unused
        for name, variable in loaded.weights_by_name().items():
            np.testing.assert_array_equal(np.asarray(variable), values[name])


def test_params_yaml_beside_a_weights_file_tells_heads_and_activation(tmp_path):
    make_model(tiny_params()).save_weights(tmp_path / "model.weights.h5")
    config = keras_h5.read_config(tmp_path)
    assert config["num_heads"] is None and config["family"] == "ours"
    assert config["hidden_size"] == 6 and config["num_hidden_layers"] == 2
    (tmp_path / "params.yaml").write_text(
        "model: {num_heads: 2, encoder_nonlinearity: gelu_erf, layer_norm_epsilon: 1.0e-12}"
    )
    config = keras_h5.read_config(tmp_path)
    assert config["num_heads"] == 2 and config["encoder_nonlinearity"] == "gelu_erf"


def test_a_weights_file_of_another_network_is_refused(tmp_path):
    with h5py.File(tmp_path / "model.weights.h5", "w") as file:
        file.create_dataset("layers/dense/vars/0", data=np.zeros(3))
    with pytest.raises(UserError, match=r"holds no BERT.*it has layers/dense/vars/0"):
        open_checkpoint(tmp_path / "model.weights.h5")


# ---- Export --------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_pre_normalization", [False, True])
def test_a_fresh_network_of_the_written_params_loads_every_weight(
    make_classifier, tmp_path, use_pre_normalization
):
    classifier = make_classifier(use_pre_normalization=use_pre_normalization)
    folder, _ = export("keras", classifier, tmp_path / "out")
    params = tiny_params(5, seed=11, use_pre_normalization=use_pre_normalization)
    written = yaml.safe_load((folder / "params.yaml").read_text())["model"]
    expected = params.model.model_dump(mode="json", exclude_none=True)
    assert written == {k: v for k, v in expected.items() if f"model.{k}" not in no_effect()}
    by_keras, by_us = make_model(params), make_model(params)
    by_keras.load_weights(folder / "model.weights.h5")
    checkpoint = open_checkpoint(folder)
    report = load_weights(by_us, checkpoint)
    assert not report.fresh and not report.unused
    for model in (by_keras, by_us):
        for name, variable in model.weights_by_name().items():
            assert variable.numpy().tobytes() == classifier.weights[name].tobytes(), name
    assert checkpoint.config["num_heads"] == 2
    assert checkpoint.config["label_names"] == classifier.label_names
    assert checkpoint.config["do_lower_case"] is True
    assert (folder / "vocab.txt").read_text().splitlines() == classifier.vocab


def test_how_a_network_computes_is_read_back_with_its_weights(make_classifier, unusual, tmp_path):
    classifier = make_classifier(**unusual)
    folder, _ = export("keras", classifier, tmp_path / "out")
    checkpoint = open_checkpoint(folder)
    for key in ("attention_type", "pooler_type", "position_embedding_type", "embedding_size"):
        assert checkpoint.config[key] == unusual[key]
    model = make_model(tiny_params(5, seed=11, **unusual))
    report = load_weights(model, checkpoint)
    assert not report.fresh and not report.unused
    for name, variable in model.weights_by_name().items():
        assert variable.numpy().tobytes() == classifier.weights[name].tobytes(), name
    with pytest.raises(UserError, match=r"pooler_type: is first, but .* was trained with mean"):
        tiny_params(5, **unusual | {"pooler_type": "first"}).complete(checkpoint.config)
