# SPDX-License-Identifier: Apache-2.0
"""BERT as other programs compute it: names, keys of its config, unsupported networks, weights."""

import numpy as np

from common.checkpoints.names import KEY_OF_AXIS, axes_of, standard_names
from common.checkpoints.small_files import check_value
from common.errors import UserError
from common.layers.positions import sinusoids
from common.params.model import NONLINEARITIES

# Module of google-research/bert's modeling.py -> neutral module. transformers took the names over,
# with dots.
MODULES = {
    "bert/embeddings/LayerNorm": "embeddings/layer_norm",
    "bert/encoder/layer_{i}/attention/self/query": "encoder/layer_{i}/attention/query",
    "bert/encoder/layer_{i}/attention/self/key": "encoder/layer_{i}/attention/key",
    "bert/encoder/layer_{i}/attention/self/value": "encoder/layer_{i}/attention/value",
    "bert/encoder/layer_{i}/attention/output/dense": "encoder/layer_{i}/attention/output",
    "bert/encoder/layer_{i}/attention/output/LayerNorm": "encoder/layer_{i}/attention_layer_norm",
    "bert/encoder/layer_{i}/intermediate/dense": "encoder/layer_{i}/feed_forward/expand",
    "bert/encoder/layer_{i}/output/dense": "encoder/layer_{i}/feed_forward/project",
    "bert/encoder/layer_{i}/output/LayerNorm": "encoder/layer_{i}/feed_forward_layer_norm",
    "bert/pooler/dense": "pooler",
    "cls/predictions/transform/dense": "mlm/transform",
    "cls/predictions/transform/LayerNorm": "mlm/layer_norm",
}
# config.json and bert_config.json -> ModelParams.
CONFIG_KEYS = {
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "filter_size",
    "max_position_embeddings": "max_position_embeddings",
    "vocab_size": "vocab_size",
}
# Keys of ModelParams -> the only value that other programs of BERT support.
OF_EVERY_BERT = {
    "use_pre_normalization": False,
    "attention_type": "scaled_dot_product",
    "pooler_type": "first",
}


def read_network(config, source, gelu):
    """{key of ModelParams: value} of a config.json.

    config: dict; source: its path; gelu: the form of GELU that its program computes.
    """
    sizes = {
        key: check_value(config[name], key, source, name)
        for name, key in CONFIG_KEYS.items()
        if config.get(name) is not None
    }
    activation = config.get("hidden_act", "gelu")
    check_value(activation, "encoder_nonlinearity", source, "hidden_act")
    names = NONLINEARITIES | {"gelu": gelu}
    return sizes | {"encoder_nonlinearity": names.get(activation, activation)}


def write_sizes(cfg):
    """The entries of a config.json for ModelParams `cfg`: dict."""
    return {name: getattr(cfg, key) for name, key in CONFIG_KEYS.items()}


def refuse_other_networks(cfg, format):
    """Raises UserError for a network that the programs of a format would compute differently."""
    others = [
        f"model.{key} is {str(value).lower()}, and {format} knows {str(of_bert).lower()} alone"
        for key, of_bert in OF_EVERY_BERT.items()
        if (value := getattr(cfg, key)) != of_bert
    ]
    if cfg.is_factorized:
        others.append(
            f"model.embedding_size is {cfg.embedding_size}, and the word table of {format} is "
            f"hidden_size wide, {cfg.hidden_size}"
        )
    if others:
        raise UserError(
            f"{'; '.join(others)}: its programs would compute something else. Export it as "
            "saved_model or onnx"
        )


def with_every_weight(weights, cfg):
    """{neutral name: <float32> array}: the weights, and those of BERT that this network lacks.

    Missing tables and biases are zeros, which change nothing; fixed positions become a table.
    """
    sizes = {axis: getattr(cfg, key.removeprefix("model.")) for axis, key in KEY_OF_AXIS.items()}
    sizes["S"] = 2
    added = {
        name: np.zeros([sizes[axis] for axis in axes_of(name)], np.float32)
        for name in standard_names(cfg.num_hidden_layers)
        if name not in weights
    }
    if cfg.use_position_embedding and cfg.position_embedding_type == "fixed":
        positions = sinusoids(cfg.max_position_embeddings, cfg.hidden_size)
        added["embeddings/position_embeddings"] = positions
    return added | weights
