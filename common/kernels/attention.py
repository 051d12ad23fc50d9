# SPDX-License-Identifier: Apache-2.0
"""What `layers/attention.py` and `layers/dot_product_attention.py` compute, in fewer passes.

With short rows these passes over memory take as long as the products beside them. So in training
the gradient of attention is written out: one loop, in which the sum over S that a softmax's
gradient has is replaced by one over d, as in FlashAttention (Dao et al. 2022, arXiv:2205.14135,
appendix B.2). Of long rows not the time but the scores are too much: they are computed in pieces,
and again in the backward pass (section 3.1 there).
"""

import functools
from concurrent.futures import ThreadPoolExecutor

import keras
from keras import ops

from common.kernels.dropout_bits import drop
from common.kernels.fusion import compiled, custom_gradient, fuse, in_float32, is_compiled

# The scores of longer rows are computed in pieces, and not kept for the backward pass: of 6 heads
# and 4,096 tokens they are 400 MB a layer. To keep those of BERT's longest rows saves a product.
LONG_ROW = 512
SCORES_OF_PIECE = 2**23  # 32 MiB in float32


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

    It computes what `dot_product_attention` does in training, and of long rows in inference, with
    the arguments of `softmax` and `drop`; `rate` is that of the probabilities' dropout, `place`
    empty where nothing is dropped.
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

    def weigh(query, key, masked, *place):
        """The probabilities, and what is left of them: <float>[B, H, T, S] each."""
        scores = tf.matmul(query, key, transpose_b=True)
        probabilities = softmax(scores, masked, may_compile=True)
        if not place:
            return probabilities, probabilities
        weights = dropped_in_one_loop(tf.reshape(probabilities, [-1]), *place)
        return probabilities, tf.reshape(weights, scores.shape)

    def gradients(query, key, value, probabilities, weights, context, upstream, *place):
        """Those of query, key and value."""
        of_weights = tf.matmul(upstream, value, transpose_b=True)
        rows = [
            tf.reshape(each, [-1, each.shape[-1]])
            for each in (of_weights, probabilities, upstream, context)
        ]
        of_scores = tf.reshape(gradient_of_scores(*rows, *place), probabilities.shape)
        return (
            tf.matmul(of_scores, key),
            tf.matmul(of_scores, query, transpose_a=True),
            tf.matmul(weights, upstream, transpose_a=True),
        )

    @tf.custom_gradient
    def attend(query, key, value, masked, *place):
        probabilities, weights = weigh(query, key, masked, *place)
        context = tf.matmul(weights, value)

        def gradient(upstream):
            kept = probabilities, weights, context
            of_inputs = gradients(query, key, value, *kept, upstream, *place)
            return *of_inputs, *[None] * (1 + len(place))

        return context, gradient

    @tf.custom_gradient
    def attend_in_pieces(query, key, value, masked, *place):
        """As `attend`, a piece after the other; probabilities are computed again, not kept."""
        pieces = _pieces_of(*query.shape[:3], key.shape[2])

        def in_turns(compute, *tensors):
            """compute(*tensors of a piece, masked, *place) of each; its results in one again."""
            results = []
            for rows, heads, first in pieces:
                with tf.control_dependencies(results[-1] if results else ()):
                    each = [x[rows, heads] for x in tensors]
                    there = [x + tf.constant([0, 0, 0, first % 2**32], x.dtype) for x in place]
                    results.append(compute(*each, masked[rows], *there))
            whole = zip(*results, strict=True)
            return [
                tf.reshape(tf.concat([tf.reshape(x, [-1, *x.shape[2:]]) for x in parts], 0), shape)
                for parts, shape in zip(whole, (query.shape, key.shape, value.shape), strict=False)
            ]

        def forward(query, key, value, masked, *place):
            return (tf.matmul(weigh(query, key, masked, *place)[1], value),)

        def backward(query, key, value, context, upstream, masked, *place):
            kept = weigh(query, key, masked, *place)
            return gradients(query, key, value, *kept, context, upstream, *place)

        (context,) = in_turns(forward, query, key, value)

        def gradient(upstream):
            of_inputs = in_turns(backward, query, key, value, context, upstream)
            return *of_inputs, *[None] * (1 + len(place))

        return context, gradient

    return lambda query, key, *others: (
        attend_in_pieces(query, key, *others)
        if is_long(query, key)
        else attend(query, key, *others)
    )


def is_long(query, key):
    """Whether all scores of a head are too many to have them at once, as far as is known."""
    shape = *query.shape[:3], key.shape[2]
    return None not in shape and shape[2] * shape[3] > LONG_ROW**2


def _pieces_of(batch, heads, queries, keys):
    """[(rows, heads, number of its first score)] of pieces that follow each other: two slices.

    A piece has whole rows, or heads of one row, of at most SCORES_OF_PIECE scores, but at least one
    head.
    """
    of_head = queries * keys
    count = min(heads, max(1, SCORES_OF_PIECE // of_head))
    if count < heads:
        return [
            (slice(row, row + 1), slice(first, first + count), (row * heads + first) * of_head)
            for row in range(batch)
            for first in range(0, heads, count)
        ]
    count = max(1, SCORES_OF_PIECE // (heads * of_head))
    return [
        (slice(row, row + count), slice(None), row * heads * of_head)
        for row in range(0, batch, count)
    ]
