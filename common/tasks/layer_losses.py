# SPDX-License-Identifier: Apache-2.0
"""Losses of a network's layers from a teacher's: hidden states, attention, relations, direction.

Shapes: R rows, T tokens (query tokens) and S (key tokens), D and D' hidden size of network and
teacher, H heads, d = D / H. Every loss is a mean over real tokens, so that padding counts nothing.
"""

from keras import ops

from common.layers.dot_product_attention import MASKED_SCORE


def hidden_loss(hidden, teacher, padding_mask):
    """The mean square of hidden - teacher over real tokens and their numbers.

    Jiao et al. 2020 (arXiv:1909.10351, equations 8 and 9); `hidden` is already multiplied by their
    matrix W. hidden, teacher: <float>[R, T, D']; padding_mask: <int32>[R, T]. Returns <float32>[].
    """
    squares = ops.mean(ops.square(_wide(hidden) - _wide(teacher)), axis=-1)  # [R, T]
    return _mean_of_tokens(squares, padding_mask)


def attention_loss(heads, teacher, attention_mask, padding_mask):
    """The mean square of the difference of the attention scores before the softmax, over heads and
    pairs of real tokens.

    Jiao et al. 2020, equation 7. heads, teacher: (query, scaled; key; value), <float>[R, H, T, d];
    attention_mask: <int32>[R, S] or [R, T, S]. Returns <float32>[].
    """
    ours, theirs = (_products(query, key) for query, key, _ in (heads, teacher))  # [R, H, T, S]
    is_pair = _pairs(attention_mask) * ops.cast(padding_mask, "float32")[:, :, None]  # [R, T, S]
    squares = ops.mean(ops.square(ours - theirs), axis=1)
    return ops.sum(is_pair * squares) / ops.maximum(ops.sum(is_pair), 1.0)


def relation_loss(heads, teacher, attention_mask, padding_mask):
    """The divergence of the attention, and of the relations between values, from a teacher's.

    Wang et al. 2020 (MiniLM, arXiv:2002.10957, equations 6 to 9): KL(teacher || network) of each
    token's distribution over the others, softmax of scores and of value valueT / sqrt(d), as a mean
    over heads and real tokens. Both may have any width. Arguments: as of `attention_loss`.
    """
    masked = MASKED_SCORE * (1.0 - _pairs(attention_mask))[:, None]  # [R, 1, T or 1, S]
    total = 0.0
    for relation in (_attention, _values):
        ours, theirs = (ops.log_softmax(relation(*each) + masked) for each in (heads, teacher))
        divergence = ops.sum(ops.exp(theirs) * (theirs - ours), axis=-1)  # [R, H, T]
        total = total + _mean_of_tokens(ops.mean(divergence, axis=1), padding_mask)
    return total


def cosine_loss(hidden, teacher, padding_mask):
    """The mean over real tokens of 1 - cos(hidden, teacher).

    Sanh et al. 2019 (arXiv:1910.01108, section 3), of the last layer. hidden, teacher: <float>[R,
    T, D]. Returns <float32>[].
    """
    ours, theirs = (
        ops.normalize(_wide(each), axis=-1, order=2, epsilon=1e-12) for each in (hidden, teacher)
    )
    return _mean_of_tokens(1.0 - ops.sum(ours * theirs, axis=-1), padding_mask)


def _attention(query, key, value):
    del value
    return _products(query, key)


def _values(query, key, value):
    del query, key
    return _products(value, value) * value.shape[-1] ** -0.5


def _products(one, other):
    """<float>[R, H, T, d], <float>[R, H, S, d] -> <float32>[R, H, T, S]."""
    return ops.matmul(_wide(one), ops.swapaxes(_wide(other), -1, -2))


def _pairs(attention_mask):
    """<int32>[R, S] or [R, T, S] -> <float32>[R, 1 or T, S], 1 on what is attended to."""
    mask = ops.cast(attention_mask, "float32")
    return ops.expand_dims(mask, 1) if len(mask.shape) == 2 else mask


def _mean_of_tokens(values, padding_mask):
    """<float32>[R, T] -> <float32>[], the mean over real tokens."""
    is_real = ops.cast(padding_mask, "float32")
    return ops.sum(is_real * values) / ops.maximum(ops.sum(is_real), 1.0)


def _wide(x):
    return ops.cast(x, "float32")
