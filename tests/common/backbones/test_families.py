# SPDX-License-Identifier: Apache-2.0
"""Families of networks: what transformers computed from the same weights, heads and files."""

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file

from common.BaseModel import EVAL, PREDICT
from common.checkpoints.formats import huggingface
from common.checkpoints.formats.huggingface import huggingface_tensors
from common.checkpoints.huggingface_families import HUGGINGFACE_FAMILIES
from common.checkpoints.load import open_checkpoint
from common.cs.prepare import prepare
from common.cs.target import check_rules
from common.errors import UserError
from common.export.export import check_format
from common.kernels.needed_tokens import FIRST_TOKEN
from common.layers.dropout import Dropout, DropoutClock
from common.layers.local_attention import block_attention
from common.layers.rotary import RotaryPositions
from common.params import OptimizerParams, Params
from common.params.rules import rule_faults
from common.training.train_step import make_train_step
from model import make_model, model_fn
from tests.reference.family_fixtures import (
    FIXTURES,
    features_of,
    load_model,
    needs_fixtures,
    params_of,
    reference,
)
from tests.reference.family_heads import save_with_head, targets_of
from tests.reference.one_step import adamw

# Those of ../shared/fixtures/README.md, between programs in float32.
TOLERANCE, MASKED_WORDS_TOLERANCE = 1e-5, 1e-4
# Its residuals are not normalised in between, so that its numbers are larger.
MODERNBERT_TOLERANCE = 2e-5
FAMILIES = ["roberta", "distilbert", "electra", "albert", "modernbert"]
HEADS = ["model", "sequence_classification", "masked_lm"]
# Folders of fixtures that are named otherwise.
OTHER_FOLDERS = {
    "hf_electra/model": "hf_electra/discriminator",
    "hf_electra/masked_lm": "hf_electra/generator_masked_lm",
}
# {folder: tensors that no network here has}
UNUSED = {"hf_roberta/model": {"pooler.dense.weight", "pooler.dense.bias"}}


def folders(*heads):
    named = [f"hf_{family}/{head}" for family in FAMILIES for head in heads]
    return [OTHER_FOLDERS.get(name, name) for name in named]


def tolerance_of(name):
    return MODERNBERT_TOLERANCE if "modernbert" in name else TOLERANCE


def assert_close(actual, expected, tolerance=TOLERANCE):
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=tolerance)


# ---- Outputs -------------------------------------------------------------------------------------


@needs_fixtures
@pytest.mark.parametrize("folder", folders(*HEADS))
def test_token_vectors_are_those_of_transformers(folder):
    expected = reference(folder)
    model, report, _ = load_model(FIXTURES / folder, num_classes=3)
    assert not any(name.startswith(("embeddings", "encoder")) for name in report.fresh)
    features = model.network_features(features_of(expected))
    x = np.asarray(model.backbone(features)[0])
    last = features["padding_mask"].sum(axis=1) - 1
    outputs = expected["outputs"]
    tolerance = tolerance_of(folder)
    assert_close(x[:, 0], outputs["sequence_output_cls"], tolerance)
    at_last = x[np.arange(len(x)), last, :16]
    assert_close(at_last, outputs["sequence_output_last_token_first16"], tolerance)
    first, _ = model.backbone(features, needed=FIRST_TOKEN)
    assert_close(first[:, 0], outputs["sequence_output_cls"], tolerance)


@needs_fixtures
@pytest.mark.parametrize("folder", folders("sequence_classification"))
def test_logits_and_loss_of_a_classifier_are_those_of_transformers(folder):
    expected = reference(folder)
    names = tuple(expected["id2label"].values())
    model, report, params = load_model(FIXTURES / folder, num_classes=len(names), label_names=names)
    assert not report.fresh and params.model.backbone == folder[3:].split("/")[0]
    outputs = model.build_model(features_of(expected), EVAL)
    assert_close(outputs["logits"], expected["outputs"]["logits"], tolerance_of(folder))
    loss = model.build_total_loss(outputs, {"labels": tf.constant(expected["labels"])})
    assert_close(loss, expected["outputs"]["loss"], tolerance_of(folder))


@needs_fixtures
def test_the_vector_of_a_row_is_that_of_alberts_pooler():
    folder = "hf_albert/sequence_classification"
    expected = reference(folder)
    model, _, _ = load_model(FIXTURES / folder, num_classes=3)
    x, _ = model.backbone(model.network_features(features_of(expected)))
    assert_close(model.pooler(x[:, 0]), expected["outputs"]["pooled_output"])


def replaced(x, weights):
    """ELECTRA's discriminator (Clark et al. 2020, section 2) in float64: logits [B, T]."""
    weights = {
        name: np.asarray(each).astype(np.float64)
        for name, each in weights.items()
        if name.startswith("discriminator/")
    }
    x = np.asarray(x, np.float64) @ weights["discriminator/transform/kernel"]
    x = x + weights["discriminator/transform/bias"]
    x = x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    x = x @ weights["discriminator/output/kernel"] + weights["discriminator/output/bias"]
    return x[:, :, 0]


@needs_fixtures
def test_the_weights_of_electras_discriminator_say_which_tokens_were_replaced():
    folder = "hf_electra/discriminator"
    expected = reference(folder)
    model, report, _ = load_model(FIXTURES / folder, num_classes=3)
    assert {name for name in report.unused if name.startswith("discriminator/")}
    features = model.network_features(features_of(expected))
    x, mask = model.backbone(features)
    logits = replaced(x, open_checkpoint(FIXTURES / folder).weights)
    for row, found, real in zip(
        expected["outputs"]["discriminator_logits"], logits, np.asarray(mask), strict=True
    ):
        assert_close(found[: len(row)], row)
        assert real.sum() == len(row)


@needs_fixtures
@pytest.mark.parametrize("folder", folders("masked_lm"))
def test_masked_words_are_those_of_transformers(folder):
    expected = reference(folder)
    model, report, _ = load_model(FIXTURES / folder, "pretraining")
    assert not report.fresh
    positions = np.array(expected["masked_lm_positions"], np.int32)
    features = features_of(expected) | {"masked_lm_positions": positions}
    logits = np.asarray(model.build_model(features, EVAL)["mlm_logits"])
    outputs = expected["outputs"]
    assert_close(logits[:, :, :16], outputs["mlm_logits_first16"], MASKED_WORDS_TOLERANCE)
    assert_close(logits.max(axis=-1), outputs["mlm_logits_max"], MASKED_WORDS_TOLERANCE)
    np.testing.assert_array_equal(logits.argmax(axis=-1), outputs["mlm_logits_argmax"])
    targets = {
        "masked_lm_ids": np.array(expected["masked_lm_labels"], np.int32),
        "masked_lm_weights": np.ones(positions.shape, np.float32),
    }
    loss = model.build_scores({"mlm_logits": logits}, targets)["mlm_loss"]
    assert_close(np.mean(loss), outputs["loss"], MASKED_WORDS_TOLERANCE)


@needs_fixtures
@pytest.mark.parametrize("folder", folders("model"))
def test_packed_rows_have_the_vectors_of_rows_by_themselves(folder):
    model, _, _ = load_model(FIXTURES / folder, num_classes=3)
    features = model.network_features(features_of(reference(folder)))
    lengths = features["padding_mask"].sum(axis=1)
    packed = {name: np.zeros((1, lengths.sum() + 3), np.int32) for name in features}
    for name, values in features.items():
        packed[name][0, : lengths.sum()] = values[features["padding_mask"] == 1]
    packed["starts"] = np.cumsum([0, *lengths[:-1]]).astype(np.int32)
    expected, _ = model.backbone(features)
    x, mask = (np.asarray(each) for each in model.backbone(packed))
    length = features["padding_mask"].shape[1]
    real = features["padding_mask"][:, :, None]
    assert_close(x[:, :length] * real, np.asarray(expected) * real, tolerance_of(folder))
    np.testing.assert_array_equal(mask[:, :length], features["padding_mask"])


# ---- Google's programs ---------------------------------------------------------------------------


@needs_fixtures
def test_googles_albert_gives_its_vectors_and_masked_words():
    folder = "google_albert_tf1"
    expected = reference(folder)
    model, report, params = load_model(FIXTURES / folder, "pretraining")
    assert not report.fresh and params.model.encoder_nonlinearity == "gelu_tanh"
    positions = np.array(expected["masked_lm_positions"], np.int32)
    features = features_of(expected) | {"masked_lm_positions": positions}
    logits = np.asarray(model.build_model(features, EVAL)["mlm_logits"], np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    outputs = expected["outputs"]
    first = log_probs[:, :, :16].reshape(np.shape(outputs["mlm_log_probs_first16"]))
    assert_close(first, outputs["mlm_log_probs_first16"], MASKED_WORDS_TOLERANCE)
    np.testing.assert_array_equal(logits.argmax(axis=-1), outputs["mlm_argmax"])
    classifier, _, _ = load_model(FIXTURES / folder, num_classes=3)
    x, _ = classifier.backbone(classifier.network_features(features_of(expected)))
    assert_close(x[:, 0], outputs["sequence_output_cls"])
    assert_close(classifier.pooler(x[:, 0]), outputs["pooled_output"])


@needs_fixtures
def test_googles_electra_gives_its_vectors_and_which_tokens_were_replaced():
    folder = "google_electra_tf1"
    expected = reference(folder)
    model, report, params = load_model(FIXTURES / folder, num_classes=3)
    assert params.model.encoder_nonlinearity == "gelu_erf"
    assert {"pooler/kernel", "classifier/kernel"} < set(report.fresh)
    assert "generator/embeddings_project/kernel" in report.unused
    x, _ = model.backbone(model.network_features(features_of(expected)))
    outputs = expected["outputs"]["discriminator"]
    assert_close(x[:, 0], outputs["sequence_output_cls"])
    logits = replaced(x, open_checkpoint(FIXTURES / folder).weights)
    for row, found in zip(outputs["fake_probabilities"], logits, strict=True):
        assert_close(1 / (1 + np.exp(-found[: len(row)])), row)


@needs_fixtures
def test_a_published_electra_has_no_config_and_heads_of_64(tmp_path):
    source = FIXTURES / "google_electra_tf1"
    for name in ("electra_tiny.index", "electra_tiny.data-00000-of-00001", "vocab.txt"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    config = open_checkpoint(tmp_path).config
    assert (config["num_heads"], config["encoder_nonlinearity"]) == (1, "gelu_erf")
    assert "num_heads 1: as published for this width" in config["notes"][-1]


# ---- Files ---------------------------------------------------------------------------------------


@needs_fixtures
@pytest.mark.parametrize("folder", folders(*HEADS))
def test_reading_and_writing_gives_every_bit_back(folder):
    stored = load_file(FIXTURES / folder / "model.safetensors")
    family = HUGGINGFACE_FAMILIES[folder[3:].split("/")[0]]
    weights = huggingface.read_weights(FIXTURES / folder)
    unused = UNUSED.get(folder, set())
    assert unused == weights.keys() & stored.keys()
    arrays = {name: np.asarray(each) for name, each in weights.items() if name not in unused}
    written = huggingface_tensors(arrays, family)
    if folder.endswith("/model"):  # a model without a head has no prefix
        written = {name.removeprefix(family.prefix): each for name, each in written.items()}
    assert written.keys() == stored.keys() - unused
    for name, array in written.items():
        assert array.tobytes() == stored[name].tobytes(), name
        assert array.flags.c_contiguous  # safetensors writes memory as it lies


@needs_fixtures
@pytest.mark.parametrize("family", FAMILIES)
def test_the_family_of_weights_alone_follows_from_their_names(family, tmp_path):
    (folder,) = (each for each in folders("masked_lm") if each.startswith(f"hf_{family}/"))
    source = FIXTURES / folder / "model.safetensors"
    (tmp_path / source.name).write_bytes(source.read_bytes())
    config = open_checkpoint(tmp_path / source.name).config
    assert config["backbone"] == family and config["num_heads"] is None
    assert (config["num_hidden_layers"] is None) == (family == "albert")
    weights = open_checkpoint(tmp_path / source.name).weights
    assert "encoder/layer_0/attention/query/kernel" in weights


@needs_fixtures
def test_a_padding_id_that_moves_positions_is_refused(tmp_path):
    source = FIXTURES / "hf_roberta" / "masked_lm"
    config = json.loads((source / "config.json").read_text()) | {"pad_token_id": 0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match="pad_token_id is 0, from which roberta numbers"):
        open_checkpoint(tmp_path)


# ---- Params --------------------------------------------------------------------------------------


@needs_fixtures
def test_a_family_that_contradicts_the_checkpoint_or_a_key_is_refused():
    folder = FIXTURES / "hf_distilbert" / "sequence_classification"
    with pytest.raises(UserError, match=r"model\.backbone: is bert, but checkpoint .* distilbert"):
        params_of(folder, num_classes=2, backbone="bert")
    text = r"use_segment_embedding: is true, and DistilBERT has false; leave the key out"
    with pytest.raises(UserError, match=text):
        params_of(folder, num_classes=2, use_segment_embedding=True)
    assert params_of(folder, num_classes=2).model.use_segment_embedding is False


@needs_fixtures
@pytest.mark.parametrize("model_type", ["xlm-roberta", "camembert"])
def test_the_multilingual_and_the_french_roberta_are_robertas(model_type, tmp_path):
    source = FIXTURES / "hf_roberta" / "sequence_classification"
    folder = shutil.copytree(source, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": model_type}))
    read, wanted = open_checkpoint(folder), open_checkpoint(source)
    of_folder = {"path": None, "vocab_file": None}
    assert read.config | of_folder == wanted.config | of_folder
    assert read.config["backbone"] == "roberta"
    assert read.weights.keys() == wanted.weights.keys()


@needs_fixtures
def test_roberta_has_room_for_two_tokens_less_than_its_positions():
    folder = FIXTURES / "hf_roberta" / "sequence_classification"
    params = params_of(folder, num_classes=3)
    assert params.model.max_position_embeddings == 70 and params.model.num_positions == 68
    rows = {**params.eval_input.model_dump(), "max_sequence_length": 69}
    longer = Params.model_validate(
        {"eval_input": rows, "model": {}, "optimizer": {}, "runconfig": {}}
    )
    config = open_checkpoint(folder).config
    with pytest.raises(UserError, match=r"69 exceeds .* 70, of which RoBERTa leaves 2 out; .* 68"):
        longer.complete(config, {"num_cls_classes": 3})


def fresh(family, **model):
    """Complete Params of a small network of a family, without a checkpoint."""
    sizes = dict(hidden_size=6, num_hidden_layers=2, num_heads=2, filter_size=13, vocab_size=23)
    rows = {"data_processor": "Sst2DataProcessor", "data_dir": "none", "batch_size": 3}
    inputs = {"eval_input": {**rows, "max_sequence_length": 17}, "runconfig": {}}
    section = {"model": {**sizes, "backbone": family, **model}, "optimizer": {}}
    return Params.model_validate(inputs | section).complete(None, {"num_cls_classes": 2})


def test_fresh_networks_have_the_parts_of_their_family():
    params = {family: fresh(family) for family in FAMILIES if family != "modernbert"}
    assert params["roberta"].model.max_position_embeddings == 19
    assert params["distilbert"].model.use_segment_embedding is False
    model = params["albert"].model.model_copy(update={"backbone": "modernbert"})
    faults = dict(rule_faults(params["albert"].model_copy(update={"model": model})))
    assert "heads of 3, an odd number; ModernBERT turns pairs" in faults["model.num_heads"]
    model = make_model(params["albert"])
    layers = {name.split("/")[1] for name in model.weights_by_name() if "encoder" in name}
    assert layers == {"layer_0"} and len(model.encoder.layers) == 2
    changed = params["albert"].model_copy(
        update={
            "model": params["albert"].model.model_copy(update={"freeze": ("layers:1",)}),
            "optimizer": OptimizerParams(layer_wise_lr_decay=0.8),
        }
    )
    faults = dict(rule_faults(changed))
    assert faults["model.freeze"].startswith("names layers:1, and the layers of ALBERT share")
    assert faults["optimizer.layer_wise_lr_decay"].startswith("is 0.8, and the layers of ALBERT")


def test_layers_that_share_weights_drop_different_numbers():
    """The same mask at every depth would drop the same parts of a vector again and again."""
    model = make_model(fresh("albert", dropout_rate=0.5))
    features = {"input_ids": np.ones((1, 4), np.int32), "padding_mask": np.ones((1, 4), np.int32)}
    features["segment_ids"] = np.zeros((1, 4), np.int32)
    masks, clock = [], model.clock
    layer = model.encoder.layers[0]

    def draw(x, mask, select=None, training=False):
        masks.append(np.asarray(layer.feed_forward.dropout(tf.ones((1, 4, 6)), training=True)))
        return x

    layer.call = draw
    model.backbone(features, training=True)
    first, second = masks
    assert (first != second).any() and clock.depth == 0


# ---- What a family cannot do ---------------------------------------------------------------------


@needs_fixtures
@pytest.mark.parametrize("folder", folders("sequence_classification"))
def test_programs_of_bert_alone_are_refused(folder):
    count = len(reference(folder)["id2label"])
    model, _, params = load_model(FIXTURES / folder, num_classes=count)
    title = params.model.family.title
    with pytest.raises(UserError, match=f"the network is {title}, and google-research/bert"):
        check_format("tf1", params, model)
    params = params.with_runconfig(mode="eval", model_dir="none")
    text = r"model\.backbone: \w+, and a CS system runs bert alone"
    with pytest.raises(UserError, match=text):
        check_rules(params)
    session = SimpleNamespace(params=params, run=params.runconfig, checkpoint=None)
    with pytest.raises(UserError, match=text):  # where only the checkpoint says it
        prepare(session, [], None, None)
    assert model.build_model(features_of(reference(folder)), PREDICT)["logits"].shape[0] >= 4


@needs_fixtures
def test_next_sentences_are_of_bert_alone():
    folder = FIXTURES / "hf_roberta" / "masked_lm"
    with pytest.raises(UserError, match="disable_nsp: is false, and RoBERTa has no next-sentence"):
        params_of(folder, "pretraining", disable_nsp=False)


# ---- Training ------------------------------------------------------------------------------------

STEPS = json.loads((Path(__file__).parents[2] / "reference" / "family_steps.json").read_text())


@needs_fixtures
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_of_adamw_is_that_of_transformers_and_torch(family):
    folder, step = f"hf_{family}/sequence_classification", STEPS[family]
    known = reference(folder)
    names = tuple(known["id2label"].values())
    model, _, params = load_model(FIXTURES / folder, num_classes=len(names), label_names=names)
    weights = model.weights_by_name()
    before = {name: np.asarray(each) for name, each in weights.items()}
    train_step = make_train_step(
        model_fn, params, model, adamw({name: each.value for name, each in weights.items()})
    )
    batch = {name: tf.constant(each) for name, each in features_of(known).items()}
    targets = {"labels": tf.constant(known["labels"])}
    figures = train_step(batch, targets)
    assert float(figures["train/cost_cls"]) == pytest.approx(step["loss"], rel=1e-5)
    norm = float(figures["train/unclipped_grad_norm"])
    assert norm == pytest.approx(step["gradient_norm"], rel=1e-4)
    updates = {name: np.asarray(each) - before[name] for name, each in weights.items()}
    updates = huggingface_tensors(updates, HUGGINGFACE_FAMILIES[family])
    assert updates.keys() == step["updates"].keys()
    for name, expected in step["updates"].items():
        # Float32 numbers near 1 are 1e-7 apart, their differences are as wrong.
        assert_close(updates[name].ravel()[:4], expected["first"], 1e-6)
        found = np.linalg.norm(updates[name].astype(np.float64))
        assert found == pytest.approx(expected["l2"], rel=1e-3, abs=1e-6), name
    outputs = model.build_model(dict(batch), EVAL)
    after = float(model.build_total_loss(outputs, targets))
    assert after == pytest.approx(step["loss_after"], rel=1e-5)


# ---- Heads without a fixture ---------------------------------------------------------------------

HEADS_ALONE = json.loads(
    (Path(__file__).parents[2] / "reference" / "family_heads.json").read_text()
)


@needs_fixtures
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", ["token_classification", "question_answering"])
def test_heads_for_words_and_answers_compute_what_transformers_does(family, task, tmp_path):
    known, expected = (
        reference(f"hf_{family}/sequence_classification"),
        HEADS_ALONE[family].get(task),
    )
    save_with_head(FIXTURES, tmp_path, family, task)
    if task not in HEADS_ALONE[family]:
        pytest.skip("transformers' class has another head there")
    count = 5 if task == "token_classification" else None
    rows = {} if count else {"span_softmax": "row"}  # as transformers, padding included
    model, report, _ = load_model(tmp_path, task, count, **rows)
    assert not report.fresh and open_checkpoint(tmp_path).config["task"] == task
    outputs = model.build_model(features_of(known), EVAL)
    for name, logits in expected.items():
        if name != "loss":
            assert_close(outputs[name][0, : len(logits)], logits, tolerance_of(family))
    targets = {
        name: tf.constant(np.maximum(each, -1), tf.int32)
        for name, each in targets_of(task, known["input_mask"]).items()
    }
    if (family, task) != ("roberta", "question_answering"):  # padding has other positions there
        assert_close(model.build_total_loss(outputs, targets), expected["loss"])
    weights = {name: np.asarray(each) for name, each in model.weights_by_name().items()}
    written = huggingface_tensors(weights, HUGGINGFACE_FAMILIES[family])
    for name, stored in load_file(tmp_path / "model.safetensors").items():
        assert written.pop(name).tobytes() == stored.tobytes(), name
    assert not written


# ---- Windows and rotary positions ----------------------------------------------------------------


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("length", [13, 24, 25])
def test_blocks_give_what_full_attention_gives_within_a_window(length, is_packed):
    generator = np.random.default_rng(length)
    query, key, value = generator.normal(size=(3, 2, 3, length, 4)).astype(np.float32)
    mask = (np.arange(length) < [[length], [length - 5]]).astype(np.int32)
    if is_packed:
        row = np.arange(length) // 7
        mask = (row[:, None] == row).astype(np.int32) * mask[:, None, :]
    clock = DropoutClock()
    dropout, reach = Dropout(0.0, clock), 4
    found = block_attention(query, key, value, tf.constant(mask), reach, dropout)
    near = np.abs(np.arange(length)[:, None] - np.arange(length)) <= reach
    allowed = near & (mask if is_packed else mask[:, None, :]).astype(bool)  # [B, T, S]
    scores = np.einsum("BHTd,BHSd->BHTS", query, key).astype(np.float64)
    scores = np.where(allowed[:, None], scores, -np.inf)
    is_used = allowed.any(axis=-1)  # a token far from all real ones attends to nothing
    scores[~np.broadcast_to(is_used[:, None], scores.shape[:3])] = 0
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    expected = (weights / weights.sum(axis=-1, keepdims=True)) @ value
    used = is_used[:, None, :, None]
    assert_close(np.asarray(found) * used, expected * used)


def test_rotary_angles_are_those_of_the_paper_at_places_far_from_the_first():
    """In float64: pair i of place p is turned by p / theta^(2i / d)."""
    rotary, places = RotaryPositions(6, 10_000.0), np.array([0, 1, 1023, 1024, 40_000], np.int32)
    x = np.random.default_rng(0).normal(size=(1, 1, 5, 6)).astype(np.float32)
    angles = places[:, None] / 10_000.0 ** (np.arange(3) * 2 / 6)
    first, second = x[..., :3].astype(np.float64), x[..., 3:].astype(np.float64)
    expected = [
        first * np.cos(angles) - second * np.sin(angles),
        second * np.cos(angles) + first * np.sin(angles),
    ]
    assert_close(rotary(tf.constant(x), places), np.concatenate(expected, axis=-1), 1e-6)


@needs_fixtures
def test_a_classifier_begins_with_the_head_of_a_modernbert_of_masked_words():
    folder = FIXTURES / "hf_modernbert" / "masked_lm"
    _, report, params = load_model(folder, num_classes=3)
    assert set(report.fresh) == {"classifier/kernel", "classifier/bias"}
    assert {"pooler/kernel", "pooler/layer_norm/gamma"} <= set(report.loaded)
    assert (params.model.local_attention, params.model.global_attention_every) == (16, 3)
    mean = FIXTURES / "hf_modernbert" / "sequence_classification"
    assert params_of(mean, num_classes=3).model.pooler_type == "mean"
    with pytest.raises(UserError, match=r"pooler_type: is first, but checkpoint .* with mean"):
        params_of(mean, num_classes=3, pooler_type="first")
    with pytest.raises(UserError, match=r"local_attention: is 8, but checkpoint .* has 16"):
        params_of(folder, num_classes=3, local_attention=8)


@needs_fixtures
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_types": ["full_attention"] * 4}, "layer_types are global in another order"),
        ({"norm_bias": True}, "norm_bias is True; only False can be loaded"),
        ({"classifier_pooling": "max"}, "classifier_pooling is 'max'; cls, mean"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope_type is 'yarn'"),
        ({"local_rope_theta": "a"}, "local_rope_theta is 'a'; a number above 0"),
    ],
)
def test_another_modernbert_is_refused(change, message, tmp_path):
    source = FIXTURES / "hf_modernbert" / "masked_lm"
    config = json.loads((source / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match=message):
        open_checkpoint(tmp_path)
