# SPDX-License-Identifier: Apache-2.0
"""The position-wise feed-forward block."""

import keras
from keras import ops


class FeedForward(keras.layers.Layer):
    """Dense, activation, dense: the same weights at every token.

    Vaswani et al. 2017, section 3.3. Shapes: B batch, T tokens, D hidden size, F filter size.

    Args:
        hidden_size: int. D, the width of the input and of the output.
        filter_size: int. F, the width in between; BERT takes F = 4 * D.
        activation: Activation.
        initializer: Keras initializer of the kernels.
        use_ffn_bias: bool. Both dense layers have one, or neither.
    Call:
        x: <float>[B, T, D].
    Returns:
        <float>[B, T, D] in the compute dtype. Dropout and residual are the caller's.
    """

    def __init__(
        self, hidden_size, filter_size, activation, initializer, use_ffn_bias=True, **kwargs
    ):
        super().__init__(**kwargs)
        self.filter_size = filter_size
        self.activation = activation
        self.expand = keras.layers.Dense(
            filter_size,
            use_bias=use_ffn_bias,
            kernel_initializer=initializer,
            dtype=self.dtype_policy,
            name="expand",
        )
        self.project = keras.layers.Dense(
            hidden_size,
            use_bias=use_ffn_bias,
            kernel_initializer=initializer,
            dtype=self.dtype_policy,
            name="project",
        )

    def build(self, x_shape):
        self.expand.build(x_shape)
        self.project.build((*x_shape[:-1], self.filter_size))

    def call(self, x, training=False):
        # In two dimensions product and bias, and the activation of an evaluation, are one kernel.
        rows = ops.reshape(x, (-1, x.shape[-1]))  # [B * T, D]
        rows = self.activation(self.expand(rows), training)  # [B * T, F]
        return ops.reshape(self.project(rows), ops.shape(x))
