# SPDX-License-Identifier: Apache-2.0
"""Heads of pre-training in checkpoints: what starts from what; tables shared or of their own."""

import numpy as np
import pytest

from common.checkpoints.inspect import inspect_checkpoint
from common.checkpoints.load import load_weights, open_checkpoint
from common.errors import UserError
from common.training.checks import check_trained
from model import make_model
from tests.reference import toy_pretraining
from tests.reference.tiny_bert import (
    huggingface_tensors,
    pretraining_tensors,
    randomize,
    save_huggingface,
    tiny_params,
)
from utils import get_params

CLASSIFIER = """\
train_input: {data_processor: Sst2DataProcessor, data_dir: data, max_sequence_length: 24,
              batch_size: 4}
model: {pretrain_params_path: params.yaml, num_cls_classes: 2}
runconfig: {max_steps: 3}
"""


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """The model_dir of a pre-training of two steps, with relu in its head of masked words."""
    model_dir = tmp_path_factory.mktemp("pretrained")
    model = {"mlm_nonlinearity": "relu", "share_embedding_weights": False}
    params = toy_pretraining.make_params(model_dir, model=model, max_steps=2)
    toy_pretraining.train(model_dir, model=model, max_steps=2)
    (model_dir / "params.yaml").write_text(params.to_yaml())
    return model_dir


def test_a_classifier_starts_from_a_pre_training_and_its_params_file(pretrained):
    file = pretrained / "classifier.yaml"
    file.write_text(CLASSIFIER)
    checkpoint = open_checkpoint(pretrained)
    assert checkpoint.config["task"] == "pretraining"
    params = get_params(file)
    assert params.model.hidden_size == 12 and params.model.filter_size == 17
    classifier = make_model(params.complete(checkpoint.config))
    report = load_weights(classifier, checkpoint)
    assert set(report.fresh) == {"classifier/kernel", "classifier/bias"}
    assert {name.split("/")[0] for name in report.unused} == {"nsp", "mlm"}
    for name in report.loaded:
        expected = np.asarray(checkpoint.weights[name])
        np.testing.assert_array_equal(classifier.weights_by_name()[name], expected)


def test_pre_training_goes_on_from_its_own_checkpoint_with_its_activation(pretrained):
    params = get_params(pretrained / "params.yaml")
    blank = params.model.model_copy(update={"mlm_nonlinearity": None})
    checkpoint = open_checkpoint(pretrained)
    params = params.model_copy(update={"model": blank}).complete(checkpoint.config)
    assert params.model.mlm_activation == "relu"
    report = load_weights(make_model(params), checkpoint)
    assert not report.fresh and not report.unused and not report.notes


def test_what_a_checkpoint_is_for_is_listed(pretrained):
    lines = inspect_checkpoint(pretrained).splitlines()
    assert any(line.split() == ["task", "pretraining"] for line in lines)
    assert any(line.endswith("mlm/output_embeddings") for line in lines)


@pytest.mark.parametrize("num_labels", [None, 3], ids=["backbone", "classifier"])
def test_pre_training_goes_on_from_weights_without_its_heads(tmp_path, num_labels):
    folder = save_huggingface(tmp_path, huggingface_tensors(num_labels))
    task = make_model(tiny_params(task="pretraining"))
    report = load_weights(task, open_checkpoint(folder))
    assert {name.split("/")[0] for name in report.fresh} == {"mlm", "nsp"}
    assert "pooler/kernel" in report.loaded
    assert report.notes == [
        "nsp: fresh, the checkpoint has none",
        "mlm: fresh, the checkpoint has none",
    ]


def test_a_checkpoint_of_masked_words_alone_brings_their_head(tmp_path):
    folder = save_huggingface(tmp_path, pretraining_tensors(has_nsp=False))
    task = make_model(tiny_params(task="pretraining"))
    report = load_weights(task, open_checkpoint(folder))
    assert {name.split("/")[0] for name in report.fresh} == {"pooler", "nsp"}
    assert "mlm/output_bias" in report.loaded
    with pytest.raises(UserError, match=r"nsp/bias, .*; .* write model\.disable_nsp: true"):
        check_trained(report, task)  # as before an evaluation
    task = make_model(tiny_params(task="pretraining", disable_nsp=True))
    check_trained(load_weights(task, open_checkpoint(folder)), task)


def test_a_head_without_a_bias_says_which_key_loads_it(tmp_path):
    tensors = pretraining_tensors()
    del tensors["cls.predictions.transform.dense.bias"]
    checkpoint = open_checkpoint(save_huggingface(tmp_path, tensors))
    report = load_weights(make_model(tiny_params(task="pretraining")), checkpoint)
    assert "mlm/layer_norm/gamma" in report.fresh
    (note,) = report.notes
    assert note == (
        "mlm: fresh, the checkpoint's lacks mlm/transform/bias; to load the rest, write "
        "model.use_ffn_bias_in_mlm: false"
    )
    task = make_model(tiny_params(task="pretraining", use_ffn_bias_in_mlm=False))
    assert not load_weights(task, checkpoint).fresh


def test_a_table_of_its_own_is_not_taken_for_the_word_embeddings(tmp_path):
    tensors = pretraining_tensors(is_tied=False)
    checkpoint = open_checkpoint(save_huggingface(tmp_path, tensors))
    with pytest.raises(UserError, match=r"write model\.share_embedding_weights: false in x\.yaml"):
        load_weights(make_model(tiny_params(task="pretraining")), checkpoint, params_path="x.yaml")
    task = make_model(tiny_params(task="pretraining", share_embedding_weights=False))
    assert not load_weights(task, checkpoint).fresh
    bias = task.weights_by_name()["mlm/output_bias"]
    np.testing.assert_array_equal(bias, tensors["cls.predictions.decoder.bias"])  # the one it adds


@pytest.mark.parametrize("has_copy", [False, True])
def test_a_shared_table_fits_a_network_that_shares_it_and_starts_one_that_does_not(
    tmp_path, has_copy
):
    tensors = pretraining_tensors()
    words = tensors["bert.embeddings.word_embeddings.weight"]
    if has_copy:  # as pytorch_model.bin has
        tensors["cls.predictions.decoder.weight"] = words.copy()
        tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"].copy()
    checkpoint = open_checkpoint(save_huggingface(tmp_path, tensors))
    report = load_weights(make_model(tiny_params(task="pretraining")), checkpoint)
    assert not report.fresh and not report.notes
    task = make_model(tiny_params(task="pretraining", share_embedding_weights=False))
    randomize(task)
    report = load_weights(task, checkpoint)
    np.testing.assert_array_equal(task.weights_by_name()["mlm/output_embeddings"], words)
    assert len(report.notes) == (not has_copy)


@pytest.mark.parametrize(
    ("hidden_act", "expected"), [("relu", "relu"), ("gelu", "gelu_erf"), ("gelu_new", "gelu_tanh")]
)
def test_the_head_of_masked_words_has_the_activation_of_its_checkpoint(
    tmp_path, hidden_act, expected
):
    folder = save_huggingface(tmp_path, pretraining_tensors(), hidden_act=hidden_act)
    config = open_checkpoint(folder).config
    params = tiny_params(task="pretraining")
    blank = params.model.model_copy(update={"mlm_nonlinearity": None, "encoder_nonlinearity": None})
    model = params.model_copy(update={"model": blank}).complete(config).model
    assert model.mlm_activation == model.encoder_nonlinearity == expected
    assert model.nsp_activation == "tanh"
    # A classifier has no such head, and no such key.
    blank = tiny_params().model.model_copy(update={"encoder_nonlinearity": None})
    classifier = tiny_params().model_copy(update={"model": blank}).complete(config)
    assert classifier.model.mlm_nonlinearity is None
