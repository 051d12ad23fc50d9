# SPDX-License-Identifier: Apache-2.0
"""The softmax of attention; its gradient: tests/common/layers/test_dot_product_attention.py."""

import numpy as np
import tensorflow as tf

from common.kernels import attention as module


def test_probabilities_of_16_bits_are_rounded_once(monkeypatch):
    """Also where no kernel adds up in float32, as with oneDNN switched off."""
    scores = tf.cast(np.random.default_rng(0).normal(size=(1, 2, 3, 300)) * 3, "bfloat16")
    mask = np.zeros((1, 1, 1, 300), np.float32)
    mask[..., 200:] = -1e9
    exact = np.exp(np.asarray(tf.cast(scores, "float64")))
    exact[..., 200:] = 0
    exact /= exact.sum(axis=-1, keepdims=True)
    for in_16_bits in {module.rounds_once(), False}:
        monkeypatch.setattr(module, "rounds_once", lambda answer=in_16_bits: answer)
        actual = np.asarray(tf.cast(module.softmax(scores, mask, may_compile=True), "float64"))
        np.testing.assert_allclose(actual, exact, rtol=2**-8, atol=0)
        assert not actual[..., 200:].any()
