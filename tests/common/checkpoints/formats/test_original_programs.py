# SPDX-License-Identifier: Apache-2.0
"""Checkpoints written by the original programs, loaded, against the outputs those computed.

The files and their `reference.json` lie in ../shared/fixtures, which its README describes. Heads of
pre-training: `test_original_pretraining.py`.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from common.checkpoints.load import load_weights, open_checkpoint
from common.checkpoints.names import WEIGHTS, pattern_of
from common.optimizers.factory import make_optimizer
from common.params import OptimizerParams
from common.training.train_step import make_train_step
from model import make_model, model_fn
from tests.reference.tiny_bert import loss_of, tiny_params

FIXTURES = Path(__file__).parents[5] / "shared" / "fixtures"
pytestmark = pytest.mark.skipif(
    not FIXTURES.is_dir(), reason="../shared/fixtures, checkpoints of other programs, is not there"
)

# Path, format, family. The number of heads is 4 in all, which not every format tells.
PRETRAINED = {
    "google": ("google_tf1/bert_model.ckpt", "google_tf1"),
    "huggingface": ("huggingface", "huggingface"),
    "huggingface_bin": ("huggingface/pytorch_model.bin", "huggingface"),
    "cerebras_tf": ("cerebras_tf/model.ckpt-1", "cerebras_tf"),
    "cerebras_mdl": ("cerebras_mdl/checkpoint_0.mdl", "cerebras_mdl"),
}
CLASSIFIERS = {
    "huggingface": ("huggingface_classifier", "huggingface"),
    "huggingface_bin": ("huggingface_classifier/pytorch_model.bin", "huggingface"),
    "cerebras_mdl": ("cerebras_mdl/classifier/checkpoint_0.mdl", "cerebras_mdl"),
}
NETWORK = (
    "hidden_size",
    "num_hidden_layers",
    "filter_size",
    "max_position_embeddings",
    "vocab_size",
)


def open_fixture(path, format):
    if format == "cerebras_mdl":
        pytest.importorskip("hdf5plugin", reason="the extra mdl: pip install hdf5plugin")
    checkpoint = open_checkpoint(FIXTURES / path)
    assert checkpoint.format == format
    return checkpoint


def loaded_model(checkpoint, num_classes, task=None):
    """A model as a params file without geometry but the heads would have it, and the report."""
    blank = dict.fromkeys((*NETWORK, "encoder_nonlinearity", "layer_norm_epsilon"))
    params = tiny_params(num_classes, task=task)
    section = params.model.model_copy(update=blank | {"num_heads": 4})
    params = params.model_copy(update={"model": section})
    params = params.complete(checkpoint.config, {"num_cls_classes": num_classes})
    model = make_model(params)
    return model, load_weights(model, checkpoint)


def reference_of(folder):
    """Features, outputs and the whole of a reference.json; padding_mask is 1 on real tokens."""
    reference = json.loads((FIXTURES / folder / "reference.json").read_text())
    stored = reference.get("features", reference)
    mask = np.array(stored["input_mask"])
    if folder == "cerebras_tf":
        assert reference["input_mask_convention"].startswith("1 = PADDING")
        mask = 1 - mask
    features = {
        "input_ids": np.array(stored["input_ids"]),
        "padding_mask": mask,
        "segment_ids": np.array(stored["segment_ids"]),
    }
    return features, reference["outputs"], reference


def outputs_of(model, features):
    x = model.embeddings(features["input_ids"], features["segment_ids"])
    x = model.encoder(x, features["padding_mask"])
    pooled = model.pooler(x[:, 0])
    return {
        "sequence": np.asarray(x),  # [B, T, D]
        "pooled": np.asarray(pooled),  # [B, D]
        "logits": np.asarray(model.classifier(pooled)),  # [B, C]
    }


def assert_close(what, actual, expected, tolerance=1e-5):
    """Float32 against float32 by another program."""
    difference = np.abs(np.asarray(actual) - np.asarray(expected)).max()
    print(f"{what}: {difference:.1e}")  # shown by pytest -s
    assert difference <= tolerance, what


def check_backbone(outputs, features, expected):
    sequence = outputs["sequence"]
    first = expected.get("sequence_output_cls", expected.get("encoder_output_cls"))
    assert_close("sequence at [CLS]", sequence[:, 0], first)
    last = features["padding_mask"].sum(axis=1) - 1
    for name in ("sequence_output_last_token_first16", "encoder_output_last_token_first16"):
        if name in expected:
            assert_close(
                "sequence at the last token", sequence[range(3), last, :16], expected[name]
            )
    if "pooled_output" in expected:
        assert_close("pooled", outputs["pooled"], expected["pooled_output"])


@pytest.mark.parametrize("name", PRETRAINED)
def test_a_pre_trained_network_computes_what_its_program_computes(name):
    path, format = PRETRAINED[name]
    model, report = loaded_model(open_fixture(path, format), num_classes=2)
    assert set(report.fresh) == {"classifier/kernel", "classifier/bias"}
    features, expected, _ = reference_of(path.split("/")[0])
    check_backbone(outputs_of(model, features), features, expected)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_compute_what_their_program_computes(name):
    path, format = CLASSIFIERS[name]
    model, report = loaded_model(open_fixture(path, format), num_classes=3)
    assert not report.fresh
    features, expected, reference = reference_of(path.split("/")[0])
    if format == "cerebras_mdl":
        expected = reference["classifier"]
    outputs = outputs_of(model, features)
    check_backbone(outputs, features, expected)
    assert_close("logits", outputs["logits"], expected["logits"])
    labels = reference.get("labels", expected.get("labels"))
    assert_close("loss", loss_of(model, outputs["logits"], labels), expected["loss"])


@pytest.mark.parametrize(
    ("folder", "task", "num_outputs"),
    [("hf_multilabel", "multi_label", 5), ("hf_regression", "regression", 1)],
)
def test_other_tasks_compute_what_transformers_computes(folder, task, num_outputs):
    checkpoint = open_fixture(folder, "huggingface")
    assert checkpoint.config["task"] == task
    model, report = loaded_model(checkpoint, num_outputs, task)
    assert not report.fresh and not report.unused
    features, expected, reference = reference_of(folder)
    rows = np.array(expected["logits"]).shape[0]
    outputs = outputs_of(model, features)
    assert_close("sequence at [CLS]", outputs["sequence"][:, 0], expected["sequence_output_cls"])
    assert_close("logits", outputs["logits"], np.reshape(expected["logits"], (rows, num_outputs)))
    labels = np.array(reference["labels"])
    loss = expected.get("loss", reference.get("loss"))
    assert_close("loss", loss_of(model, outputs["logits"], labels), loss)
    metrics = model.build_eval_metric_ops()
    metrics.update({"logits": outputs["logits"]}, {"labels": labels}, np.arange(rows))
    assert_close("evaluation's loss", metrics.compute()["loss"], loss)


def test_a_model_for_every_token_is_no_classifier_of_rows():
    checkpoint = open_fixture("hf_bert_token_classification", "huggingface")
    assert checkpoint.config["task"] == "token_classification"
    _, report = loaded_model(checkpoint, num_classes=7)
    assert "classifier/kernel" in report.fresh  # of as many outputs


@pytest.mark.parametrize("name", ["google", "cerebras_tf"])
def test_a_warm_started_classifier_computes_what_its_program_computes(name):
    """The label head, which the checkpoint lacks, has the values that the reference gives it."""
    path, format = PRETRAINED[name]
    model, _ = loaded_model(open_fixture(path, format), num_classes=3)
    features, _, reference = reference_of(path.split("/")[0])
    expected = reference["classifier"]
    if name == "google":
        kernel, bias = np.array(expected["output_weights"]).T, expected["output_bias"]
    else:
        kernel, bias = expected["cls_output_kernel"], expected["cls_output_bias"]
    model.classifier.kernel.assign(kernel)
    model.classifier.bias.assign(bias)
    logits = outputs_of(model, features)["logits"]
    assert_close("logits", logits, expected["logits"])
    assert_close("loss", loss_of(model, logits, expected["labels"]), expected["loss"])


def test_the_fine_tuned_classifier_of_the_original_has_the_loss_after_its_step():
    """classifier/model.ckpt-1 is the warm-started one after the step of `adamw_step`."""
    checkpoint = open_fixture("cerebras_tf/classifier/model.ckpt-1", "cerebras_tf")
    model, report = loaded_model(checkpoint, num_classes=3)
    assert not report.fresh and not report.unused
    assert any("skipped" in note for note in report.notes)
    features, _, reference = reference_of("cerebras_tf")
    logits = outputs_of(model, features)["logits"]
    step = reference["adamw_step"]
    assert_close("logits", logits, step["logits_after"])
    labels = reference["classifier"]["labels"]
    assert_close("loss", loss_of(model, logits, labels), step["loss_after"])


def test_one_training_step_ends_with_the_weights_of_the_original():
    """Forward pass, gradients, clipping and AdamW together, against the checkpoint it wrote."""
    model, _ = loaded_model(open_fixture(*PRETRAINED["cerebras_tf"]), num_classes=3)
    features, _, reference = reference_of("cerebras_tf")
    model.classifier.kernel.assign(reference["classifier"]["cls_output_kernel"])
    model.classifier.bias.assign(reference["classifier"]["cls_output_bias"])
    expected = reference["adamw_step"]
    given = {key: value for key, value in expected["settings"].items() if key != "dropout"}
    weights = {name: w.value for name, w in model.weights_by_name().items()}
    before = {name: w.numpy() for name, w in weights.items()}
    optimizer = make_optimizer(weights, OptimizerParams.model_validate(given))
    train_step = make_train_step(model_fn, tiny_params(3), model, optimizer)
    batch = {name: tf.constant(features[name], tf.int32) for name in ("input_ids", "segment_ids")}
    batch["input_mask"] = tf.constant(1 - features["padding_mask"], tf.int32)
    figures = train_step(batch, tf.constant(reference["classifier"]["labels"], tf.int32))
    assert_close("loss before", figures["train/cost_cls"], expected["loss_before"])
    norm = float(figures["train/unclipped_grad_norm"])
    assert norm == pytest.approx(expected["unclipped_global_norm"], rel=1e-5)
    after = open_fixture("cerebras_tf/classifier/model.ckpt-1", "cerebras_tf").weights
    assert set(after) == set(weights)
    differences = {}
    for name, weight in weights.items():
        wanted = np.asarray(after[name], np.float64)
        # Relative to all of a weight: a bias began at 0 and is now as small as its update.
        scale = max(np.linalg.norm(wanted), np.linalg.norm(before[name]))
        differences[name] = np.linalg.norm(weight.numpy() - wanted) / scale
    worst = max(differences, key=differences.get)
    print(f"weights after the step: {differences[worst]:.1e} of {worst}")  # shown by pytest -s
    assert differences[worst] < 1e-6


@pytest.mark.parametrize("name", PRETRAINED)
def test_every_weight_of_an_original_has_its_neutral_name(name):
    checkpoint = open_fixture(*PRETRAINED[name])
    repeated = {"mlm/output_embeddings", "cls.predictions.bias"}
    names = set(checkpoint.weights) - repeated
    assert all(pattern_of(name)[0] in WEIGHTS for name in names)
    assert len(names) == 5 + 2 * 16 + 2 + 2 + 5
    originals = ("embeddings/word_embeddings", "mlm/output_bias")
    for name, original in zip(sorted(repeated, reverse=True), originals, strict=True):
        if name in checkpoint.weights:
            np.testing.assert_array_equal(
                np.asarray(checkpoint.weights[name]), np.asarray(checkpoint.weights[original])
            )
