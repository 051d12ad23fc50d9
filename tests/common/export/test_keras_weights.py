# SPDX-License-Identifier: Apache-2.0
"""The weights as Keras writes them, read by Keras and by this project into a fresh network."""

import pytest
import yaml

from common.checkpoints.load import load_weights, open_checkpoint
from common.errors import UserError
from common.export.export import export
from model import make_model
from tests.reference.tiny_bert import tiny_params


@pytest.mark.parametrize("use_pre_normalization", [False, True])
def test_a_fresh_network_of_the_written_params_loads_every_weight(
    make_classifier, tmp_path, use_pre_normalization
):
    classifier = make_classifier(use_pre_normalization=use_pre_normalization)
    folder, _ = export("keras", classifier, tmp_path / "out")
    params = tiny_params(5, seed=11, use_pre_normalization=use_pre_normalization)
    written = yaml.safe_load((folder / "params.yaml").read_text())["model"]
    assert written == params.model.model_dump(mode="json", exclude_none=True)
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
