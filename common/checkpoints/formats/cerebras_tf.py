# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the original Cerebras TensorFlow program: pre-training and classifier.

A `model.ckpt-<step>` of Cerebras ModelZoo R_1.7.1 `transformers/tf/bert`. A `params.yaml` beside it
adds what the weights do not show. Its `input_mask` is 1 on padding, as in this project's features,
and its GELU is the tanh form.
"""

import re
from pathlib import Path

from common.checkpoints.containers import tf_bundle
from common.checkpoints.names import notes_on_state, weights_of
from common.checkpoints.small_files import network_config
from common.errors import UserError

WORD_EMBEDDINGS = "input_embedding/embedding_weights"

# Keras repeats the last scope of a layer, a/b/b/kernel; here it stands once.
TENSORS = {
    WORD_EMBEDDINGS: "embeddings/word_embeddings",
    "position_embedding/position_embedding_weights": "embeddings/position_embeddings",
    "segment_embedding/segment_embedding_weights": "embeddings/segment_embeddings",
    "output_embedding/embedding_weights": "mlm/output_embeddings",
    "mlm_layer/mlm_bias": "mlm/output_bias",
}
MODULES = {
    "input_embed_projection": "embeddings/projection",
    "pre_encoder_layer_norm": "embeddings/layer_norm",
    "post_encoder_layer_norm": "encoder/final_layer_norm",
    "cls_layer/cls_dense": "pooler",
    "mlm_layer/output_embed_projection": "mlm/projection",
    "mlm_layer/mlm_ffn": "mlm/transform",
    "mlm_layer/mlm_layer_norm": "mlm/layer_norm",
}
ATTENTION = {
    "q_projection": "query",
    "k_projection": "key",
    "v_projection": "value",
    "output_transform": "output",
}
NORMS = ("attention_layer_norm", "feed_forward_layer_norm")
DENSE = ("expand", "project")
EPSILON_WHEN_UNSET = 1e-8  # of R_1.7.1 transformers/tf/bert/utils.py


def is_checkpoint(path):
    """A TensorFlow checkpoint with the original's names."""
    if tf_bundle.find_prefix(path) is None:
        return False
    try:
        return any(tensor.name == WORD_EMBEDDINGS for tensor in list_tensors(path))
    except UserError:
        return False  # google_tf1 claims it and reports the fault


def read_config(path):
    prefix = tf_bundle.find_prefix(path)
    tensors = list_tensors(path)
    weights = weights_of(prefix, tensors)
    config, sections = network_config("cerebras", Path(prefix), weights, WORD_EMBEDDINGS)
    if sections is not None:
        if config["layer_norm_epsilon"] is None:
            config["layer_norm_epsilon"] = EPSILON_WHEN_UNSET
        if config["encoder_nonlinearity"] == "gelu":
            config["encoder_nonlinearity"] = "gelu_tanh"
        # Keys that its BertModel.py reads and does not use.
        config |= {"mlm_nonlinearity": None, "nsp_nonlinearity": None}
    config["notes"] = notes_on_state(tensors)
    return config | tf_bundle.read_step(tensors)


def read_weights(path):
    return weights_of(tf_bundle.find_prefix(path), list_tensors(path))


def list_tensors(path):
    return tf_bundle.list_variables(tf_bundle.find_prefix(path), neutral_name)


def neutral_name(name, names):
    """Neutral name of a variable, or None.

    names: of the whole checkpoint. `cls_output_dense` is the next-sentence head if there is an MLM
    head, as in pre-training, and else the label head of a classifier.
    """
    if name in TENSORS:
        return TENSORS[name]
    match = re.fullmatch(r"((?:[^/]+/)*)([^/]+)/\2/(kernel|bias|gamma|beta)", name)
    if match is None:
        return None
    module, part = match[1] + match[2], match[3]
    if module == "cls_layer/cls_output_dense":
        neutral = "nsp" if any(n.startswith("mlm_layer/") for n in names) else "classifier"
    else:
        neutral = MODULES.get(module) or layer_module(module)
    return neutral and f"{neutral}/{part}"


def layer_module(module):
    """Neutral module of a module of the encoder, or None.

    Keras numbers the layers of a kind in the order of construction, the first without a number. An
    encoder layer has two dense layers and two layer norms.
    """
    scope, _, layer = module.removeprefix("encoder/").partition("/")
    kind, number = numbered(scope)
    if kind == "self_attention" and layer in ATTENTION:
        return f"encoder/layer_{number}/attention/{ATTENTION[layer]}"
    if kind == "layer_normalization_layer" and not layer:
        return f"encoder/layer_{number // 2}/{NORMS[number % 2]}"
    dense, dense_number = numbered(layer)
    if kind == "ffn" and dense == "dense_layer" and dense_number // 2 == number:
        return f"encoder/layer_{number}/feed_forward/{DENSE[dense_number % 2]}"
    return None


def numbered(name):
    """`dense_layer_3` -> ("dense_layer", 3); `dense_layer` -> ("dense_layer", 0)."""
    match = re.fullmatch(r"(.*?)_(0|[1-9]\d{0,3})", name)
    return (match[1], int(match[2])) if match else (name, 0)
