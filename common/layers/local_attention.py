# SPDX-License-Identifier: Apache-2.0
"""Attention within a window: a token attends to those at most `reach` places away, on both sides.

Beltagy et al. 2020 (arXiv:2004.05150, section 3.1), with the window of ModernBERT (Warner et al.
2024, arXiv:2412.13663, section 2.1.2). Shapes: B batch, H heads, T tokens, d head size.
"""

from keras import ops

from common.layers.dot_product_attention import dot_product_attention


def window_mask(places, key_places, reach):
    """<int32>[B, T, S], 1 where two tokens are at most `reach` places apart.

    places: <int32>[B, T]; key_places: <int32>[B, S].
    """
    distance = ops.expand_dims(places, -1) - ops.expand_dims(key_places, -2)
    return ops.cast(ops.abs(distance) <= reach, "int32")


def within(attention_mask, places, key_places, reach):
    """The mask of full attention within the window: <int32>[B, T, S].

    attention_mask: <int32>[B, S] or [B, T, S].
    """
    if len(attention_mask.shape) == 2:
        attention_mask = ops.expand_dims(attention_mask, 1)  # the same for every query token
    return attention_mask * window_mask(places, key_places, reach)


def block_attention(query, key, value, attention_mask, reach, dropout, training=False):
    """As `dot_product_attention` with `within`, in time and memory that grow with T, not with T².

    Queries are cut into blocks of `reach` tokens, each of which attends to its own block and the
    two beside it.

    query, key, value: <float>[B, H, T, d], T static. attention_mask: <int32>[B, T] or [B, T, T].
    """
    batch, heads, length, size = ops.shape(query)
    count = -(-length // reach)
    missing = count * reach - length

    def blocks(x):
        """<float>[B, H, T, d] -> [B, n, H, reach, d]."""
        x = ops.pad(x, [[0, 0], [0, 0], [0, missing], [0, 0]])
        return ops.transpose(ops.reshape(x, (batch, heads, count, reach, size)), (0, 2, 1, 3, 4))

    def with_neighbours(x):
        """[B, n, H, reach, d] -> [B * n, H, 3 * reach, d]."""
        padded = ops.pad(x, [[0, 0], [1, 1], [0, 0], [0, 0], [0, 0]])
        x = ops.concatenate([padded[:, i : i + count] for i in range(3)], axis=3)
        return ops.reshape(x, (-1, heads, 3 * reach, size))

    mask = _block_mask(attention_mask, count, reach, missing)
    context = dot_product_attention(
        ops.reshape(blocks(query), (-1, heads, reach, size)),
        with_neighbours(blocks(key)),
        with_neighbours(blocks(value)),
        mask,
        dropout,
        training,
    )  # [B * n, H, reach, d]
    context = ops.reshape(context, (batch, count, heads, reach, size))
    context = ops.reshape(ops.transpose(context, (0, 2, 1, 3, 4)), (batch, heads, -1, size))
    return context[:, :, :length]


def _block_mask(attention_mask, count, reach, missing):
    """<int32>[B * n, reach, 3 * reach]."""
    ends = [reach, reach + missing]  # before the first block and behind the last
    if len(attention_mask.shape) == 2:
        padded = ops.pad(attention_mask, [[0, 0], ends])
        blocks = [padded[:, None, i * reach : (i + 3) * reach] for i in range(count)]
    else:
        padded = ops.pad(attention_mask, [[0, 0], [0, missing], ends])
        blocks = [
            padded[:, i * reach : (i + 1) * reach, i * reach : (i + 3) * reach]
            for i in range(count)
        ]
    mask = ops.stack(blocks, axis=1)  # [B, n, 1 or reach, 3 * reach]
    places = ops.arange(reach, dtype="int32")[None] + reach
    near = window_mask(places, ops.arange(3 * reach, dtype="int32")[None], reach)  # [1, ...]
    return ops.reshape(mask * near, (-1, reach, 3 * reach))
