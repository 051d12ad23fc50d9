# SPDX-License-Identifier: Apache-2.0
"""BERT as other programs compute it: names, keys of its config, unsupported networks, weights."""

import numpy as np

from common.checkpoints.names import KEY_OF_AXIS, axes_of, pattern_of, standard_names
from common.checkpoints.small_files import check_value
from common.errors import UserError
from common.layers.positions import sinusoids
from common.params.families import BERT, FAMILIES
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


def read_network(
    config, source, gelu, config_keys=CONFIG_KEYS, activation_key="hidden_act", activation="gelu"
):
    """{key of ModelParams: value} of a config.json.

    config: dict; source: its path; gelu: the form of GELU that its program computes.
    config_keys: {key of the file: key of ModelParams}; activation_key: likewise, of the activation;
    activation: where the file has no such key.
    """
    sizes = {
        key: check_value(config[name], key, source, name)
        for name, key in config_keys.items()
        if config.get(name) is not None
    }
    activation = config.get(activation_key, activation)
    check_value(activation, "encoder_nonlinearity", source, activation_key)
    names = NONLINEARITIES | {"gelu": gelu}
    keys = ("encoder_nonlinearity", "mlm_nonlinearity")  # of one key, there
    return sizes | dict.fromkeys(keys, names.get(activation, activation))


def write_sizes(cfg, config_keys=CONFIG_KEYS):
    """The entries of a config.json for ModelParams `cfg`: dict."""
    sizes = {name: getattr(cfg, key) for name, key in config_keys.items()}
    return sizes | ({"embedding_size": cfg.word_size} if "embedding_size" in sizes else {})


def refuse_other_families(cfg, format):
    """Raises UserError for a network of another family than BERT's."""
    if cfg.family.title != FAMILIES[BERT].title:
        raise UserError(
            f"the network is {cfg.family.title}, and {format} computes BERT alone. Export it as "
            "huggingface, saved_model or onnx"
        )


def refuse_other_networks(cfg, format, poolers=()):
    """Raises UserError for a network that the programs of a format would compute differently.

    poolers: further values of pooler_type that they know.
    """
    others = [
        f"model.{key} is {str(value).lower()}, and {format} knows {str(of_bert).lower()} alone"
        for key, of_bert in OF_EVERY_BERT.items()
        if (value := getattr(cfg, key)) != of_bert and key not in cfg.family.network
        if key != "pooler_type" or value not in poolers
    ]
    if cfg.is_factorized and not cfg.family.projects_sum:
        others.append(
            f"model.embedding_size is {cfg.embedding_size}, and the word table of {format} is "
            f"hidden_size wide, {cfg.hidden_size}"
        )
    if others:
        raise UserError(
            f"{'; '.join(others)}: its programs would compute something else. Export it as "
            "saved_model or onnx"
        )


def refuse_other_heads(cfg, program):
    """Raises UserError for heads of pre-training that a program would compute differently.

    cfg: complete ModelParams.
    """
    faults = []
    if cfg.mlm_activation != cfg.encoder_nonlinearity:
        faults.append(
            f"model.mlm_nonlinearity is {cfg.mlm_activation}, and {program} has one activation for "
            f"this head and the encoder, here {cfg.encoder_nonlinearity}"
        )
    if not cfg.disable_nsp and cfg.nsp_activation != "tanh":
        faults.append(
            f"model.nsp_nonlinearity is {cfg.nsp_activation}, and {program} knows tanh alone"
        )
    if faults:
        raise UserError(f"{'; '.join(faults)}. Export it as keras")


# The biases of a head, each with a weight that tells whether the network has the head.
HEAD_BIASES = {
    "pooler/bias": "pooler/kernel",
    "nsp/bias": "nsp/kernel",
    "mlm/transform/bias": "mlm/transform/kernel",
    "mlm/output_bias": "mlm/transform/kernel",
}


def with_every_weight(weights, cfg, names=None):
    """{neutral name: <float32> array}: the weights, and those of BERT that this network lacks.

    names: those that its family has; None: all of BERT. Missing tables and biases are zeros, which
    change nothing; fixed positions become a table.
    """
    sizes = {axis: getattr(cfg, key.removeprefix("model.")) for axis, key in KEY_OF_AXIS.items()}
    sizes |= {"S": cfg.family.num_segments, "E": cfg.word_size, "2": 2}
    num_layers = 1 if cfg.family.shares_layers else cfg.num_hidden_layers
    weights_of_bert = standard_names(num_layers)
    width = {"D": cfg.word_size} if cfg.family.projects_sum else {}
    of_heads = [name for name, kernel in HEAD_BIASES.items() if kernel in weights]
    if cfg.family.normalizes_embeddings:  # in place of the first layer
        absent = "encoder/layer_0/attention_layer_norm/"
        weights_of_bert = [name for name in weights_of_bert if not name.startswith(absent)]

    def of(name):
        return sizes | (width if name.startswith("embeddings/") else {})

    added = {
        name: np.zeros([of(name)[axis] for axis in axes_of(name)], np.float32)
        for name in (*weights_of_bert, *of_heads)
        if name not in weights and (names is None or pattern_of(name)[0] in names)
    }
    if cfg.use_position_embedding and cfg.position_embedding_type == "fixed":
        positions = sinusoids(cfg.max_position_embeddings, cfg.hidden_size)
        added["embeddings/position_embeddings"] = positions
    return added | weights
