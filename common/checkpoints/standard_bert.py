# SPDX-License-Identifier: Apache-2.0
"""BERT as its other programs compute it: the networks they refuse, the weights they ask for."""

import numpy as np

from common.checkpoints.names import axes_of, embedding_names, encoder_names
from common.errors import UserError
from common.layers.positions import sinusoids

# Keys of ModelParams -> the value that BERT's other programs compute with, and know no other.
OF_EVERY_BERT = {
    "use_pre_normalization": False,
    "attention_type": "scaled_dot_product",
    "pooler_type": "first",
}


def refuse_other_networks(cfg, format):
    """Raises UserError for a network that the programs of a format would compute otherwise.

    cfg: ModelParams; format: what the reader calls it.
    """
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
    """The weights, with those that every BERT has and this network does without.

    Tables and biases of zeros, which change nothing, and sines and cosines as a position table.

    Args:
        weights: {neutral name: <float32> array}.
        cfg: ModelParams.
    Returns:
        dict as `weights`.
    """
    sizes = {
        **{"V": cfg.vocab_size, "P": cfg.max_position_embeddings, "S": 2},
        **{"D": cfg.hidden_size, "F": cfg.filter_size},
    }
    names = embedding_names() + encoder_names(cfg.num_hidden_layers)
    added = {
        name: np.zeros([sizes[axis] for axis in axes_of(name)], np.float32)
        for name in names
        if name not in weights
    }
    if cfg.use_position_embedding and cfg.position_embedding_type == "fixed":
        positions = sinusoids(cfg.max_position_embeddings, cfg.hidden_size)
        added["embeddings/position_embeddings"] = positions
    return added | weights
