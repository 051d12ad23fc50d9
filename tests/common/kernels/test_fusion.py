# SPDX-License-Identifier: Apache-2.0
"""Fused functions compute what their parts compute: both forms of GELU against NumPy in float64."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from common.kernels.fusion import fuse, narrow
from common.layers.activations import ACTIVATIONS

# The tails, where both forms approach 0 and x, and the middle, where they differ.
X = np.concatenate([np.linspace(-6, 6, 121), [-1e-3, 1e-3, -40, 40, 0]])
erf = np.vectorize(math.erf)


def gelu_erf(x):
    """x Phi(x), and its derivative Phi(x) + x phi(x). Hendrycks & Gimpel 2016, section 2."""
    cdf = 0.5 * (1 + erf(x / math.sqrt(2)))
    return x * cdf, cdf + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def gelu_tanh(x):
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), and its derivative. The same page."""
    c = math.sqrt(2 / math.pi)
    t = np.tanh(c * (x + 0.044715 * x**3))
    derivative = 0.5 * (1 + t) + 0.5 * x * (1 - t**2) * c * (1 + 3 * 0.044715 * x**2)
    return 0.5 * x * (1 + t), derivative


REFERENCES = {"gelu_erf": gelu_erf, "gelu_tanh": gelu_tanh}


def value_and_gradient(function, x, upstream, shape):
    @tf.function(input_signature=[tf.TensorSpec(shape, x.dtype)] * 2, autograph=False)
    def compute(x, upstream):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return y, tape.gradient(y, x, output_gradients=upstream)

    y, gradient = compute(x, upstream)
    assert y.dtype == gradient.dtype == x.dtype
    return (np.asarray(tf.cast(tensor, tf.float64)) for tensor in (y, gradient))


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [X.shape, (None,)], ids=["compiled", "of any size"])
def test_gelu_and_its_gradient_match_numpy_in_float64(name, dtype, shape):
    x = tf.constant(X, dtype)
    upstream = tf.constant(np.linspace(-1, 2, len(X)), dtype)
    exact_x, exact_upstream = (np.asarray(tf.cast(t, tf.float64)) for t in (x, upstream))
    value, gradient = REFERENCES[name](exact_x)
    actual_value, actual_gradient = value_and_gradient(ACTIVATIONS[name], x, upstream, shape)
    # Float32: XLA's tanh and erf are rational approximations that reach 1 exactly near |x| = 5.
    # bfloat16 rounds by 2 ** -9; its chain has up to six roundings.
    rtol, atol = {"float32": (5e-6, 5e-6), "bfloat16": (2e-2, 2e-2)}[dtype]
    np.testing.assert_allclose(actual_value, value, rtol=rtol, atol=atol)
    np.testing.assert_allclose(actual_gradient, gradient * exact_upstream, rtol=rtol, atol=atol)


def test_in_16_bits_a_chain_is_rounded_once_and_so_is_its_gradient():
    x = tf.constant(X, "bfloat16")
    bias = tf.constant(0.375, "bfloat16")
    exact = np.asarray(tf.cast(x, tf.float64)) + 0.375
    with tf.GradientTape() as tape:
        tape.watch([x, bias])
        y = ACTIVATIONS["gelu_erf"](x, bias)
    gradient, of_bias = tape.gradient(y, [x, bias])
    value, slope = gelu_erf(exact)
    digit = 2.0**-7  # rounding once is off by half of it at most
    for actual, wanted in ((y, value), (gradient, slope)):
        actual = np.asarray(tf.cast(actual, tf.float64))
        np.testing.assert_allclose(actual, wanted, rtol=digit / 2, atol=1e-5)
    assert of_bias.dtype == "bfloat16"
    assert float(of_bias) == pytest.approx(slope.sum(), rel=digit)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), max_size=40))
def test_narrowing_rounds_as_tensorflow_does(numbers):
    # Also numbers half-way between two bfloat16 numbers.
    x = np.array([*numbers, np.nan, np.inf, -np.inf], np.float32)
    halfway = (x.view(np.uint32) & np.uint32(0xFFFF0000) | np.uint32(0x8000)).view(np.float32)
    x = tf.constant(np.concatenate([x, halfway[np.isfinite(x)]]))
    actual, expected = (np.asarray(y) for y in (narrow(x, "bfloat16"), tf.cast(x, "bfloat16")))
    assert actual.dtype == expected.dtype
    is_number = ~np.isnan(np.asarray(x))
    assert np.isnan(actual.astype(np.float32)[~is_number]).all()
    np.testing.assert_array_equal(
        actual.view(np.uint16)[is_number], expected.view(np.uint16)[is_number]
    )


def test_the_two_forms_differ_by_as_much_as_they_should():
    x = tf.constant(X, tf.float32)
    difference = np.abs(ACTIVATIONS["gelu_erf"](x) - ACTIVATIONS["gelu_tanh"](x)).max()
    assert 4.6e-4 < difference < 4.8e-4


@pytest.mark.parametrize("shape", [(0,), (2, 3, 5)])
def test_the_shape_is_kept(shape):
    y = ACTIVATIONS["gelu_tanh"](tf.ones(shape))
    assert y.shape == shape


def test_a_function_of_several_tensors_has_the_gradient_of_each():
    fused = fuse(lambda x, y, z: ops.tanh(x * y) + z)
    x, y, z = (tf.constant(np.linspace(low, 1, 7), tf.float32) for low in (-1, 0, 0.5))
    with tf.GradientTape() as tape:
        tape.watch([x, y, z])
        output = fused(x, y, z)
    slope = 1 - np.tanh(x * y) ** 2
    gradients = tape.gradient(output, [x, y, z])
    for actual, expected in zip(gradients, (slope * y, slope * x, np.ones(7)), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)


def test_a_fused_function_works_inside_a_traced_step():
    x = tf.constant(X[None], tf.float32)

    @tf.function(autograph=False)
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(ACTIVATIONS["gelu_erf"](x))
        return tape.gradient(loss, x)

    np.testing.assert_allclose(step(x), gelu_erf(X[None])[1], rtol=2e-6, atol=1e-6)
