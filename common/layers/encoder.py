# SPDX-License-Identifier: Apache-2.0
"""The stack of Transformer layers between the embeddings and the classifier."""

import keras

from common.layers.attention import MultiHeadAttention
from common.layers.dropout import Dropout
from common.layers.feed_forward import FeedForward


class EncoderLayer(keras.layers.Layer):
    """Self-attention and feed-forward, each with dropout, residual and layer norm.

    Post-norm (BERT: Devlin et al. 2019, after Vaswani et al. 2017, section 3.1):
    `x = norm(x + dropout(block(x)))`. Pre-norm (Xiong et al. 2020, arXiv:2002.04745):
    `x = x + dropout(block(norm(x)))`. Shapes: B batch, T tokens, D hidden size.

    Args:
        hidden_size, num_heads, filter_size: int.
        activation: callable, of the feed-forward block.
        dropout_rate, attention_dropout_rate: float in [0, 1), of block outputs and of attention
            probabilities.
        layer_norm_epsilon: float > 0.
        use_pre_normalization: bool.
        initializer: Keras initializer of the kernels.
        clock: DropoutClock.
    Call:
        x: <float>[B, T, D].
        padding_mask: <int32>[B, T], 1 on real tokens.
        first_token_only: bool. Compute the layer's output for the first token alone, from all
            tokens: what a classifier needs of the last layer.
    Returns:
        <float>[B, T, D] in the compute dtype; [B, 1, D] with first_token_only.
    """

    def __init__(
        self,
        hidden_size,
        num_heads,
        filter_size,
        activation,
        dropout_rate,
        attention_dropout_rate,
        layer_norm_epsilon,
        use_pre_normalization,
        initializer,
        clock,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.use_pre_normalization = use_pre_normalization
        self.attention = MultiHeadAttention(
            hidden_size,
            num_heads,
            attention_dropout_rate,
            initializer,
            clock,
            dtype=self.dtype_policy,
            name="attention",
        )
        self.feed_forward = FeedForward(
            hidden_size,
            filter_size,
            activation,
            initializer,
            dtype=self.dtype_policy,
            name="feed_forward",
        )
        self.attention_layer_norm, self.feed_forward_layer_norm = (
            keras.layers.LayerNormalization(
                epsilon=layer_norm_epsilon, dtype=self.dtype_policy, name=name
            )
            for name in ("attention_layer_norm", "feed_forward_layer_norm")
        )
        self.attention_dropout = Dropout(dropout_rate, clock, dtype=self.dtype_policy)
        self.feed_forward_dropout = Dropout(dropout_rate, clock, dtype=self.dtype_policy)

    def build(self, x_shape):
        for part in (
            self.attention,
            self.attention_layer_norm,
            self.feed_forward,
            self.feed_forward_layer_norm,
        ):
            part.build(x_shape)

    def call(self, x, padding_mask, first_token_only=False, training=False):
        memory = self.attention_layer_norm(x) if self.use_pre_normalization else x  # [B, T, D]
        asking = memory[:, :1] if first_token_only else memory
        residual = x[:, :1] if first_token_only else x
        attended = self.attention(asking, memory, padding_mask, training=training)
        x = residual + self.attention_dropout(attended, training=training)
        if self.use_pre_normalization:
            expanded = self.feed_forward(self.feed_forward_layer_norm(x))
            return x + self.feed_forward_dropout(expanded, training=training)
        x = self.attention_layer_norm(x)
        expanded = self.feed_forward(x)
        return self.feed_forward_layer_norm(
            x + self.feed_forward_dropout(expanded, training=training)
        )


class Encoder(keras.layers.Layer):
    """`num_hidden_layers` encoder layers in a row; pre-norm ends with one more layer norm.

    Args:
        num_hidden_layers: int.
        layer_norm_epsilon, use_pre_normalization, **layer_arguments: as of EncoderLayer.
    Call:
        x: <float>[B, T, D]; padding_mask: <int32>[B, T], 1 on real tokens.
        first_token_only: bool, of the last layer. The other tokens of its output are not
            computed, a seventh of all products with 6 layers.
    Returns:
        <float>[B, T, D] in the compute dtype; [B, 1, D] with first_token_only.
    """

    def __init__(
        self,
        num_hidden_layers,
        layer_norm_epsilon,
        use_pre_normalization,
        name="encoder",
        dtype=None,
        **layer_arguments,
    ):
        super().__init__(name=name, dtype=dtype)
        self.layers = [
            EncoderLayer(
                layer_norm_epsilon=layer_norm_epsilon,
                use_pre_normalization=use_pre_normalization,
                dtype=self.dtype_policy,
                name=f"layer_{i}",
                **layer_arguments,
            )
            for i in range(num_hidden_layers)
        ]
        self.final_layer_norm = None
        if use_pre_normalization:
            self.final_layer_norm = keras.layers.LayerNormalization(
                epsilon=layer_norm_epsilon, dtype=self.dtype_policy, name="final_layer_norm"
            )

    def build(self, x_shape):
        for layer in self.layers:
            layer.build(x_shape)
        if self.final_layer_norm is not None:
            self.final_layer_norm.build(x_shape)

    def call(self, x, padding_mask, first_token_only=False, training=False):
        for layer in self.layers:
            is_last = layer is self.layers[-1]
            x = layer(
                x,
                padding_mask,
                first_token_only=first_token_only and is_last,
                training=training,
            )
        return x if self.final_layer_norm is None else self.final_layer_norm(x)
