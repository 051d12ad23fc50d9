# SPDX-License-Identifier: Apache-2.0
"""Multi-head attention."""

from functools import partial

import keras
from keras import ops

from common.kernels.attention import split_heads
from common.layers.dense import Dense
from common.layers.dot_product_attention import dot_product_attention
from common.layers.dropout import Dropout
from common.layers.local_attention import block_attention, within
from common.layers.rotary import RotaryPositions


class MultiHeadAttention(keras.layers.Layer):
    """Dot-product attention in H heads, then a dense layer, dropout and the residual.

    Vaswani et al. 2017, section 3.2. Shapes: B batch, T query tokens, S key tokens, D hidden size,
    H heads, d = D / H.

    Args:
        hidden_size, num_heads: int. D and H; H divides D.
        dropout_rate, attention_dropout_rate: float in [0, 1), of the output and of the attention
            probabilities, in training.
        initializer: Keras initializer of the kernels.
        clock: DropoutClock.
        attention_type: "scaled_dot_product", scores divided by sqrt(d) as in the paper, or
            "dot_product", undivided (section 3.2.1 says why they should be divided).
        use_projection_bias_in_attention: bool, of query, key and value.
        use_ffn_bias_in_attention: bool, of the dense layer after the heads.
        rotary_theta: float, base of `RotaryPositions` of query and key; None: no such positions.
        reach: int, how many places away a token may attend, on each side; None: any number.
    Call:
        x: <float>[B, T, D], the tokens that attend.
        memory: <float>[B, S, D], the tokens that they attend to.
        attention_mask: <int32>[B, S], 1 on real tokens, 0 on padding; or <int32>[B, T, S], 1 where
            a token attends to another.
        residual: <float>[B, T, D].
        select: <float>[B, S, ...] -> [B, T, ...], which tokens of memory attend; None: all.
    Returns:
        <float>[B, T, D] in the compute dtype: residual + dropout(block(x)).
    """

    def __init__(
        self,
        hidden_size,
        num_heads,
        dropout_rate,
        attention_dropout_rate,
        initializer,
        clock,
        attention_type="scaled_dot_product",
        use_projection_bias_in_attention=True,
        use_ffn_bias_in_attention=True,
        rotary_theta=None,
        reach=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.record = None  # the Record, inside `recorded` of `kernels/record.py`
        self.num_heads = num_heads
        self.head_size = hidden_size // num_heads
        self.scale = self.head_size**-0.5 if attention_type == "scaled_dot_product" else 1.0

        def dense(name, use_bias):
            return Dense(hidden_size, use_bias, initializer, dtype=self.dtype_policy, name=name)

        self.query, self.key, self.value = (
            dense(name, use_projection_bias_in_attention) for name in ("query", "key", "value")
        )
        self.output_projection = dense("output", use_ffn_bias_in_attention)
        self.rotary, self.reach = None, reach
        if rotary_theta is not None:
            self.rotary = RotaryPositions(self.head_size, rotary_theta)
        self.probability_dropout, self.dropout = (
            Dropout(rate, clock, dtype=self.dtype_policy)
            for rate in (attention_dropout_rate, dropout_rate)
        )

    def all_dense(self):  # not a property: Keras would save its layers under that name
        return [self.query, self.key, self.value, self.output_projection]

    def build(self, x_shape):
        for dense in self.all_dense():
            dense.build(x_shape)

    def _heads(self, dense, x, scale=1.0):
        """scale * dense(x), split into heads: <float>[B, T, D] -> <float>[B, H, T, d]."""
        rows = ops.reshape(dense.product(ops.reshape(x, (-1, x.shape[-1]))), ops.shape(x))
        return split_heads(rows, dense.bias_tensor, self.num_heads, scale)

    def call(self, x, memory, attention_mask, residual, select=None, training=False):
        # Scaling the query, not the scores, touches d numbers a token instead of S.
        query = self._heads(self.query, x, self.scale)  # [B, H, T, d]
        key = self._heads(self.key, memory)  # [B, H, S, d]
        value = self._heads(self.value, memory)  # [B, H, S, d]
        attend = dot_product_attention
        if self.rotary is not None or self.reach is not None:
            places, key_places = _places(memory, select)
            if self.rotary is not None:
                query, key = self.rotary(query, places), self.rotary(key, key_places)
            if self.reach is not None and _is_worth_blocks(x, self.reach, select):
                attend = partial(block_attention, reach=self.reach)
            elif self.reach is not None:
                attention_mask = within(attention_mask, places, key_places, self.reach)
        if self.record is not None:
            self.record.heads.append((query, key, value))
        context = attend(
            query, key, value, attention_mask, dropout=self.probability_dropout, training=training
        )  # [B, H, T, d]
        context = ops.reshape(ops.transpose(context, (0, 2, 1, 3)), (-1, x.shape[-1]))  # [B * T, D]
        output = self.output_projection
        return self.dropout.add(residual, output.product(context), output.bias_tensor, training)


def _places(memory, select):
    """Where the tokens that attend, and those of memory, stand in their rows of the network:
    <int32>[1 or B, T], <int32>[1, S]."""
    places = ops.expand_dims(ops.arange(ops.shape(memory)[1], dtype="int32"), 0)  # [1, S]
    if select is None:
        return places, places
    of_rows = ops.broadcast_to(ops.expand_dims(places, -1), (*ops.shape(memory)[:2], 1))
    return select(of_rows)[:, :, 0], places


def _is_worth_blocks(x, reach, select):
    """Whether blocks compute fewer scores than T * T, and T is known when the graph is built."""
    length = x.shape[1]
    return select is None and isinstance(length, int) and length > 3 * reach
