# SPDX-License-Identifier: Apache-2.0
"""Attention and its gradients against NumPy in float64, with dropout of the probabilities."""

import contextlib
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from common.kernels import attention
from common.kernels.dropout_bits import keep
from common.layers.dot_product_attention import dot_product_attention
from common.layers.dropout import Dropout, DropoutClock


def reference(query, key, value, mask, kept, upstream):
    """(output, gradients of query, key and value); `kept` multiplies the probabilities.

    Vaswani et al. 2017, section 3.2.1; the derivative of a softmax by the chain rule.
    """
    scores = query @ key.swapaxes(-1, -2)
    scores = np.where(np.broadcast_to(mask[:, None], scores.shape) == 1, scores, -np.inf)
    scores -= scores.max(axis=-1, keepdims=True)
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    of_probabilities = (upstream @ value.swapaxes(-1, -2)) * kept
    mean = (probabilities * of_probabilities).sum(axis=-1, keepdims=True)
    of_scores = probabilities * (of_probabilities - mean)
    dropped = probabilities * kept
    return (
        dropped @ value,
        of_scores @ key,
        of_scores.swapaxes(-1, -2) @ query,
        dropped.swapaxes(-1, -2) @ upstream,
    )


def random_inputs(batch, heads, queries, keys, size, seed, dtype="float32", mask_rank=3):
    """Query, key, value and upstream gradient as tensors, and a mask with at least one 1 a row."""
    generator = np.random.default_rng(seed)
    query, key, value, upstream = (
        tf.cast(generator.normal(size=(batch, heads, tokens, size)) * scale, dtype)
        for tokens, scale in ((queries, 2), (keys, 1), (keys, 1), (queries, 1))
    )
    rows = (batch, queries) if mask_rank == 3 else (batch,)
    mask = generator.integers(0, 2, (*rows, keys))
    mask[..., 0] = 1
    return query, key, value, upstream, mask.astype(np.int32)


def computed(query, key, value, upstream, mask, dropout, training):
    with tf.GradientTape() as tape:
        tape.watch([query, key, value])
        output = dot_product_attention(query, key, value, mask, dropout, training)
    gradients = tape.gradient(output, [query, key, value], output_gradients=upstream)
    assert all(each.dtype == query.dtype for each in (output, *gradients))
    return [as_float64(each) for each in (output, *gradients)]


def as_float64(tensor):
    return np.asarray(tf.cast(tensor, "float64"))


def dropout_of(rate, step=3, dtype="float32"):
    dropout = Dropout(rate, DropoutClock(seed=7), dtype=dtype)
    dropout.clock.step.assign(step)
    return dropout


def kept_of(dropout, shape, training):
    if not training or not dropout.rate:
        return np.ones(shape)
    (place,) = dropout.place_of(shape)
    kept = np.asarray(keep(int(np.prod(shape)), place, dropout.rate)).reshape(shape)
    return kept / (1 - dropout.rate)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mask_rank", [2, 3])
def test_output_and_gradients_match_numpy_in_float64(dtype, tolerance, rate, training, mask_rank):
    *tensors, mask = random_inputs(2, 3, 5, 7, 4, 0, dtype, mask_rank)
    dropout = dropout_of(rate, dtype=dtype)
    query, key, value, upstream = map(as_float64, tensors)
    kept = kept_of(dropout, (2, 3, 5, 7), training)
    full_mask = mask if mask_rank == 3 else np.repeat(mask[:, None], 5, axis=1)
    expected = reference(query, key, value, full_mask, kept, upstream)
    for actual, wanted in zip(computed(*tensors, mask, dropout, training), expected, strict=True):
        # Relative to the largest number: one near zero is the difference of large ones.
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=tolerance * abs(wanted).max())


@settings(max_examples=40, deadline=None)
@given(
    # Batch, heads, query tokens, key tokens, size of a head.
    sizes=st.tuples(*[st.integers(1, 4)] * 2, *map(st.integers, (1, 2, 1), (9, 9, 9))),
    rate=st.sampled_from([0.0, 0.1, 0.5]),
    training=st.booleans(),
    seed=st.integers(0, 99),
    piece=st.sampled_from([None, 1, 40, 200]),
)
def test_any_shape(sizes, rate, training, seed, piece):
    """Kept whole, and as long rows are computed: `piece` scores at a time."""
    *tensors, mask = random_inputs(*sizes, seed)
    dropout = dropout_of(rate, step=seed)
    query, key, value, upstream = map(as_float64, tensors)
    expected = reference(query, key, value, mask, kept_of(dropout, sizes[:4], training), upstream)
    scale = max(1.0, *(abs(each).max() for each in expected))
    with contextlib.ExitStack() as stack:
        if piece is not None:
            stack.enter_context(mock.patch.object(attention, "LONG_ROW", 0))
            stack.enter_context(mock.patch.object(attention, "SCORES_OF_PIECE", piece))
        found = computed(*tensors, mask, dropout, training)
    for actual, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=5e-6 * scale)


@pytest.mark.parametrize("training", [True, False])
def test_a_fully_masked_query_has_a_finite_output(training):
    query, key, value, upstream, mask = random_inputs(2, 3, 5, 7, 4, 1)
    mask[1] = 0
    for each in computed(query, key, value, upstream, mask, dropout_of(0.1), training):
        assert np.isfinite(each).all()
