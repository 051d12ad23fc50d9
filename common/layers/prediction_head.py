# SPDX-License-Identifier: Apache-2.0
"""The layer before the last of a head, where a family normalises what it computes."""

import keras

from common.layers.layer_norm import LayerNorm


class PredictionHead(keras.layers.Dense):
    """Dense without a bias, activation, layer norm without an offset: ModernBERT's, of every head.

    `ModernBertPredictionHead` of transformers. Shapes: D hidden size.

    Args:
        hidden_size: int, D. activation: callable on <float>[..., D]. layer_norm_epsilon: float > 0.
        others: as of keras.layers.Dense.
    Call:
        x: <float>[..., D]. Returns <float>[..., D] in the compute dtype.
    """

    def __init__(self, hidden_size, activation, layer_norm_epsilon, **kwargs):
        super().__init__(hidden_size, activation, use_bias=False, **kwargs)
        self.layer_norm = LayerNorm(
            layer_norm_epsilon, use_beta=False, dtype=self.dtype_policy, name="layer_norm"
        )

    def build(self, x_shape):
        super().build(x_shape)
        self.layer_norm.build((*x_shape[:-1], self.units))

    def call(self, x, training=None):
        return self.layer_norm(super().call(x))
