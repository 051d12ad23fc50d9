# SPDX-License-Identifier: Apache-2.0
"""Google's and the original Cerebras' TensorFlow checkpoints: names, paths, configs, state.

What the loaded networks compute is tested in test_original_programs.py, damage in
test_hostile_files.py.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.checkpoints.containers import tf_bundle
from common.checkpoints.formats import cerebras_tf, google_tf1
from common.checkpoints.load import open_checkpoint
from common.checkpoints.names import standard_names
from common.checkpoints.standard_bert import MODULES
from common.errors import UserError

ROOT = Path(__file__).parents[4]
GENERATOR = np.random.default_rng(0)


def save_variables(prefix, shapes):
    """As a TF1 Saver does. shapes: dict of name to shape. Returns {name: array}."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: GENERATOR.normal(size=s).astype(np.float32) for name, s in shapes.items()}
    if "global_step" in arrays:
        arrays["global_step"] = np.int64(1234)
    tf_bundle.write(prefix, arrays)
    return arrays


GOOGLE = {
    "bert/embeddings/word_embeddings": (23, 6),
    "bert/embeddings/position_embeddings": (19, 6),
    "bert/encoder/layer_0/intermediate/dense/kernel": (6, 13),
    "bert/encoder/layer_1/attention/self/key/kernel": (6, 6),
}
CEREBRAS = {
    "input_embedding/embedding_weights": (23, 6),
    "position_embedding/position_embedding_weights": (19, 6),
    "encoder/ffn/dense_layer/dense_layer/kernel": (6, 13),
    "encoder/ffn_1/dense_layer_3/dense_layer_3/kernel": (13, 6),
}
BERT_CONFIG = {
    "hidden_size": 6,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 13,
    "max_position_embeddings": 19,
    "vocab_size": 23,
    "hidden_act": "gelu",
}


# ---- Paths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".index", ".data-00000-of-00001", ".meta"])
def test_a_prefix_is_taken_with_any_of_its_suffixes(tmp_path, suffix):
    save_variables(tmp_path / "bert_model.ckpt", GOOGLE)
    checkpoint = open_checkpoint(f"{tmp_path}/bert_model.ckpt{suffix}")
    assert checkpoint.format == "google_tf1"
    assert checkpoint.weights["encoder/layer_1/attention/key/kernel"].shape == (6, 6)


def test_a_folder_means_the_checkpoint_of_its_state_file_or_else_the_newest(tmp_path):
    for step in (9, 10, 100):
        save_variables(tmp_path / f"model.ckpt-{step}", CEREBRAS)
    assert tf_bundle.find_prefix(tmp_path) == str(tmp_path / "model.ckpt-100")
    state = tmp_path / "checkpoint"
    state.write_text('model_checkpoint_path: "/elsewhere/model.ckpt-10"\n')
    assert tf_bundle.find_prefix(tmp_path) == str(tmp_path / "model.ckpt-10")
    state.write_text('model_checkpoint_path: "model.ckpt-11"\n')
    assert tf_bundle.find_prefix(tmp_path) == str(tmp_path / "model.ckpt-100")


def test_a_name_with_signs_of_a_pattern_is_taken_as_it_is(tmp_path):
    prefix = tmp_path / "runs [1]" / "what?" / "model*.ckpt"
    arrays = save_variables(prefix, GOOGLE)
    for path in (prefix, prefix.parent):
        checkpoint = open_checkpoint(path)
        assert checkpoint.format == "google_tf1"
        expected = arrays["bert/embeddings/word_embeddings"]
        np.testing.assert_array_equal(checkpoint.weights["embeddings/word_embeddings"], expected)


def test_names_tell_the_two_formats_apart(tmp_path):
    save_variables(tmp_path / "google" / "model.ckpt-1", GOOGLE)
    save_variables(tmp_path / "cerebras" / "model.ckpt-1", CEREBRAS)
    save_variables(tmp_path / "other" / "model.ckpt-1", {"a/kernel": (2, 3)})
    assert open_checkpoint(tmp_path / "google").format == "google_tf1"
    assert open_checkpoint(tmp_path / "cerebras").format == "cerebras_tf"
    with pytest.raises(UserError, match=r"holds no BERT.*it has a/kernel"):
        open_checkpoint(tmp_path / "other")


# ---- Configs -------------------------------------------------------------------------------------


def test_googles_config_and_vocabulary_are_taken_from_the_folder(tmp_path):
    save_variables(tmp_path / "bert_model.ckpt", GOOGLE)
    config = google_tf1.read_config(tmp_path)
    assert config["num_heads"] is None and config["filter_size"] == 13
    (tmp_path / "bert_config.json").write_text(json.dumps(BERT_CONFIG))
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    assert google_tf1.read_config(tmp_path / "bert_model.ckpt") == {
        "backbone": "bert",
        "hidden_size": 6,
        "num_hidden_layers": 2,
        "num_heads": 2,
        "filter_size": 13,
        "max_position_embeddings": 19,
        "vocab_size": 23,
        "embedding_size": None,  # not factorised
        "encoder_nonlinearity": "gelu_tanh",
        "mlm_nonlinearity": "gelu_tanh",
        "nsp_nonlinearity": None,  # tanh
        "layer_norm_epsilon": None,  # the family's: 1e-12
        "family": "google",
        "do_lower_case": None,
        "vocab_file": str(tmp_path / "vocab.txt"),
        "notes": [],
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 8}, "hidden_size is 8, but the weights in bert_model.ckpt have 6"),
        ({"num_attention_heads": "two"}, "num_attention_heads is 'two'"),
        ({"hidden_act": 3}, "hidden_act is 3"),
    ],
)
def test_a_config_of_another_network_is_refused(tmp_path, change, message):
    save_variables(tmp_path / "bert_model.ckpt", GOOGLE)
    (tmp_path / "bert_config.json").write_text(json.dumps(BERT_CONFIG | change))
    with pytest.raises(UserError, match=message):
        google_tf1.read_config(tmp_path)


@pytest.mark.parametrize(
    ("params", "epsilon", "activation"),
    [
        (None, None, None),  # the family's: 1e-5, tanh form
        ("model: {num_heads: 2}", 1e-8, None),  # the original's where its file is silent
        ("model: {num_heads: 2, layer_norm_epsilon: 1e-5}", 1e-5, None),  # text to PyYAML
        ("model: {num_heads: 2, layer_norm_epsilon: 1.0e-6}", 1e-6, None),
        ("model: {num_heads: 2, encoder_nonlinearity: gelu}", 1e-8, "gelu_tanh"),
        ("model: {num_heads: 2, encoder_nonlinearity: relu}", 1e-8, "relu"),
        ("- no\n- mapping", 1e-8, None),
    ],
)
def test_params_yaml_beside_a_cerebras_checkpoint_tells_the_rest(
    tmp_path, params, epsilon, activation
):
    save_variables(tmp_path / "model.ckpt-7", CEREBRAS)
    if params is not None:
        (tmp_path / "params.yaml").write_text(params)
    config = cerebras_tf.read_config(tmp_path)
    assert config["layer_norm_epsilon"] == epsilon
    assert config["encoder_nonlinearity"] == activation
    assert config["num_heads"] == (2 if "num_heads" in (params or "") else None)
    assert config["family"] == "cerebras" and config["vocab_size"] == 23


def test_how_a_cerebras_network_computes_is_told_by_its_params_yaml(tmp_path):
    save_variables(tmp_path / "model.ckpt-7", CEREBRAS)
    text = "model: {attention_type: dot_product, pooler_type: MEAN}"
    (tmp_path / "params.yaml").write_text(text)
    config = cerebras_tf.read_config(tmp_path)
    assert (config["attention_type"], config["pooler_type"]) == ("dot_product", "mean")
    (tmp_path / "params.yaml").write_text("model: {pooler_type: 1}")
    with pytest.raises(UserError, match="pooler_type is 1; a name"):
        cerebras_tf.read_config(tmp_path)


def test_a_params_yaml_of_another_network_is_refused(tmp_path):
    save_variables(tmp_path / "model.ckpt-7", CEREBRAS)
    (tmp_path / "params.yaml").write_text("train_input: {vocab_size: 24}")
    with pytest.raises(UserError, match=r"vocab_size is 24, but the weights in .* have 23"):
        open_checkpoint(tmp_path)


# ---- State ---------------------------------------------------------------------------------------


def test_slots_and_the_step_are_skipped_and_the_report_says_so(tmp_path):
    slots = {f"{name}/adam_{slot}": s for name, s in GOOGLE.items() for slot in "mv"}
    save_variables(tmp_path / "model.ckpt-1234", GOOGLE | slots | {"global_step": ()})
    checkpoint = open_checkpoint(tmp_path)
    assert len(checkpoint.weights) == len(GOOGLE)
    assert checkpoint.config["step"] == 1234
    assert checkpoint.config["notes"] == [
        "9 tensors of its training state (optimizer, step): skipped"
    ]


def test_a_wrong_byte_among_the_values_is_refused_when_they_are_read(tmp_path):
    prefix = tmp_path / "model.ckpt-1"
    arrays = save_variables(prefix, GOOGLE | {"global_step": ()})
    data = Path(f"{prefix}.data-00000-of-00001")
    name = "bert/embeddings/word_embeddings"
    for wrong in (arrays[name], arrays["global_step"]):
        content = bytearray(data.read_bytes())
        content[content.index(wrong.tobytes())] ^= 1
        data.write_bytes(content)
    weights = google_tf1.read_weights(prefix)
    np.asarray(weights["embeddings/position_embeddings"])
    with pytest.raises(UserError, match=f"{name} cannot be read, it is damaged"):
        np.asarray(weights["embeddings/word_embeddings"])
    with pytest.raises(UserError, match="global_step cannot be read, it is damaged"):
        google_tf1.read_config(prefix)


# ---- Names ---------------------------------------------------------------------------------------


def test_a_fine_tuned_google_classifier_has_a_label_head(tmp_path):
    shapes = GOOGLE | {"output_weights": (5, 6), "output_bias": (5,)}
    arrays = save_variables(tmp_path / "model.ckpt-1", shapes)
    weights = google_tf1.read_weights(tmp_path)
    np.testing.assert_array_equal(
        np.asarray(weights["classifier/kernel"]), arrays["output_weights"].T
    )
    np.testing.assert_array_equal(np.asarray(weights["classifier/bias"]), arrays["output_bias"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bert/encoder/layer_11/output/LayerNorm/beta",
         "encoder/layer_11/feed_forward_layer_norm/beta"),
        ("bert/pooler/dense/kernel", "pooler/kernel"),
        ("bert/encoder/layer_01/output/dense/kernel", None),
        ("bert/pooler/dense/weight", None),
        ("bert/encoder/layer_{i}/output/dense/kernel/x", None),
    ],
)  # fmt: skip
def test_googles_names(name, expected):
    assert google_tf1.neutral_name(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("encoder/self_attention/q_projection/q_projection/kernel",
         "encoder/layer_0/attention/query/kernel"),
        ("encoder/self_attention_11/output_transform/output_transform/bias",
         "encoder/layer_11/attention/output/bias"),
        ("encoder/ffn_11/dense_layer_22/dense_layer_22/kernel",
         "encoder/layer_11/feed_forward/expand/kernel"),
        ("encoder/ffn_11/dense_layer_21/dense_layer_21/kernel", None),
        ("encoder/layer_normalization_layer_23/layer_normalization_layer_23/gamma",
         "encoder/layer_11/feed_forward_layer_norm/gamma"),
        ("post_encoder_layer_norm/post_encoder_layer_norm/beta", "encoder/final_layer_norm/beta"),
        ("encoder/self_attention/q_projection/kernel", None),
        ("input_embed_projection/input_embed_projection/kernel", "embeddings/projection/kernel"),
        ("mlm_layer/output_embed_projection/output_embed_projection/kernel",
         "mlm/projection/kernel"),
        ("output_embedding/embedding_weights", "mlm/output_embeddings"),
        ("mlm_layer/mlm_ffn/mlm_ffn/bias", "mlm/transform/bias"),
    ],
)  # fmt: skip
def test_cerebras_names(name, expected):
    assert cerebras_tf.neutral_name(name, ()) == expected


def test_the_last_layer_of_the_original_is_a_label_head_where_there_is_no_mlm_head():
    name = "cls_layer/cls_output_dense/cls_output_dense/kernel"
    assert cerebras_tf.neutral_name(name, {name}) == "classifier/kernel"
    assert cerebras_tf.neutral_name(name, {name, "mlm_layer/mlm_bias"}) == "nsp/kernel"


def test_every_weight_of_an_encoder_can_come_from_either():
    theirs = [
        module.replace("{i}", str(i)) + f"/{part}"
        for module in MODULES
        for i in range(2)
        for part in (("gamma", "beta") if module.endswith("Norm") else ("kernel", "bias"))
    ]
    encoder = {name for name in standard_names(2) if name.startswith("encoder/")}
    assert encoder <= set(map(google_tf1.neutral_name, theirs))


def test_what_is_stored_is_listed_without_tensorflow(tmp_path):
    save_variables(tmp_path / "model.ckpt-1", CEREBRAS | {"global_step": ()})
    code = (
        "import sys; from common.checkpoints.inspect import inspect_checkpoint;"
        f"print(inspect_checkpoint({str(tmp_path)!r}));"
        "assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "training step           1,234" in done.stdout
