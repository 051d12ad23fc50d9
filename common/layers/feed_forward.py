# SPDX-License-Identifier: Apache-2.0
"""The position-wise feed-forward block."""

import keras
from keras import ops

from common.layers.dense import Dense
from common.layers.dropout import Dropout


class FeedForward(keras.layers.Layer):
    """Dense, activation, dense, dropout, residual: the same weights at every token.

    Vaswani et al. 2017, section 3.3. Shapes: B batch, T tokens, D hidden size, F filter size.

    Args:
        hidden_size: int. D, the width of the input and of the output.
        filter_size: int. F, the width in between; BERT takes F = 4 * D.
        activation: Activation.
        dropout_rate: float in [0, 1).
        initializer: Keras initializer of the kernels.
        clock: DropoutClock.
        use_ffn_bias: bool. Whether the two dense layers have biases.
        is_gated: bool. What is expanded is multiplied by another dense layer of x, without an
            activation (Shazeer 2020, arXiv:2002.05202).
    Call:
        x: <float>[B, T, D].
        residual: <float>[B, T, D].
    Returns:
        <float>[B, T, D] in the compute dtype: residual + dropout(block(x)).
    """

    def __init__(
        self,
        hidden_size,
        filter_size,
        activation,
        dropout_rate,
        initializer,
        clock,
        use_ffn_bias=True,
        is_gated=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filter_size = filter_size
        self.activation = activation
        self.expand, self.project = (
            Dense(units, use_ffn_bias, initializer, dtype=self.dtype_policy, name=name)
            for units, name in ((filter_size, "expand"), (hidden_size, "project"))
        )
        self.gate = None
        if is_gated:
            self.gate = Dense(
                filter_size, use_ffn_bias, initializer, dtype=self.dtype_policy, name="gate"
            )
        self.dropout = Dropout(dropout_rate, clock, dtype=self.dtype_policy)

    def all_dense(self):  # not a property: Keras would save its layers under that name
        gate = [] if self.gate is None else [self.gate]
        return [self.expand, *gate, self.project]

    def build(self, x_shape):
        self.expand.build(x_shape)
        if self.gate is not None:
            self.gate.build(x_shape)
        self.project.build((*x_shape[:-1], self.filter_size))

    def call(self, x, residual, training=False):
        x = ops.reshape(x, (-1, x.shape[-1]))  # [B * T, D]
        rows = self.activation(self.expand.product(x), self.expand.bias_tensor)  # [B * T, F]
        if self.gate is not None:
            gate, bias = self.gate.product(x), self.gate.bias_tensor
            rows = rows * (gate if bias is None else gate + ops.cast(bias, gate.dtype))
        project = self.project
        return self.dropout.add(residual, project.product(rows), project.bias_tensor, training)
