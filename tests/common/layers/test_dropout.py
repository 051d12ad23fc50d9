# SPDX-License-Identifier: Apache-2.0
"""Dropout after a product and before a residual; its masks: tests/common/kernels."""

import numpy as np
import pytest
import tensorflow as tf

from common.kernels.dropout_bits import keep
from common.layers.dropout import Dropout, DropoutClock


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("rate", [0.0, 0.25])
@pytest.mark.parametrize("training", [True, False])
def test_what_is_added_to_a_residual_matches_numpy_in_float64(dtype, has_bias, rate, training):
    clock = DropoutClock(seed=3)
    layer = Dropout(rate, clock, dtype=dtype)
    clock.step.assign(5)
    generator = np.random.default_rng(0)
    shapes = {"residual": (2, 3, 7), "x": (6, 7), "bias": (7,), "upstream": (2, 3, 7)}
    dtypes = {**dict.fromkeys(shapes, dtype), "bias": "float32", "output": dtype}
    given = {
        name: tf.constant(generator.normal(size=size), dtypes[name])
        for name, size in shapes.items()
    }
    residual, x, bias, upstream = (np.asarray(tf.cast(t, tf.float64)) for t in given.values())
    upstream_tensor = given.pop("upstream")
    if not has_bias:
        del given["bias"]
        bias = 0.0
    with tf.GradientTape() as tape:
        tape.watch(list(given.values()))
        y = layer.add(**{"bias": None, **given}, training=training)
    gradients = tape.gradient(y, given, output_gradients=upstream_tensor)

    factor = np.ones((6, 7))
    if training and rate:
        kept = keep(42, clock.place(layer.layer_number, (2, 3, 7)), rate)
        factor = np.asarray(kept).reshape(6, 7) / (1 - rate)
        assert 0 < factor.astype(bool).mean() < 1
    of_x = upstream.reshape(6, 7) * factor
    expected = {"residual": upstream, "x": of_x, "bias": of_x.sum(axis=0)}
    tolerance = {"float32": 1e-6, "bfloat16": 2**-5}[dtype]  # the last digit of numbers up to 4
    expected["output"] = residual + ((x + bias) * factor).reshape(2, 3, 7)
    for name, tensor in {"output": y, **gradients}.items():
        assert tensor.dtype == dtypes[name]
        actual = np.asarray(tf.cast(tensor, tf.float64))
        np.testing.assert_allclose(actual, expected[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_a_batch_of_unknown_size_is_dropped_like_one_of_known_size(rate):
    clock = DropoutClock(seed=3)
    clock.share = 2
    layer = Dropout(rate, clock)
    generator = np.random.default_rng(0)
    residual, x, bias, upstream = (
        tf.constant(generator.normal(size=size), tf.float32)
        for size in ((2, 3, 7), (6, 7), (7,), (2, 3, 7))
    )

    def gradients(residual, x, bias):
        inputs = residual, x, bias
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = layer.add(*inputs, training=True) + layer(residual, training=True)
        return y, tape.gradient(y, inputs, output_gradients=upstream)

    unknown = [tf.TensorSpec((None, *t.shape[1:])) for t in (residual, x)]
    any_size = tf.function(gradients, input_signature=[*unknown, tf.TensorSpec((7,))])
    y, of_inputs = any_size(residual, x, bias)
    expected_y, expected = tf.function(gradients)(residual, x, bias)
    for actual, array in zip([y, *of_inputs], [expected_y, *expected], strict=True):
        np.testing.assert_array_equal(actual, array)
