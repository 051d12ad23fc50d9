# SPDX-License-Identifier: Apache-2.0
"""The first dense layer of a head, which families have in different forms."""

import keras

from common.backbones.initializers import POOLER, FreshWeights
from common.layers.activations import ACTIVATIONS
from common.layers.prediction_head import PredictionHead

# Keras' own tanh is one operation; the others are of `layers/activations.py`.
HEAD_ACTIVATIONS = {name: each.function for name, each in ACTIVATIONS.items()} | {"tanh": "tanh"}


def make_pooler(cfg):
    """Returns the layer `pooler` of complete ModelParams: <float>[..., D] -> <float>[..., D]."""
    activation = HEAD_ACTIVATIONS[cfg.family.head_activation]
    fresh = FreshWeights(cfg.keras_initializer, cfg.weight_initialization_seed, POOLER)
    settings = {"kernel_initializer": fresh, "dtype": cfg.dtype_policy, "name": "pooler"}
    if cfg.family.has_normalized_head:
        return PredictionHead(cfg.hidden_size, activation, cfg.layer_norm_epsilon, **settings)
    return keras.layers.Dense(cfg.hidden_size, activation, **settings)


def make_word_pooler(cfg):
    """Returns the same layer for a head that answers for words; None where its family has none."""
    return make_pooler(cfg) if cfg.family.has_normalized_head else None
