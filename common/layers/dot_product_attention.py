# SPDX-License-Identifier: Apache-2.0
"""Attention between the heads' queries, keys and values: what it computes over [T, S] numbers.

With short rows these passes over memory take as long as the products beside them. So in training
their gradient is written out: one loop, in which the sum over S that a softmax's gradient has is
replaced by one over d, as in FlashAttention (Dao et al. 2022, arXiv:2205.14135, appendix B.2).
"""

import functools

import keras
from keras import ops

from common.kernels.dropout_bits import drop
from common.kernels.fusion import compiled, fuse, in_float32, is_compiled

# Added to the scores of padding before the softmax: its exponential is zero in every dtype that the
# softmax runs in, and it is finite, so a row of nothing but padding gives no NaN.
MASKED_SCORE = -1e9


def dot_product_attention(query, key, value, attention_mask, dropout, training=False):
    """dropout(softmax(query keyᵀ + mask)) value, of every head by itself.

    Vaswani et al. 2017, section 3.2.1, the scale in `query` already. Shapes: B batch, H heads,
    T tokens asking, S tokens answering, d = D / H.

    Args:
        query: <float>[B, H, T, d].
        key, value: <float>[B, H, S, d].
        attention_mask: <int32>[B, S], 1 on real tokens; or [B, T, S].
        dropout: Dropout, of the probabilities.
    Returns:
        <float>[B, H, T, d].
    """
    masked = MASKED_SCORE * (1.0 - ops.cast(attention_mask, "float32"))
    if len(masked.shape) == 2:
        masked = masked[:, None, :]  # the same for every token that asks
    masked = masked[:, None]  # and for every head: [B, 1, T or 1, S]
    if not training or keras.backend.backend() != "tensorflow":
        scores = ops.matmul(query, ops.swapaxes(key, -1, -2))  # [B, H, T, S]
        probabilities = _softmax(scores, masked, is_compiled(query))
        return ops.matmul(dropout(probabilities, training=training), value)
    place = dropout.place_of((*query.shape[:-1], key.shape[2]))
    return _make_attention(dropout.rate)(query, key, value, masked, *place)


def _softmax(scores, masked, may_compile):
    """<float>[B, H, T, S] -> probabilities in the same dtype."""
    dtype = keras.backend.standardize_dtype(scores.dtype)
    if may_compile and dtype == "bfloat16" and _rounds_once():
        # Nothing is lost: a score stays as it is, or becomes the mask's number.
        return ops.softmax(_add(scores, masked), axis=-1)
    wide = ops.cast(scores, "float32") + masked
    return ops.cast(ops.softmax(wide, axis=-1), dtype)


_add = fuse(lambda scores, masked: scores + masked)


@functools.cache
def _rounds_once():
    """Whether TensorFlow computes a softmax of bfloat16 in float32 and rounds its result alone.

    oneDNN does so. Where a processor has no kernel of it, what is added up is rounded each time.
    """
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf
    from tensorflow.python.eager import context

    with context.eager_mode(), tf.device("/cpu:0"):
        scores = tf.cast(tf.linspace(-4.0, 4.0, 1000), "bfloat16")
        exact = tf.nn.softmax(tf.cast(scores, "float32"))
        error = tf.abs(tf.cast(tf.nn.softmax(scores), "float32") / exact - 1.0)
        return bool(tf.reduce_max(error) < 2.0**-8)


@functools.cache  # the layers of a network share the compiled loops
def _make_attention(rate):
    import tensorflow as tf

    def dropped(x, *place):
        return drop(x, *place, rate) if place else x

    @compiled
    @in_float32
    def gradient_of_scores(of_dropped, probabilities, upstream, context, *place):
        """<float>[B * H * T, S], as the first two; the others are [B * H * T, d].

        With P the probabilities, each is P * (its gradient - the sum over S of P * gradients), and
        the sum is that over d of upstream * context.
        """
        ones = ops.ones((context.shape[-1], 1), "float32")  # XLA sums a row one by one otherwise
        return probabilities * (dropped(of_dropped, *place) - ops.matmul(upstream * context, ones))

    dropped_in_one_loop = compiled(in_float32(dropped))

    @tf.custom_gradient
    def attend(query, key, value, masked, *place):
        scores = tf.matmul(query, key, transpose_b=True)
        probabilities = _softmax(scores, masked, may_compile=True)
        kept = probabilities
        if place:
            kept = tf.reshape(dropped_in_one_loop(tf.reshape(kept, [-1]), *place), kept.shape)
        context = tf.matmul(kept, value)

        def gradient(upstream):
            of_kept = tf.matmul(upstream, value, transpose_b=True)
            rows = [
                tf.reshape(each, [-1, each.shape[-1]])
                for each in (of_kept, probabilities, upstream, context)
            ]
            of_scores = tf.reshape(gradient_of_scores(*rows, *place), scores.shape)
            return (
                tf.matmul(of_scores, key),
                tf.matmul(of_scores, query, transpose_a=True),
                tf.matmul(kept, upstream, transpose_a=True),
                *[None] * (1 + len(place)),
            )

        return context, gradient

    return attend
