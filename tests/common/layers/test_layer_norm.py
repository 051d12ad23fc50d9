# SPDX-License-Identifier: Apache-2.0
"""Layer normalisation and its written-out gradient, against NumPy in float64."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from common.layers.layer_norm import LayerNorm


def normalize(x, gamma, beta, epsilon):
    mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    return gamma * (x - mean) / np.sqrt(variance + epsilon) + beta


def layer_of(size, generator, epsilon, dtype="float32"):
    """A layer with random weights, and these in float64."""
    layer = LayerNorm(epsilon, dtype=dtype)
    layer.build((None, size))
    weights = generator.normal(1, 0.5, size), generator.normal(0, 0.5, size)
    layer.set_weights(weights)
    return layer, *(np.asarray(weight, np.float64) for weight in layer.get_weights())


@settings(max_examples=20, deadline=None)
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    size=st.integers(2, 9),
    shift=st.sampled_from([0.0, 30.0]),
    epsilon=st.sampled_from([1e-12, 1e-5]),
    seed=st.integers(0, 2**32 - 1),
    training=st.booleans(),
)
def test_values_and_gradients_match_numpy_in_float64(shape, size, shift, epsilon, seed, training):
    generator = np.random.default_rng(seed)
    layer, gamma, beta = layer_of(size, generator, epsilon)
    x = generator.normal(shift, 1.0, (*shape, size)).astype(np.float32)
    upstream = generator.normal(size=x.shape).astype(np.float32)
    given_ = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(given_)
        y = layer(given_, training=training)
    sources = [given_, layer.gamma.value, layer.beta.value]
    gradients = tape.gradient(y, sources, output_gradients=tf.constant(upstream))

    exact = x.astype(np.float64)
    # float32 rounds x by 2^-24 of itself; dividing by the deviation of a token magnifies that.
    tolerance = 1e-5 * (1 + np.abs(exact).max() / exact.std(axis=-1).min()) ** 2
    expected = normalize(exact, gamma, beta, epsilon)
    np.testing.assert_allclose(y, expected, rtol=0, atol=tolerance)
    step = 1e-6
    slopes = np.empty_like(exact)
    for i in range(size):  # tokens do not depend on each other: one element of each at a time
        moved = np.zeros(size)
        moved[i] = step
        up, down = (normalize(exact + sign * moved, gamma, beta, epsilon) for sign in (1, -1))
        slopes[..., i] = ((up - down) / (2 * step) * upstream).sum(axis=-1)
    z = normalize(exact, 1.0, 0.0, epsilon)
    token_axes = tuple(range(len(shape)))
    scale = np.abs(slopes).max() + 1
    np.testing.assert_allclose(gradients[0], slopes, rtol=0, atol=tolerance * scale + 1e-4 * scale)
    np.testing.assert_allclose(
        gradients[1], (upstream * z).sum(token_axes), rtol=0, atol=tolerance * upstream.size
    )
    np.testing.assert_allclose(gradients[2], upstream.sum(token_axes), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_is_rounded_once_at_the_end(policy, training):
    generator = np.random.default_rng(1)
    layer, gamma, beta = layer_of(64, generator, 1e-12, policy)
    x = tf.constant(generator.normal(size=(5, 64)), layer.compute_dtype)
    expected = normalize(np.asarray(tf.cast(x, tf.float64)), gamma, beta, 1e-12)
    y = layer(x, training=training)
    assert y.dtype == x.dtype
    digit = {"mixed_bfloat16": 2**-8, "mixed_float16": 2**-11}[policy]
    np.testing.assert_allclose(tf.cast(y, tf.float64), expected, rtol=digit, atol=1e-6)


def test_the_weights_have_keras_names():
    layer = LayerNorm(1e-12, name="layer_norm")
    layer.build((None, 3))
    assert [weight.path for weight in layer.weights] == ["layer_norm/gamma", "layer_norm/beta"]
