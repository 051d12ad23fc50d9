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
