# SPDX-License-Identifier: Apache-2.0
"""The loss of masked words over a vocabulary of V, with its gradient written out; TensorFlow only.

V numbers a word are many. Automatic differentiation would widen them to float32, whose softmax
takes as long as their product, compute all of it on the one core that a stream has, and make a
second gradient of the table's size for the rows that the embeddings look up. Here they stay in 16
bits and are divided among the streams, and the looked-up rows are added to the first gradient: with
640 words, V 30,522 and E 384, 285 ms of a processor in place of 378, of which products are 245.
"""

import contextlib

import tensorflow as tf
from keras import ops

from common.kernels.attention import rounds_once
from common.kernels.fusion import compiled, narrow, widen
from common.kernels.shared_kernels import make_rounding

SMALLEST = 2.0**-126  # of float32; a smaller probability has a loss of 87


class SharedTable:
    """The table of the word embeddings <float32>[V, E] in its two uses: look-up and prediction.

    Each use gets a copy, which costs nothing. `look_up` returns the gradients of the rows that it
    looked up as the gradient of its copy; the gradient of the table is that of the other copy, to
    which these rows are added.
    """

    def __init__(self, table):
        @tf.custom_gradient
        def copies_of(table):
            def gradient(of_rows, of_table):
                ids, which = tf.unique(self.ids)
                # In float32, since frequent words add up hundreds of rows.
                rows = tf.math.unsorted_segment_sum(of_rows, which, tf.size(ids))
                return tf.tensor_scatter_nd_add(
                    of_table, ids[:, None], tf.cast(rows, of_table.dtype)
                )

            return [tf.identity(table), tf.identity(table)], gradient

        self.looked_up, self.predicting = copies_of(tf.convert_to_tensor(table))

    def look_up(self, input_ids):
        """<int32>[B, T] -> <float32>[B, T, E]. Called once."""
        self.ids = tf.reshape(input_ids, [-1])

        @tf.custom_gradient
        def gather(table):
            def gradient(upstream):
                return tf.reshape(upstream, [-1, table.shape[-1]])

            return tf.gather(table, input_ids), gradient

        return gather(self.looked_up)


@contextlib.contextmanager
def share_table(embeddings):
    """A context manager in which BertEmbeddings look up words in a SharedTable, which it yields."""
    embeddings.shared = SharedTable(embeddings.word_embeddings)
    try:
        yield embeddings.shared
    finally:
        embeddings.shared = None


def word_losses(x, table, bias, ids, num_parts=1):
    """The cross entropy of each of N words: <float32>[N].

    In bfloat16 a loss has the rounding of a probability, 0.002, which is below that of a logit.

    Args:
        x: <float>[N, E], N static. table: <float32>[V, E]. The logits are x tableᵀ + bias.
        bias: <float32>[V], or None.
        ids: <int32>[N].
        num_parts: int. The words are divided into so many parts, computed side by side.
    """
    sizes = [
        x.shape[0] * (i + 1) // num_parts - x.shape[0] * i // num_parts for i in range(num_parts)
    ]
    is_narrow = x.dtype == tf.bfloat16 and rounds_once()
    # Tensors: custom gradients take no variables.
    inputs = [tf.convert_to_tensor(each) for each in (x, table, bias) if each is not None]

    @tf.custom_gradient
    def losses_of(x, table, *bias):
        rounded = table if table.dtype == x.dtype else make_rounding(x.dtype.name)(table)
        losses, errors = [], []  # errors: the gradient of each loss, or the probabilities
        for words, wanted in zip(tf.split(x, sizes), tf.split(ids, sizes), strict=True):
            logits = tf.matmul(words, rounded, transpose_b=True)
            if is_narrow:
                logits = _add(logits, *bias) if bias else logits
                probabilities = tf.nn.softmax(logits)
                right = tf.cast(tf.gather(probabilities, wanted, batch_dims=1), tf.float32)
                losses.append(-tf.math.log(tf.maximum(right, SMALLEST)))
                errors.append(probabilities)
                continue
            logits = tf.cast(logits, tf.float32)
            loss, error = tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(
                features=logits + bias[0] if bias else logits, labels=wanted
            )
            losses.append(loss)
            errors.append(error)

        def gradient(upstream):
            of_logits = [
                _narrow_error(*each) if is_narrow else _error(x.dtype.name)(each[0], each[2])
                for each in zip(
                    errors, tf.split(ids, sizes), tf.split(upstream, sizes), strict=True
                )
            ]
            of_words = tf.concat([tf.matmul(each, rounded) for each in of_logits], axis=0)
            of_logits = tf.concat(of_logits, axis=0)
            of_table = tf.matmul(of_logits, x, transpose_a=True)
            of_bias = [tf.cast(_sum_of_words(of_logits), each.dtype) for each in bias]
            return of_words, of_table, *of_bias

        return tf.concat(losses, axis=0), gradient

    return losses_of(*inputs)


def _sum_of_words(x):
    """<float>[N, V] -> <float>[V], as a product, which adds in float32."""
    return tf.matmul(tf.ones((1, x.shape[0]), x.dtype), x)[0]


@compiled
def _add(logits, bias):
    return narrow(widen(logits) + bias, logits.dtype)


@compiled
def _narrow_error(probabilities, ids, upstream):
    """<bfloat16>[N, V], <int32>[N], <float32>[N] -> <bfloat16>[N, V]: the gradient of the logits,
    upstream times (probability - 1 at the word's id)."""
    words = ops.arange(probabilities.shape[-1], dtype="int32")[None, :]
    is_right = ops.cast(words == ids[:, None], "float32")
    return narrow((widen(probabilities) - is_right) * upstream[:, None], probabilities.dtype)


def _error(dtype):
    return lambda error, upstream: tf.cast(error * upstream[:, None], dtype)
