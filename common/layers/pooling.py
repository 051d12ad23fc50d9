# SPDX-License-Identifier: Apache-2.0
"""Poolers (`model.pooler_type`): one vector a row from the vectors of its tokens.

Shapes: B batch, T tokens, D hidden size. No pooler reads padding. The first token, [CLS], counts as
real in every row, so that a row of padding alone gives finite numbers. LiteRT lacks the operation
that `x[:, None]` is, which is why axes are added by `expand_dims`.
"""

from keras import ops


def _is_real(padding_mask):
    """<int32>[B, T] -> <float32>[B, T, 1], 1 on real tokens."""
    is_first = ops.cast(ops.arange(ops.shape(padding_mask)[1]) == 0, "float32")  # [T]
    return ops.expand_dims(ops.maximum(ops.cast(padding_mask, "float32"), is_first), -1)


def first(x, padding_mask):
    """The vector of [CLS], as in BERT (Devlin et al. 2019, section 3)."""
    del padding_mask
    return x[:, 0]


def last(x, padding_mask):
    """The vector of the last real token, which is [SEP]."""
    positions = ops.arange(ops.shape(x)[1])  # [T]
    index = ops.max(positions * ops.cast(padding_mask, positions.dtype), axis=1)  # [B]
    is_last = ops.cast(ops.equal(positions, ops.expand_dims(index, 1)), x.dtype)  # [B, T]
    return ops.sum(x * ops.expand_dims(is_last, -1), axis=1)


def sum_(x, padding_mask):
    """The sum over real tokens, added in float32."""
    total = ops.sum(ops.cast(x, "float32") * _is_real(padding_mask), axis=1)  # [B, D]
    return ops.cast(total, x.dtype)


def mean(x, padding_mask):
    """The mean over real tokens, added in float32."""
    is_real = _is_real(padding_mask)
    total = ops.sum(ops.cast(x, "float32") * is_real, axis=1)  # [B, D]
    return ops.cast(total / ops.sum(is_real, axis=1), x.dtype)


def max_(x, padding_mask):
    """The maximum over real tokens, in each of the D columns."""
    return ops.max(ops.where(_is_real(padding_mask) > 0, x, -float("inf")), axis=1)


# Each takes x <float>[B, T, D] and padding_mask <int32>[B, T], 1 on real tokens, and returns
# <float>[B, D] in the dtype of x.
POOLERS = {"first": first, "last": last, "mean": mean, "max": max_, "sum": sum_}
