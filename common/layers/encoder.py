# SPDX-License-Identifier: Apache-2.0
"""The stack of Transformer layers above the embeddings."""

import keras

from common.layers.attention import MultiHeadAttention
from common.layers.feed_forward import FeedForward
from common.layers.layer_norm import LayerNorm


class EncoderLayer(keras.layers.Layer):
    """Self-attention and feed-forward, each with dropout, residual and layer norm.

    Post-norm (BERT: Devlin et al. 2019, after Vaswani et al. 2017, section 3.1):
    `x = norm(x + dropout(block(x)))`. Pre-norm (Xiong et al. 2020, arXiv:2002.04745):
    `x = x + dropout(block(norm(x)))`. Shapes: B batch, T tokens, D hidden size.

    Args:
        filter_size, activation, use_ffn_bias: as of FeedForward.
        layer_norm_epsilon: float > 0.
        use_pre_normalization: bool.
        has_attention_norm: bool. False leaves out the layer norm of the attention, which the
            embeddings' norm stands in for in the first layer of ModernBERT.
        use_norm_bias, is_gated: bool, as `use_beta` of LayerNorm and of FeedForward.
        others: as of MultiHeadAttention.
    Call:
        x: <float>[B, T, D].
        attention_mask: <int32>[B, T], 1 on real tokens; or [B, K, T], 1 where a token attends to
            another.
        select: <float>[B, T, D] -> <float>[B, K, D], the tokens whose output is needed; they attend
            to all T. A classifier needs one token of the last layer. None: all tokens.
    Returns:
        <float>[B, K, D] in the compute dtype, K = T without `select`.
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
        use_ffn_bias=True,
        has_attention_norm=True,
        use_norm_bias=True,
        is_gated=False,
        name=None,
        dtype=None,
        **attention_arguments,
    ):
        super().__init__(name=name, dtype=dtype)
        self.use_pre_normalization = use_pre_normalization
        self.attention = MultiHeadAttention(
            hidden_size,
            num_heads,
            dropout_rate,
            attention_dropout_rate,
            initializer,
            clock,
            dtype=self.dtype_policy,
            name="attention",
            **attention_arguments,
        )
        self.feed_forward = FeedForward(
            hidden_size,
            filter_size,
            activation,
            dropout_rate,
            initializer,
            clock,
            use_ffn_bias,
            is_gated,
            dtype=self.dtype_policy,
            name="feed_forward",
        )
        self.attention_layer_norm, self.feed_forward_layer_norm = (
            LayerNorm(layer_norm_epsilon, use_norm_bias, dtype=self.dtype_policy, name=name)
            for name in ("attention_layer_norm", "feed_forward_layer_norm")
        )
        if not has_attention_norm:
            self.attention_layer_norm = None

    def all_dense(self):  # not a property: Keras would save its layers under that name
        return [*self.attention.all_dense(), *self.feed_forward.all_dense()]

    def build(self, x_shape):
        for part in (
            self.attention,
            self.attention_layer_norm,
            self.feed_forward,
            self.feed_forward_layer_norm,
        ):
            if part is not None:
                part.build(x_shape)

    def call(self, x, attention_mask, select=None, training=False):
        is_normalized = self.use_pre_normalization and self.attention_layer_norm is not None
        memory = self.attention_layer_norm(x) if is_normalized else x  # [B, T, D]
        queries = memory if select is None else select(memory)  # [B, K, D]
        residual = x if select is None else select(x)
        x = self.attention(
            queries, memory, attention_mask, residual, select=select, training=training
        )
        if self.use_pre_normalization:
            return self.feed_forward(self.feed_forward_layer_norm(x), x, training=training)
        x = self.attention_layer_norm(x)
        return self.feed_forward_layer_norm(self.feed_forward(x, x, training=training))


class Encoder(keras.layers.Layer):
    """`num_hidden_layers` encoder layers in a row; pre-norm ends with one more layer norm.

    Args:
        num_hidden_layers: int.
        of_layer: int -> dict, arguments of that layer beside the others; None: there are none.
        shares_layers: bool. All layers are the same one, `layer_0` (Lan et al. 2020, section 3.1).
        layer_norm_epsilon, use_pre_normalization, **layer_arguments: as of EncoderLayer.
    Call:
        x: <float>[B, T, D].
        attention_mask: as of EncoderLayer.
        around: (layers, x, attention_mask) -> the same three, to compute the layers faster; see
            `kernels/layer_stack.py`. None: call one layer after the other.
    Returns:
        <float>[B, T, D] in the compute dtype; or [B, 1, D], if `around` computes first tokens only.
    """

    def __init__(
        self,
        num_hidden_layers,
        layer_norm_epsilon,
        use_pre_normalization,
        shares_layers=False,
        of_layer=None,
        use_norm_bias=True,
        name="encoder",
        dtype=None,
        **layer_arguments,
    ):
        super().__init__(name=name, dtype=dtype)
        layers = [
            EncoderLayer(
                layer_norm_epsilon=layer_norm_epsilon,
                use_pre_normalization=use_pre_normalization,
                use_norm_bias=use_norm_bias,
                dtype=self.dtype_policy,
                name=f"layer_{i}",
                **layer_arguments,
                **({} if of_layer is None else of_layer(i)),
            )
            for i in range(1 if shares_layers else num_hidden_layers)
        ]
        self.layers = layers * (num_hidden_layers if shares_layers else 1)
        self.final_layer_norm = None
        if use_pre_normalization:
            self.final_layer_norm = LayerNorm(
                layer_norm_epsilon,
                use_norm_bias,
                dtype=self.dtype_policy,
                name="final_layer_norm",
            )

    def all_dense(self):
        return [dense for layer in dict.fromkeys(self.layers) for dense in layer.all_dense()]

    def build(self, x_shape):
        for layer in dict.fromkeys(self.layers):
            layer.build(x_shape)
        if self.final_layer_norm is not None:
            self.final_layer_norm.build(x_shape)

    def call(self, x, attention_mask, around=None, training=False):
        layers = self.layers
        if around is not None:
            layers, x, attention_mask = around(layers, x, attention_mask)
        for layer in layers:
            x = layer(x, attention_mask, training=training)  # [B, T, D]
        return x if self.final_layer_norm is None else self.final_layer_norm(x)
