# SPDX-License-Identifier: Apache-2.0
"""Statistics of gradients and weights for TensorBoard, with the original's names (Trainer.py).

The gradients are those of the backward pass, times the loss scale: the values in the compute dtype.
"""

import numpy as np
import tensorflow as tf

NUM_BUCKETS = 30  # of a histogram, as in tf.summary.histogram


def gradient_summaries(gradients, weights, cfg, dtype_policy):
    """Returns scalars {name: <float32>[]} and histograms {name: <float64>[K, 3]}.

    gradients, weights: {neutral name: <float32>[...]}, times the loss scale, and before the update.
    cfg: OptimizerParams: log_grads, log_hists, ws_summary. dtype_policy: str, which decides which
    numbers are denormal.
    """
    scalars, histograms = {}, {}
    if cfg.ws_summary:
        zeros = [tf.size(g) - tf.math.count_nonzero(g, dtype=tf.int32) for g in gradients.values()]
        squares = [2.0 * tf.nn.l2_loss(weight) for weight in weights.values()]
        scalars["train/grad_num_zeros"] = tf.cast(tf.add_n(zeros), tf.float32)
        scalars["train/params_norm"] = tf.sqrt(tf.add_n(squares))
    is_float16 = dtype_policy == "mixed_float16"
    smallest = np.finfo(np.float16 if is_float16 else np.float32).smallest_normal
    for name, gradient in gradients.items():
        kind = name.rpartition("/")[2]
        if kind not in ("kernel", "bias"):
            continue
        if cfg.log_grads:
            is_zero, is_denormal = _zero_and_denormal(gradient, smallest)
            scalars[f"sparsity_{kind}_grads/{name}"] = is_zero
            scalars[f"denormal_{kind}_grads/{name}"] = is_denormal
            scalars[f"norm_{kind}_grads/{name}"] = tf.norm(gradient)
        if cfg.log_hists:
            histograms[f"{kind}_grads/{name}"] = histogram(gradient)
    return scalars, histograms


def _zero_and_denormal(x, smallest):
    """Returns the shares of zeros and of other numbers below `smallest`, <float32>[] each.

    Compares bits, which have the order of the magnitudes: arithmetic flushes denormal numbers to 0.
    """
    limit = np.float32(smallest).view(np.int32)
    magnitude = tf.bitwise.bitwise_and(tf.bitcast(x, tf.int32), 0x7FFFFFFF)
    is_zero = magnitude == 0
    is_denormal = (magnitude < limit) & ~is_zero
    return tuple(tf.reduce_mean(tf.cast(share, tf.float32)) for share in (is_zero, is_denormal))


def histogram(x):
    """Returns buckets of log2(|x| + 2^-50): <float64>[K, 3] of left edge, right edge, count."""
    values = tf.math.log(tf.abs(tf.reshape(x, [-1])) + 2.0**-50) / tf.math.log(2.0)
    low = tf.reduce_min(values)
    high = tf.maximum(tf.reduce_max(values), low + 1.0)
    counts = tf.histogram_fixed_width(values, tf.stack([low, high]), NUM_BUCKETS)
    edges = tf.linspace(low, high, NUM_BUCKETS + 1)
    columns = [tf.cast(column, tf.float64) for column in (edges[:-1], edges[1:], counts)]
    return tf.stack(columns, axis=1)
