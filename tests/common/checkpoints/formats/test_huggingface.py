# SPDX-License-Identifier: Apache-2.0
"""Hugging Face checkpoints: those written by transformers, their variants, and broken ones.

What the loaded networks compute is tested in tests/test_BertClassifierModel.py.
"""

import json
import re
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from common.checkpoints.formats import huggingface
from common.checkpoints.inspect import inspect_checkpoint
from common.checkpoints.names import WEIGHTS, pattern_of
from common.errors import UserError
from tests.reference.shards import save_shards
from tests.reference.tiny_bert import huggingface_tensors, save_huggingface

FIXTURES = Path(__file__).parents[5] / "shared" / "fixtures"
needs_fixtures = pytest.mark.skipif(
    not FIXTURES.is_dir(), reason="../shared/fixtures, written by transformers, is not there"
)


# ---- Weights -------------------------------------------------------------------------------------


@needs_fixtures
@pytest.mark.parametrize("folder", ["huggingface", "huggingface_classifier"])
def test_every_tensor_of_transformers_has_its_neutral_name(folder):
    weights = huggingface.read_weights(FIXTURES / folder)
    assert all(pattern_of(name)[0] in WEIGHTS for name in weights)
    lines = (FIXTURES / folder / "variables.txt").read_text().split("# pytorch_model.bin")[0]
    assert len(weights) == len([line for line in lines.splitlines() if "[" in line])


@needs_fixtures
def test_kernels_are_transposed_and_the_rest_is_as_stored():
    weights = huggingface.read_weights(FIXTURES / "huggingface")
    with safe_open(FIXTURES / "huggingface" / "model.safetensors", framework="numpy") as file:
        layer = "bert.encoder.layer.1."
        for name, expected in {
            "embeddings/word_embeddings": file.get_tensor("bert.embeddings.word_embeddings.weight"),
            # The one bias that no output shows: the softmax cancels it.
            "encoder/layer_1/attention/key/bias": file.get_tensor(
                layer + "attention.self.key.bias"
            ),
            "encoder/layer_1/attention/query/kernel": file.get_tensor(
                layer + "attention.self.query.weight"
            ).T,
            "encoder/layer_1/feed_forward/expand/kernel": file.get_tensor(
                layer + "intermediate.dense.weight"
            ).T,
            "encoder/layer_1/feed_forward_layer_norm/gamma": file.get_tensor(
                layer + "output.LayerNorm.weight"
            ),
            "nsp/kernel": file.get_tensor("cls.seq_relationship.weight").T,
            "mlm/output_bias": file.get_tensor("cls.predictions.bias"),
        }.items():
            assert weights[name].shape == expected.shape
            array = np.asarray(weights[name])
            np.testing.assert_array_equal(array, expected)
            assert array.dtype == np.float32 and array.flags.c_contiguous


def test_a_bert_model_without_prefix_and_a_classifier_with_one_have_the_same_names(tmp_path):
    bare = save_huggingface(tmp_path / "bare", huggingface_tensors())
    headed = save_huggingface(tmp_path / "headed", huggingface_tensors(num_labels=5))
    bare, headed = huggingface.read_weights(bare), huggingface.read_weights(headed)
    assert set(headed) - set(bare) == {"classifier/kernel", "classifier/bias"}
    assert headed["classifier/kernel"].shape == (6, 5)
    np.testing.assert_array_equal(
        np.asarray(bare["pooler/bias"]), np.asarray(headed["pooler/bias"])
    )


def test_gamma_and_beta_of_old_files_are_weight_and_bias_of_layer_norms(tmp_path):
    new = huggingface_tensors()
    old = {
        re.sub(
            r"LayerNorm\.weight$",
            "LayerNorm.gamma",
            re.sub(r"LayerNorm\.bias$", "LayerNorm.beta", k),
        ): v
        for k, v in new.items()
    }
    assert set(old) != set(new)
    new = huggingface.read_weights(save_huggingface(tmp_path / "new", new))
    old = huggingface.read_weights(save_huggingface(tmp_path / "old", old))
    assert set(old) == set(new)
    for name in new:
        np.testing.assert_array_equal(np.asarray(old[name]), np.asarray(new[name]))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_floating_types_become_float32_with_the_same_values(tmp_path, dtype):
    tensors = {name: value.astype(dtype) for name, value in huggingface_tensors().items()}
    weights = huggingface.read_weights(save_huggingface(tmp_path, tensors))
    array = np.asarray(weights["embeddings/word_embeddings"])
    assert array.dtype == np.float32
    stored = tensors["embeddings.word_embeddings.weight"]
    np.testing.assert_array_equal(array, stored.astype(np.float32))


def test_constants_and_what_nobody_knows_keep_their_own_name(tmp_path):
    tensors = huggingface_tensors()
    tensors["embeddings.position_ids"] = np.arange(19)[None]
    tensors["encoder.layer.0.adapter.weight"] = np.zeros((6, 6), np.float32)
    weights = huggingface.read_weights(save_huggingface(tmp_path, tensors))
    assert weights["embeddings.position_ids"].shape == (1, 19)
    assert "encoder.layer.0.adapter.weight" in weights


# ---- Config --------------------------------------------------------------------------------------


@needs_fixtures
def test_config_of_a_folder_written_by_transformers():
    config = huggingface.read_config(FIXTURES / "huggingface_classifier")
    assert config == {
        "backbone": "bert",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_heads": 4,
        "filter_size": 256,
        "max_position_embeddings": 64,
        "vocab_size": 1000,
        "embedding_size": None,  # not factorised
        "encoder_nonlinearity": "gelu_erf",
        "mlm_nonlinearity": "gelu_erf",
        "nsp_nonlinearity": None,  # tanh
        "layer_norm_epsilon": 1e-12,
        "family": "huggingface",
        "vocab_file": str(FIXTURES / "huggingface_classifier" / "vocab.txt"),
        "do_lower_case": None,
        "notes": [],
        "label_names": ("entailment", "neutral", "contradiction"),
    }


@pytest.mark.parametrize(
    ("values", "task"),
    [
        ({}, None),
        ({"architectures": ["BertForSequenceClassification"]}, None),
        ({"problem_type": None, "architectures": None}, None),
        ({"problem_type": "single_label_classification"}, "classification"),
        ({"problem_type": "multi_label_classification"}, "multi_label"),
        ({"problem_type": "regression"}, "regression"),
        (
            {"architectures": ["BertForMultipleChoice"], "problem_type": "regression"},
            "multiple choice (BertForMultipleChoice)",
        ),
        ({"architectures": ["BertForPreTraining"]}, None),
        ({"problem_type": ["regression"], "architectures": 3}, None),
    ],
    ids=str,
)
def test_the_task_is_what_the_config_says(tmp_path, values, task):
    folder = save_huggingface(tmp_path, huggingface_tensors(num_labels=3), **values)
    assert huggingface.read_config(folder).get("task") == task


def test_label_names_that_do_not_name_every_class_are_left_out(tmp_path):
    tensors = huggingface_tensors(num_labels=2)
    for names in ({"0": "no"}, {"0": "no", "2": "yes"}, {"0": "no", "1": 1}, ["no", "yes"]):
        folder = save_huggingface(tmp_path, tensors, id2label=names)
        assert "label_names" not in huggingface.read_config(folder)
    folder = save_huggingface(tmp_path, tensors, id2label={"1": "yes", "0": "no"})
    assert huggingface.read_config(folder)["label_names"] == ("no", "yes")


def test_two_classes_without_names_have_those_that_transformers_does_not_write(tmp_path):
    names = []
    for count in (2, 3):
        folder = save_huggingface(tmp_path / str(count), huggingface_tensors(num_labels=count))
        names.append(huggingface.read_config(folder).get("label_names"))
    assert names == [("LABEL_0", "LABEL_1"), None]


@pytest.mark.parametrize(
    ("hidden_act", "expected"),
    [
        ("gelu", "gelu_erf"),
        ("gelu_new", "gelu_tanh"),
        ("gelu_pytorch_tanh", "gelu_tanh"),
        ("relu", "relu"),
        ("silu", "silu"),
        ("swish", "silu"),
    ],
)
def test_hidden_act_says_which_form_of_gelu(tmp_path, hidden_act, expected):
    folder = save_huggingface(tmp_path, huggingface_tensors(), hidden_act=hidden_act)
    assert huggingface.read_config(folder)["encoder_nonlinearity"] == expected


def test_config_from_a_lone_file_is_what_its_shapes_tell(tmp_path):
    save_file(huggingface_tensors(), tmp_path / "weights.safetensors")
    config = huggingface.read_config(tmp_path / "weights.safetensors")
    known = {key: value for key, value in config.items() if value is not None}
    assert known == {
        "backbone": "bert",
        "hidden_size": 6,
        "num_hidden_layers": 2,
        "filter_size": 13,
        "max_position_embeddings": 19,
        "vocab_size": 23,
        "family": "huggingface",
        "notes": [],
    }
    assert config["num_heads"] is None


def test_a_file_is_read_with_the_config_beside_it(tmp_path):
    folder = save_huggingface(tmp_path, huggingface_tensors(), layer_norm_eps=1e-5)
    config = huggingface.read_config(folder / "model.safetensors")
    assert config == huggingface.read_config(folder)
    assert config["num_heads"] == 2 and config["layer_norm_epsilon"] == 1e-5


def test_lower_casing_is_told_by_the_tokenizer_or_else_the_config(tmp_path):
    folder = save_huggingface(tmp_path, huggingface_tensors(), do_lower_case=True)
    assert huggingface.read_config(folder)["do_lower_case"] is True
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert huggingface.read_config(folder)["do_lower_case"] is False


@pytest.mark.parametrize(
    "normalizer",
    [
        {"type": "BertNormalizer", "lowercase": False},
        {"type": "Sequence", "normalizers": [{"type": "BertNormalizer", "lowercase": False}]},
    ],
)
def test_a_tokenizer_json_beside_a_vocabulary_says_whether_to_lower(tmp_path, normalizer):
    folder = save_huggingface(tmp_path, huggingface_tensors())
    (folder / "vocab.txt").write_text("a\n")
    (folder / "tokenizer.json").write_text(json.dumps({"normalizer": normalizer}))
    config = huggingface.read_config(folder)
    assert config["do_lower_case"] is False and config["vocab_file"] == str(folder / "vocab.txt")
    lowering = {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "Lowercase"}]}
    (folder / "tokenizer.json").write_text(json.dumps({"normalizer": lowering}))
    assert huggingface.read_config(folder)["do_lower_case"] is True


def test_tokens_that_were_added_to_the_vocabulary_are_named(tmp_path):
    folder = save_huggingface(tmp_path, huggingface_tensors())
    special = [{"content": token, "id": i} for i, token in enumerate(["[PAD]", "[CLS]", "<user>"])]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": special}))
    (folder / "added_tokens.json").write_text('{"[MASK]": 4, "[NEW]": 23, "covid-19": 24}')
    (note,) = huggingface.read_config(folder)["notes"]
    assert "3 tokens added to its vocabulary (<user>, [NEW], covid-19)" in note
    assert note in inspect_checkpoint(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "xlnet"}, r"model_type is 'xlnet'; those that can be loaded are bert,"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"is_decoder": True}, "is_decoder is true"),
        ({"hidden_size": 8}, r"hidden_size is 8, but the weights .* have 6"),
        ({"num_hidden_layers": 12}, "num_hidden_layers is 12, but .* have 2"),
        ({"num_attention_heads": "two"}, "num_attention_heads is 'two'"),
        ({"vocab_size": True}, "vocab_size is True"),
        ({"hidden_act": 7}, "hidden_act is 7"),
        ({"layer_norm_eps": 0}, "layer_norm_eps is 0"),
    ],
)
def test_a_config_of_another_network_is_refused(tmp_path, config, message):
    folder = save_huggingface(tmp_path, huggingface_tensors(), **config)
    with pytest.raises(UserError, match=message):
        huggingface.read_config(folder)


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_a_config_that_is_no_json_mapping_is_refused(tmp_path, text):
    folder = save_huggingface(tmp_path, huggingface_tensors())
    (folder / "config.json").write_bytes(text)
    with pytest.raises(UserError, match=r"config\.json cannot be read as JSON"):
        huggingface.read_config(folder)


# ---- Files that are no checkpoint ----------------------------------------------------------------

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 133466304\n"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole: b"", "it is empty"),
        (lambda whole: whole[:500], "its 500 bytes are not as many"),
        (lambda whole: whole[:-1], "bytes are not as many as it says"),
        (lambda whole: whole + b"1", "bytes are not as many as it says"),
        (lambda whole: b"abc", "no safetensors file"),
        (lambda whole: bytes(1000), "no safetensors file"),
        (lambda whole: b"PK\x03\x04" + whole, "no safetensors file"),
        (lambda whole: struct.pack("<Q", 2**63) + whole[8:], "bytes are not as many as it says"),
        (lambda whole: POINTER, "Git LFS pointer"),
    ],
)
def test_a_damaged_file_is_refused_with_a_sentence(tmp_path, damage, message):
    folder = save_huggingface(tmp_path, huggingface_tensors())
    file = folder / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=message) as error:
        huggingface.read_config(folder)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_a_header_with_an_absurd_shape_is_refused(tmp_path):
    name = "embeddings.word_embeddings.weight"
    header = {name: {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    with pytest.raises(UserError, match="no safetensors file, or damaged"):
        huggingface.read_weights(tmp_path)


def test_quantized_weights_are_refused(tmp_path):
    tensors = huggingface_tensors()
    tensors["pooler.dense.weight"] = np.zeros((6, 6), np.int8)
    with pytest.raises(UserError, match=r"pooler\.dense\.weight is of type int8"):
        huggingface.read_weights(save_huggingface(tmp_path, tensors))


def test_two_tensors_of_one_meaning_are_refused(tmp_path):
    tensors = huggingface_tensors()
    tensors["bert.pooler.dense.bias"] = tensors["pooler.dense.bias"] + 1
    with pytest.raises(UserError, match=r"pooler/bias"):
        huggingface.read_weights(save_huggingface(tmp_path, tensors))


def test_another_network_without_config_is_refused(tmp_path):
    save_file({"transformer.wte.weight": np.zeros((3, 2), np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"holds no BERT.*transformer\.wte\.weight"):
        huggingface.read_config(tmp_path / "a.safetensors")


def test_the_weights_file_of_our_own_format_is_not_taken_for_one_of_transformers(tmp_path):
    save_file({"pooler/bias": np.zeros(6, np.float32)}, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="give the checkpoint-<step> folder"):
        huggingface.read_config(tmp_path / "weights.safetensors")


def test_only_its_own_files_are_claimed(tmp_path):
    assert not huggingface.is_checkpoint(tmp_path)
    assert not huggingface.is_checkpoint(tmp_path / "absent.safetensors")
    (tmp_path / "notes.bin").write_bytes(b"PK")
    assert not huggingface.is_checkpoint(tmp_path)
    assert not huggingface.is_checkpoint(tmp_path / "notes.bin")
    for name in reversed(huggingface.WEIGHTS_FILES):  # a folder means the first of them
        (tmp_path / name).write_bytes(b"PK\x03\x04")
        assert huggingface.is_checkpoint(tmp_path)
        assert huggingface.is_checkpoint(tmp_path / name)
        assert huggingface.find_weights_file(tmp_path) == tmp_path / name


# ---- Shards --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_shards_hold_what_one_file_holds(tmp_path, kind):
    tensors = huggingface_tensors(num_labels=3)
    whole = huggingface.read_weights(save_huggingface(tmp_path / "whole", tensors))
    folder = save_shards(tmp_path / "shards", tensors, kind)
    for path in (folder, folder / f"{kind}.index.json"):
        shards = huggingface.read_weights(path)
        assert set(shards) == set(whole)
        for name in whole:
            np.testing.assert_array_equal(np.asarray(shards[name]), np.asarray(whole[name]))
    assert huggingface.read_config(folder) == huggingface.read_config(tmp_path / "whole")


@pytest.mark.parametrize("name", ["classifier.bias", "bert.pooler.dense.weight"])
def test_a_shard_without_a_tensor_that_the_index_names_is_refused(tmp_path, name):
    """A fresh head in its place would train without a word."""
    folder = save_shards(tmp_path, huggingface_tensors(num_labels=3))
    for shard in folder.glob("model-*.safetensors"):
        tensors = load_file(shard)
        tensors.pop(name, None)
        save_file(tensors, shard)
    with pytest.raises(UserError, match=f"index.json names '{name}' of model-0000[12]"):
        huggingface.read_weights(folder)
