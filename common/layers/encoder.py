# SPDX-License-Identifier: Apache-2.0
"""The stack of Transformer layers between the embeddings and the classifier."""

import contextlib
import dataclasses
from functools import partial
from typing import Any

import keras
from keras import ops

from common.layers.attention import MultiHeadAttention
from common.layers.dense import share_kernels
from common.layers.feed_forward import FeedForward
from common.layers.layer_norm import LayerNorm


class EncoderLayer(keras.layers.Layer):
    """Self-attention and feed-forward, each with dropout, residual and layer norm.

    Post-norm (BERT: Devlin et al. 2019, after Vaswani et al. 2017, section 3.1):
    `x = norm(x + dropout(block(x)))`. Pre-norm (Xiong et al. 2020, arXiv:2002.04745):
    `x = x + dropout(block(norm(x)))`. Shapes: B batch, T tokens, D hidden size.

    Args:
        hidden_size, num_heads, filter_size: int.
        activation: Activation, of the feed-forward block.
        dropout_rate, attention_dropout_rate: float in [0, 1), of block outputs and of attention
            probabilities.
        layer_norm_epsilon: float > 0.
        use_pre_normalization: bool.
        initializer: Keras initializer of the kernels.
        clock: DropoutClock.
        use_ffn_bias: bool, of the two feed-forward layers.
        **attention_arguments: attention_type, use_projection_bias_in_attention and
            use_ffn_bias_in_attention of MultiHeadAttention.
    Call:
        x: <float>[B, T, D].
        attention_mask: <int32>[B, T], 1 on real tokens; or [B, K, T], 1 where a token attends to
            another.
        select: <float>[B, T, D] -> <float>[B, K, D], the tokens whose output is wanted, computed
            from all of them: a classifier needs one token of the last layer. None: all.
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
            dtype=self.dtype_policy,
            name="feed_forward",
        )
        self.attention_layer_norm, self.feed_forward_layer_norm = (
            LayerNorm(layer_norm_epsilon, dtype=self.dtype_policy, name=name)
            for name in ("attention_layer_norm", "feed_forward_layer_norm")
        )

    def all_dense(self):  # no property: Keras would save what it holds under its name
        return [*self.attention.all_dense(), self.feed_forward.expand, self.feed_forward.project]

    def build(self, x_shape):
        for part in (
            self.attention,
            self.attention_layer_norm,
            self.feed_forward,
            self.feed_forward_layer_norm,
        ):
            part.build(x_shape)

    def call(self, x, attention_mask, select=None, training=False):
        memory = self.attention_layer_norm(x) if self.use_pre_normalization else x  # [B, T, D]
        asking = memory if select is None else select(memory)  # [B, K, D]
        residual = x if select is None else select(x)
        x = self.attention(asking, memory, attention_mask, residual, training=training)
        if self.use_pre_normalization:
            return self.feed_forward(self.feed_forward_layer_norm(x), x, training=training)
        x = self.attention_layer_norm(x)
        return self.feed_forward_layer_norm(self.feed_forward(x, x, training=training))


class Encoder(keras.layers.Layer):
    """`num_hidden_layers` encoder layers in a row; pre-norm ends with one more layer norm.

    Args:
        num_hidden_layers: int.
        layer_norm_epsilon, use_pre_normalization, clock, **layer_arguments: as of EncoderLayer.
        recompute: bool. Keep of each layer its input alone for the backward pass, which then
            computes the layer once more (Chen et al. 2016, arXiv:1604.06174): memory for time.
            Dropout draws the same masks again, as they depend on (seed, layer, step) alone.
        num_streams: int. In training rows are dealt to so many parts that need nothing of each
            other but for the weights, so that TensorFlow computes them side by side, each on a core
            of its own. Two cores on one product after another wait for each other at every one.
    Call:
        x: <float>[B, T, D]; padding_mask: <int32>[B, T], 1 on real tokens.
        needs_gradient: bool. Something that x comes from is trained. Where it is not, nothing is
            computed backwards below the first layer that is trained.
        first_token_only: bool, of the last layer. The other tokens of its output are not
            computed, a seventh of all products with 6 layers.
        packed: PackedRows, where x and padding_mask are of rows that share longer ones, or None.
    Returns:
        <float>[B, T, D] in the compute dtype; with first_token_only [B, 1, D], also of B packed
        rows.
    """

    def __init__(
        self,
        num_hidden_layers,
        layer_norm_epsilon,
        use_pre_normalization,
        clock,
        recompute=False,
        num_streams=1,
        name="encoder",
        dtype=None,
        **layer_arguments,
    ):
        super().__init__(name=name, dtype=dtype)
        self.recompute = recompute
        self.num_streams = num_streams
        self.clock = clock
        self.layers = [
            EncoderLayer(
                layer_norm_epsilon=layer_norm_epsilon,
                use_pre_normalization=use_pre_normalization,
                clock=clock,
                dtype=self.dtype_policy,
                name=f"layer_{i}",
                **layer_arguments,
            )
            for i in range(num_hidden_layers)
        ]
        self.final_layer_norm = None
        if use_pre_normalization:
            self.final_layer_norm = LayerNorm(
                layer_norm_epsilon, dtype=self.dtype_policy, name="final_layer_norm"
            )

    def all_dense(self):
        return [dense for layer in self.layers for dense in layer.all_dense()]

    def build(self, x_shape):
        for layer in self.layers:
            layer.build(x_shape)
        if self.final_layer_norm is not None:
            self.final_layer_norm.build(x_shape)

    def call(
        self,
        x,
        padding_mask,
        first_token_only=False,
        packed=None,
        needs_gradient=True,
        training=False,
    ):
        mask = padding_mask if packed is None else packed.attention_mask
        parts = self._parts(x, mask) if training else [Part(x, mask, rows=None)]
        select = None
        one_before = x  # what goes into the layer before
        for layer in self.layers:
            here = parts[0].x
            if first_token_only and layer is self.layers[-1]:
                select = first_token
                if packed is not None:
                    # Of all rows together: so few tokens ask that attending to other rows' tokens
                    # in vain costs less than making rows of their own of the keys and values.
                    x = packed.as_one_row(join(parts))
                    parts = [Part(x, packed.first_tokens_mask(), rows=None)]
                    select = packed.first_tokens
            is_recomputed = self.recompute and training and (needs_gradient or layer.trainable)
            is_shared = training and not is_recomputed
            with (
                share_kernels(layer.all_dense(), len(parts), after=one_before)
                if is_shared
                else contextlib.nullcontext()
            ):
                for part in parts:
                    run = partial(self._apply, layer, part.rows, part.mask, select, training)
                    x = part.x if needs_gradient else ops.stop_gradient(part.x)
                    part.x = (keras.remat(run) if is_recomputed else run)(x)
            one_before = here
            needs_gradient = needs_gradient or layer.trainable
        x = join(parts)
        if not needs_gradient:
            x = ops.stop_gradient(x)
        if packed is not None and first_token_only:
            x = ops.swapaxes(x, 0, 1)  # [B, 1, D]
        return x if self.final_layer_norm is None else self.final_layer_norm(x)

    def _apply(self, layer, rows, mask, select, training, x):
        self.clock.rows = rows
        try:
            return layer(x, attention_mask=mask, select=select, training=training)
        finally:
            self.clock.rows = None

    def _parts(self, x, mask):
        """Returns a list of Part, of rows that differ in number by one at most."""
        total = x.shape[0]
        firsts = sorted({total * i // self.num_streams for i in range(self.num_streams)})
        if len(firsts) == 1:
            return [Part(x, mask, rows=None)]
        pieces = [ops.split(tensor, firsts[1:], axis=0) for tensor in (x, mask)]
        return [
            Part(*pair, rows=(first, total)) for *pair, first in zip(*pieces, firsts, strict=True)
        ]


@dataclasses.dataclass
class Part:
    """Rows of a batch on their way through the layers.

    Attributes:
        x: <float>[B', T, D].
        mask: <int32>, what their tokens attend to, as of EncoderLayer.
        rows: of DropoutClock.
    """

    x: Any
    mask: Any
    rows: tuple[int, int] | None


def join(parts):
    """[Part of <float>[B', K, D]] -> <float>[B, K, D]."""
    return parts[0].x if len(parts) == 1 else ops.concatenate([part.x for part in parts])


def first_token(x):
    """<float>[B, T, D] -> <float>[B, 1, D]."""
    return x[:, :1]
