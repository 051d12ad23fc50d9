# SPDX-License-Identifier: Apache-2.0
"""Figures of gradients and weights on numbers written out by hand."""

import numpy as np
import pytest
import tensorflow as tf

from common.optimizers.summaries import gradient_summaries, histogram
from common.params import OptimizerParams

GRADIENTS = {
    # a zero, a float32 denormal, two numbers that only float16 finds denormal, and four others
    "pooler/kernel": [[0.0, 2.0**-130, 2.0**-15, -(2.0**-20)], [2.0**-14, -3.0, 4.0, 0.5]],
    "pooler/bias": [-0.0, 0.0, 6.0, 8.0],
    "embeddings/word_embeddings": [[0.0], [7.0]],
}
WEIGHTS = {"pooler/kernel": [3.0], "pooler/bias": [4.0], "embeddings/word_embeddings": [12.0]}


def summaries(dtype_policy="float32", **asked):
    gradients, weights = (
        {name: tf.constant(values, tf.float32) for name, values in tensors.items()}
        for tensors in (GRADIENTS, WEIGHTS)
    )
    scalars, histograms = gradient_summaries(
        gradients, weights, OptimizerParams(**asked), dtype_policy
    )
    return {name: float(value) for name, value in scalars.items()}, histograms


@pytest.mark.parametrize(
    ("dtype_policy", "denormal"),
    [("float32", 1 / 8), ("mixed_bfloat16", 1 / 8), ("mixed_float16", 3 / 8)],
)
def test_sparsity_denormals_and_norm_of_kernels_and_biases(dtype_policy, denormal):
    scalars, histograms = summaries(dtype_policy, log_grads=True)
    assert scalars == {
        "sparsity_kernel_grads/pooler/kernel": 1 / 8,
        "denormal_kernel_grads/pooler/kernel": denormal,
        "norm_kernel_grads/pooler/kernel": pytest.approx(np.sqrt(9 + 16 + 0.25), rel=1e-6),
        "sparsity_bias_grads/pooler/bias": 2 / 4,
        "denormal_bias_grads/pooler/bias": 0.0,
        "norm_bias_grads/pooler/bias": 10.0,
    }
    assert histograms == {}


def test_zeros_of_all_gradients_and_norm_of_all_weights():
    scalars, histograms = summaries(ws_summary=True)
    # Arithmetic takes the denormal number for another zero or does not, by the device.
    assert scalars["train/grad_num_zeros"] in (1 + 2 + 1, 1 + 1 + 2 + 1)
    assert scalars["train/params_norm"] == 13.0
    assert set(scalars) == {"train/grad_num_zeros", "train/params_norm"} and histograms == {}


def test_nothing_is_computed_that_is_not_asked_for():
    assert summaries() == ({}, {})
    scalars, histograms = summaries(log_hists=True)
    assert scalars == {}
    assert set(histograms) == {"kernel_grads/pooler/kernel", "bias_grads/pooler/bias"}


def test_a_histogram_is_of_the_logarithm_to_base_2_of_the_magnitudes():
    #    log2: 0, 1, 1, 30
    buckets = histogram(tf.constant([[1.0, -2.0], [2.0, 2.0**30]])).numpy()
    assert buckets.dtype == np.float64 and buckets.shape == (30, 3)
    np.testing.assert_allclose(buckets[:, 0], np.arange(30), atol=1e-5)
    np.testing.assert_allclose(buckets[:, 1], np.arange(1, 31), atol=1e-5)
    assert buckets[:, 2].tolist() == [1, 2] + [0] * 27 + [1]


def test_a_histogram_of_zeros_has_them_all_at_minus_50():
    buckets = histogram(tf.zeros(5)).numpy()
    assert buckets[0].tolist() == pytest.approx([-50, -50 + 1 / 30, 5], rel=1e-5)
