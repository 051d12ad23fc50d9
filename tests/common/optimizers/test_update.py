# SPDX-License-Identifier: Apache-2.0
"""The sum of the squares of a gradient, of which the norm is made, against NumPy in float64."""

import numpy as np
import pytest
import tensorflow as tf

from common.optimizers.update import MIN_COMPILED, NUM_PIECES, gradient_of, half_square

# float16 holds nothing above 65,504, but its squares are added up in float32 as well.
LARGEST = {"float32": 1e18, "bfloat16": 1e18, "float16": 3e4}


@pytest.mark.parametrize("dtype", list(LARGEST))
@pytest.mark.parametrize(
    "shape",
    [
        (),
        (7,),
        (MIN_COMPILED // 64, 64),
        (MIN_COMPILED - 1,),
        (MIN_COMPILED + NUM_PIECES,),  # as many pieces as wanted, each of an odd size
        (300, 2 * NUM_PIECES),
    ],
)
def test_half_square_matches_numpy_in_float64(dtype, shape):
    values = np.random.default_rng(0).normal(size=shape)
    for factor in (1.0, LARGEST[dtype] / max(np.abs(values).max(), 1)):
        gradient = tf.constant(values * factor / 2, dtype)
        exact = np.square(np.asarray(tf.cast(gradient, tf.float64))).sum() / 2
        actual = half_square(gradient)
        assert actual.dtype == tf.float32
        np.testing.assert_allclose(actual, exact, rtol=1e-5)


@pytest.mark.parametrize("dtype", list(LARGEST))
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("place", [0, 1, MIN_COMPILED - 1])
def test_half_square_of_one_number_that_is_not_finite_is_not(dtype, bad, place):
    values = np.ones(MIN_COMPILED)
    values[place] = bad
    assert not np.isfinite(half_square(tf.constant(values, dtype)))


def test_rows_looked_up_twice_are_added_before_they_are_squared():
    values = np.random.default_rng(1).normal(size=(600, 32)).astype(np.float32)
    indices = np.arange(600) % 400
    table = tf.Variable(tf.zeros((1000, 32)))
    slices = tf.IndexedSlices(tf.constant(values), tf.constant(indices), table.shape)
    dense = np.zeros(table.shape)
    np.add.at(dense, indices, values)
    actual = half_square(gradient_of(table, slices))
    np.testing.assert_allclose(actual, np.square(dense).sum() / 2, rtol=1e-5)
