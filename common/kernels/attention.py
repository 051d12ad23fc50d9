# SPDX-License-Identifier: Apache-2.0
"""What `layers/attention.py` and `layers/dot_product_attention.py` compute, in fewer passes.

With short rows these passes over memory take as long as the products beside them. So in training
the gradient of attention is written out: one loop, in which the sum over S that a softmax's
gradient has is replaced by one over d, as in FlashAttention (Dao et al. 2022, arXiv:2205.14135,
appendix B.2).
"""

import functools
from concurrent.futures import ThreadPoolExecutor

import keras
from keras import ops

from common.kernels.dropout_bits import drop
from common.kernels.fusion import compiled, custom_gradient, fuse, in_float32, is_compiled


def split_heads(rows, bias, num_heads, scale=1.0):
    """scale * (rows + bias) in H heads: <float>[B, T, D] -> <float>[B, H, T, d], d = D / H.

    bias: <float32>[D], or None.
    """
    bias = () if bias is None else (bias,)
    if is_compiled(rows):
        return _make_split(num_heads, scale)(rows, *bias)
    return _split(rows, *bias, num_heads=num_heads, scale=scale)


def _split(rows, *bias, num_heads, scale):
    batch, tokens, size = ops.shape(rows)
    rows = sum((ops.cast(each, rows.dtype) for each in bias), start=rows)
    rows = rows if scale == 1.0 else rows * scale
    heads = ops.reshape(rows, (batch, tokens, num_heads, size // num_heads))
    return ops.transpose(heads, (0, 2, 1, 3))


@functools.cache  # the layers of a network share the compiled loop
def _make_split(num_heads, scale):
    """`_split` as one loop. Its gradient is not compiled: XLA takes three times as long as
    TensorFlow to transpose it."""
    forward = compiled(in_float32(functools.partial(_split, num_heads=num_heads, scale=scale)))

    @custom_gradient
    def split(rows, *bias):
        def gradient(upstream):
            of_rows = ops.reshape(ops.transpose(upstream, (0, 2, 1, 3)), rows.shape)
            of_rows = of_rows if scale == 1.0 else of_rows * scale
            of_bias = (ops.cast(ops.sum(of_rows, axis=(0, 1)), each.dtype) for each in bias)
            return of_rows, *of_bias

        return forward(rows, *bias), gradient

    return split


def softmax(scores, masked, may_compile):
    """Probabilities over the last axis of scores + masked, in the dtype of the scores.

    scores: <float>[B, H, T, S]; masked: <float32>[B, 1, T or 1, S], a large negative number where a
    token is masked.
    """
    dtype = keras.backend.standardize_dtype(scores.dtype)
    if may_compile and dtype == "bfloat16" and rounds_once():
        # Exact: a score stays as it is, or becomes the mask's number.
        return ops.softmax(_add(scores, masked), axis=-1)
    wide = ops.cast(scores, "float32") + masked
    return ops.cast(ops.softmax(wide, axis=-1), dtype)


_add = fuse(lambda scores, masked: scores + masked)


@functools.cache
def rounds_once():
    """Whether TensorFlow computes a softmax of bfloat16 in float32 and rounds only the result.

    oneDNN does. On a processor for which oneDNN has no kernel, every partial sum is rounded.
    """
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    def has_small_error():
        with tf.device("/cpu:0"):
            scores = tf.cast(tf.linspace(-4.0, 4.0, 1000), "bfloat16")
            exact = tf.nn.softmax(tf.cast(scores, "float32"))
            error = tf.abs(tf.cast(tf.nn.softmax(scores), "float32") / exact - 1.0)
            return bool(tf.reduce_max(error) < 2.0**-8)

    with ThreadPoolExecutor(1) as thread:  # a new thread computes, where this one may be tracing
        return thread.submit(has_small_error).result()


@functools.cache  # the layers of a network share the compiled loops
def make_attention(rate):
    """Returns attend(query, key, value, masked, *place), with its gradient; TensorFlow only.

    It computes what `dot_product_attention` does in training, with the arguments of `softmax` and
    `drop`; `rate` is that of the probabilities' dropout, `place` empty where it is 0.
    """
    import tensorflow as tf

    def dropped(x, *place):
        return drop(x, *place, rate) if place else x

    @compiled
    @in_float32
    def gradient_of_scores(of_weights, probabilities, upstream, context, *place):
        """<float>[B * H * T, S], as the first two; the others are [B * H * T, d].

        With P the probabilities, each is P * (its gradient - the sum over S of P * gradients), and
        that sum equals the one over d of upstream * context.
        """
        ones = ops.ones((context.shape[-1], 1), "float32")  # XLA would sum a row one by one
        return probabilities * (dropped(of_weights, *place) - ops.matmul(upstream * context, ones))

    dropped_in_one_loop = compiled(in_float32(dropped))

    @tf.custom_gradient
    def attend(query, key, value, masked, *place):
        scores = tf.matmul(query, key, transpose_b=True)
        probabilities = softmax(scores, masked, may_compile=True)
        weights = probabilities
        if place:
            weights = tf.reshape(
                dropped_in_one_loop(tf.reshape(weights, [-1]), *place), scores.shape
            )
        context = tf.matmul(weights, value)

        def gradient(upstream):
            of_weights = tf.matmul(upstream, value, transpose_b=True)
            rows = [
                tf.reshape(each, [-1, each.shape[-1]])
                for each in (of_weights, probabilities, upstream, context)
            ]
            of_scores = tf.reshape(gradient_of_scores(*rows, *place), scores.shape)
            return (
                tf.matmul(of_scores, key),
                tf.matmul(of_scores, query, transpose_a=True),
                tf.matmul(weights, upstream, transpose_a=True),
                *[None] * (1 + len(place)),
            )

        return context, gradient

    return attend
