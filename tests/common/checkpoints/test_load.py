# SPDX-License-Identifier: Apache-2.0
"""Recognising a checkpoint, warm-starting from it, and the report of what was done."""

import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from common.checkpoints.formats import FORMATS, Format
from common.checkpoints.load import (
    Checkpoint,
    LoadReport,
    fresh_layers,
    load_weights,
    open_checkpoint,
)
from common.errors import UserError
from model import make_model
from tests.reference.tiny_bert import (
    huggingface_tensors,
    randomize,
    save_huggingface,
    tiny_params,
)

MAPS = Path("/proc/self/maps")  # of Linux


def tiny_checkpoint(tmp_path, **arguments):
    return open_checkpoint(save_huggingface(tmp_path, huggingface_tensors(**arguments)))


def checkpoint_of_ours(path, monkeypatch, weights):
    """A checkpoint of weights in memory, by a module in the place of our own format's."""
    module = types.ModuleType("in_memory")
    module.is_checkpoint = lambda given: given == str(path)
    module.read_config = lambda path: {"family": "ours"}
    module.read_weights = lambda path: weights
    monkeypatch.setitem(sys.modules, "rooms.in_memory", module)
    row = Format("in_memory", "In memory", "weights in memory", room="rooms")
    monkeypatch.setitem(FORMATS, "in_memory", row)
    return open_checkpoint(path)


def values_of(model):
    return {name: np.asarray(v) for name, v in model.weights_by_name().items()}


# ---- Recognition ---------------------------------------------------------------------------------


def test_a_hugging_face_folder_is_recognised(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    checkpoint = tiny_checkpoint(tmp_path)
    assert checkpoint.format == "huggingface"
    assert checkpoint.path == checkpoint.config["path"] == str(tmp_path)
    assert checkpoint.config["hidden_size"] == 6
    assert checkpoint.config["vocab_file"] == str(tmp_path / "vocab.txt")
    assert checkpoint.weights["pooler/kernel"].shape == (6, 6)


def test_another_format_is_recognised_by_its_module(tmp_path, monkeypatch):
    weights = {"pooler/bias": np.arange(6.0, dtype=np.float32)}
    checkpoint = checkpoint_of_ours(tmp_path, monkeypatch, weights)
    assert checkpoint.format == "in_memory" and "vocab_file" not in checkpoint.config
    assert checkpoint.weights["pooler/bias"].tolist() == [0, 1, 2, 3, 4, 5]


def test_a_path_without_anything_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        open_checkpoint(tmp_path / "absent")


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("bert-base-uncased", "hf://google-bert/bert-base-uncased"),
        ("MiniLM", "hf://owner/MiniLM"),
        ("sentence-transformers/all-MiniLM-L6-v2", "hf://sentence-transformers/all-MiniLM-L6-v2"),
        ("pretrained_bert.h5", None),
        ("./weights", None),
        ("models/v1/weights", None),
        ("/models/bert", None),
    ],
)
def test_a_name_of_the_hub_gets_a_hint_of_its_form(path, hint):
    with pytest.raises(UserError, match="correct the path") as error:
        open_checkpoint(path)
    assert str(error.value).endswith(f"write {hint} for the model of the hub" if hint else "path")


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ([], "an empty folder"),
        (["tf_model.msgpack", "config.json"], r"a folder with config\.json, tf_model\.msgpack"),
        ([f"{i}.txt" for i in range(10)], "and 2 more"),
    ],
)
def test_an_unknown_folder_is_refused_with_what_was_found_and_looked_for(tmp_path, files, found):
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=found) as error:
        open_checkpoint(tmp_path)
    assert "model.safetensors" in str(error.value)


def test_an_unknown_file_is_refused(tmp_path):
    (tmp_path / "weights.bin").write_bytes(bytes(1234))
    with pytest.raises(UserError, match="a file of 1,234 bytes"):
        open_checkpoint(tmp_path / "weights.bin")


# ---- Loading -------------------------------------------------------------------------------------


def test_backbone_and_pooler_come_from_pre_training_and_the_classifier_stays(tmp_path):
    model = make_model(tiny_params())
    before = randomize(model)
    checkpoint = tiny_checkpoint(tmp_path)
    report = load_weights(model, checkpoint)
    for name, value in values_of(model).items():
        is_classifier = name.startswith("classifier/")
        expected = before[name] if is_classifier else np.asarray(checkpoint.weights[name])
        np.testing.assert_array_equal(value, expected)
    assert report.fresh == {"classifier/kernel": (6, 5), "classifier/bias": (5,)}
    assert set(report.loaded) | set(report.fresh) == set(before) and not report.unused
    assert report.notes == ["classifier: fresh, the checkpoint has none"]


@pytest.mark.skipif(not MAPS.exists(), reason=f"no {MAPS}, which says what is mapped")
def test_a_file_that_was_read_no_longer_counts_as_memory(tmp_path):
    checkpoint = tiny_checkpoint(tmp_path)
    np.asarray(checkpoint.weights["pooler/bias"])
    assert str(tmp_path) in MAPS.read_text("utf-8")
    load_weights(make_model(tiny_params()), checkpoint)
    assert str(tmp_path) not in MAPS.read_text("utf-8")
    assert "pooler/bias" in checkpoint.weights  # read once more


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_weight_with_a_number_that_is_not_finite_is_refused_by_its_name(tmp_path, number):
    tensors = huggingface_tensors()
    tensors["encoder.layer.1.output.dense.weight"][3, 2] = number
    checkpoint = open_checkpoint(save_huggingface(tmp_path, tensors))
    with pytest.raises(UserError, match=r"layer_1/feed_forward/project/kernel of .* not finite"):
        load_weights(make_model(tiny_params()), checkpoint)


def test_a_number_beyond_float32_is_refused_and_an_unused_weight_may_hold_anything(tmp_path):
    tensors = huggingface_tensors()
    tensors["cls.predictions.bias"] = np.full(23, np.nan, np.float32)
    load_weights(make_model(tiny_params()), open_checkpoint(save_huggingface(tmp_path, tensors)))
    tensors["pooler.dense.bias"] = tensors["pooler.dense.bias"].astype(np.float64) + 1e300
    checkpoint = open_checkpoint(save_huggingface(tmp_path, tensors))
    with pytest.raises(UserError, match=r"pooler/bias of .* not finite"):
        load_weights(make_model(tiny_params()), checkpoint)


def test_disable_nsp_leaves_the_whole_head_fresh(tmp_path):
    model = make_model(tiny_params())
    before = randomize(model)
    report = load_weights(model, tiny_checkpoint(tmp_path, num_labels=5), disable_nsp=True)
    head = {"pooler/kernel", "pooler/bias", "classifier/kernel", "classifier/bias"}
    assert set(report.fresh) == set(report.unused) == head
    for name in head:
        np.testing.assert_array_equal(values_of(model)[name], before[name])
    assert "disable_nsp" in report.table()


def test_a_classifier_of_as_many_classes_is_loaded_and_the_report_says_so(tmp_path):
    model = make_model(tiny_params())
    checkpoint = tiny_checkpoint(tmp_path, num_labels=5)
    report = load_weights(model, checkpoint)
    assert not report.fresh and not report.unused
    kernel = np.asarray(checkpoint.weights["classifier/kernel"])
    np.testing.assert_array_equal(values_of(model)["classifier/kernel"], kernel)
    assert report.notes == ["classifier: loaded, the checkpoint is a classifier of 5 classes"]


def test_a_classifier_of_other_classes_is_not_loaded(tmp_path):
    model = make_model(tiny_params(num_classes=2))
    report = load_weights(model, tiny_checkpoint(tmp_path, num_labels=5))
    assert set(report.fresh) == set(report.unused) == {"classifier/kernel", "classifier/bias"}
    assert report.notes == ["classifier: fresh, the checkpoint's has 5 classes, not 2"]


def test_a_classifier_of_another_task_is_not_loaded_although_its_sizes_fit(tmp_path):
    tensors = huggingface_tensors(num_labels=3)
    folder = save_huggingface(tmp_path, tensors, problem_type="multi_label_classification")
    report = load_weights(make_model(tiny_params(3)), open_checkpoint(folder))
    assert set(report.fresh) == {"classifier/kernel", "classifier/bias"}
    assert (
        "classifier: fresh, the checkpoint's is for multi_label, not classification" in report.notes
    )
    report = load_weights(make_model(tiny_params(3, task="multi_label")), open_checkpoint(folder))
    assert not report.fresh


def test_a_checkpoint_without_pooler_leaves_it_fresh_and_says_so(tmp_path):
    tensors = {k: v for k, v in huggingface_tensors().items() if not k.startswith("pooler")}
    report = load_weights(
        make_model(tiny_params()), open_checkpoint(save_huggingface(tmp_path, tensors))
    )
    assert "pooler/kernel" in report.fresh
    assert "pooler: fresh, the checkpoint has none" in report.notes


def test_a_longer_position_table_gives_its_first_rows_and_the_report_says_so(tmp_path):
    model = make_model(tiny_params(max_position_embeddings=11))
    checkpoint = tiny_checkpoint(tmp_path)
    report = load_weights(model, checkpoint)
    table = np.asarray(checkpoint.weights["embeddings/position_embeddings"])
    loaded = values_of(model)["embeddings/position_embeddings"]
    np.testing.assert_array_equal(loaded, table[:11])
    assert report.loaded["embeddings/position_embeddings"] == (11, 6)
    assert "embeddings/position_embeddings: the first 11 of 19 rows" in report.table()


def test_tables_that_the_model_does_without_are_unused(tmp_path):
    model = make_model(tiny_params(use_segment_embedding=False))
    report = load_weights(model, tiny_checkpoint(tmp_path))
    assert report.unused == {"embeddings/segment_embeddings": (2, 6)}


def test_mixed_precision_keeps_the_weights_in_float32(tmp_path):
    model = make_model(tiny_params(mixed_precision="mixed_bfloat16"))
    checkpoint = tiny_checkpoint(tmp_path)
    load_weights(model, checkpoint)
    np.testing.assert_array_equal(
        values_of(model)["pooler/kernel"], np.asarray(checkpoint.weights["pooler/kernel"])
    )


# ---- Refusals ------------------------------------------------------------------------------------


def refusal_of(tmp_path, tensors=None, **model):
    """The text on a checkpoint that does not fit; the model has to be left as it was."""
    model = make_model(tiny_params(**model))
    before = randomize(model)
    checkpoint = open_checkpoint(save_huggingface(tmp_path, tensors or huggingface_tensors()))
    with pytest.raises(UserError) as error:
        load_weights(model, checkpoint, params_path="configs/mine.yaml")
    for name, value in values_of(model).items():
        np.testing.assert_array_equal(value, before[name])
    text = str(error.value)
    assert text.startswith(f"checkpoint {tmp_path} does not fit the model of configs/mine.yaml\n")
    return text


def test_other_shapes_are_refused_together_with_the_keys_to_change(tmp_path):
    text = refusal_of(tmp_path, vocab_size=29, filter_size=17, max_position_embeddings=31)
    assert "word_embeddings: [23, 6] in the checkpoint, [29, 6] in the model; " in text
    assert "write model.vocab_size: 23, and the vocab_file it was trained with" in text
    assert "[19, 6] in the checkpoint, [31, 6] in the model" in text
    assert "write model.max_position_embeddings: 19" in text
    assert "encoder/layer_{0..1}/feed_forward/expand/kernel: [6, 13]" in text
    assert "write model.filter_size: 13" in text
    assert len(text.splitlines()) == 1 + 2 + 3  # two tables, and three tensors of either layer


def test_another_hidden_size_is_refused_with_the_key_to_change(tmp_path):
    assert "write model.hidden_size: 6" in refusal_of(tmp_path, hidden_size=8)


def test_three_segments_are_refused(tmp_path):
    tensors = huggingface_tensors()
    tensors["embeddings.token_type_embeddings.weight"] = np.zeros((3, 6), np.float32)
    assert "other than 2 segments" in refusal_of(tmp_path, tensors)


def test_a_weight_of_another_rank_is_refused(tmp_path):
    tensors = huggingface_tensors()
    tensors["encoder.layer.1.output.dense.bias"] = np.zeros((1, 6), np.float32)
    text = refusal_of(tmp_path, tensors)
    assert "encoder/layer_1/feed_forward/project/bias: [1, 6] in the checkpoint, [6]" in text
    assert "another kind of network" in text


def test_a_missing_weight_of_the_backbone_is_named(tmp_path):
    tensors = huggingface_tensors()
    del tensors["encoder.layer.1.attention.self.key.bias"]
    text = refusal_of(tmp_path, tensors)
    assert "encoder/layer_1/attention/key/bias: not in the checkpoint; it is incomplete" in text
    del tensors["encoder.layer.0.attention.self.key.bias"]  # those of query and value are there
    text = refusal_of(tmp_path, tensors)
    assert "attention/key/bias: not in the checkpoint; it is incomplete" in text
    assert len(text.splitlines()) == 2


def test_biases_and_tables_that_a_checkpoint_does_without_are_named_with_their_keys(tmp_path):
    tensors = huggingface_tensors()
    del tensors["embeddings.position_embeddings.weight"]
    tensors = {
        name: tensor
        for name, tensor in tensors.items()
        if not re.search(r"(query|key|value|intermediate.dense|\d.output.dense)\.bias$", name)
    }
    text = refusal_of(tmp_path, tensors, embedding_size=4)
    assert "write model.use_position_embedding: false" in text
    assert "model.position_embedding_type: fixed" in text
    assert "it was trained without, write model.use_projection_bias_in_attention: false" in text
    assert "it was trained without, write model.use_ffn_bias: false" in text
    assert "are not factorised, leave model.embedding_size out" in text


def test_more_layers_than_the_checkpoint_has_are_refused(tmp_path):
    text = refusal_of(tmp_path, num_hidden_layers=4)
    assert "encoder/layer_{2..3}/attention/query/kernel: not in the checkpoint" in text
    assert "write model.num_hidden_layers: 2" in text


def test_pre_norm_and_post_norm_are_told_apart(tmp_path, monkeypatch):
    text = refusal_of(tmp_path, use_pre_normalization=True)
    assert "encoder/final_layer_norm/gamma: not in the checkpoint" in text
    assert "write model.use_pre_normalization: false" in text

    weights = values_of(make_model(tiny_params(use_pre_normalization=True)))
    (tmp_path / "ours").mkdir()
    checkpoint = checkpoint_of_ours(tmp_path / "ours", monkeypatch, weights)
    with pytest.raises(UserError, match=r"write model\.use_pre_normalization: true"):
        load_weights(make_model(tiny_params()), checkpoint)


def test_a_checkpoint_without_segments_names_the_key_that_does_without(tmp_path):
    tensors = huggingface_tensors()
    del tensors["embeddings.token_type_embeddings.weight"]
    assert "model.use_segment_embedding: false" in refusal_of(tmp_path, tensors)


# ---- Report --------------------------------------------------------------------------------------


def test_the_report_counts_first_and_keeps_short_however_deep_the_network():
    layers = {f"encoder/layer_{i}/part/{j}": (7, 3) for i in range(24) for j in range(16)}
    report = LoadReport(
        path="weights",
        format="huggingface",
        loaded={"embeddings/word_embeddings": (1000, 7)} | layers,
        fresh={"classifier/kernel": (7, 2), "classifier/bias": (2,)},
        unused={f"strange.{i}": (1,) for i in range(100)},
        notes=["classifier: fresh, the checkpoint has none"],
    )
    lines = report.table().splitlines()
    assert lines[:4] == [
        "checkpoint weights (huggingface)",
        "  loaded   385 weights         15,064 parameters",  # 7,000 and 384 times 21
        "  fresh      2 weights             16 parameters",
        "  unused   100 weights            100 parameters",
    ]
    assert "  loaded   encoder/layer_{0..23}/...  384 weights" in lines
    assert "  fresh    classifier/kernel [7, 2], bias [2]" in lines
    assert "  unused   and 95 more" in lines
    assert len(lines) <= 25 and max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("stored", "wanted", "note"),
    [
        (1, 1, "loaded, the checkpoint has one output, too"),
        (3, 3, "loaded, the checkpoint is a classifier of 3 classes"),
        (1, 2, "fresh, the checkpoint's has one output, not 2"),
    ],
)
def test_a_head_of_one_output_is_not_called_one_of_classes(stored, wanted, note):
    def head(outputs):
        return {"classifier/bias": np.zeros(outputs), "classifier/kernel": np.zeros((6, outputs))}

    checkpoint = Checkpoint("x", "ours", {})
    checkpoint.__dict__["weights"] = head(stored)
    _, notes = fresh_layers(head(wanted), checkpoint, False, {"classifier": "classes"}, None)
    assert notes == [f"classifier: {note}"]
