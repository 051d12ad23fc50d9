# SPDX-License-Identifier: Apache-2.0
"""Pooling ignores padding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.layers.pooling import POOLERS
from tests.reference.bert_numpy import pool


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(list(POOLERS)),
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    garbage=st.sampled_from([0.0, 1e4, -1e4]),
)
def test_each_pooler_reads_only_the_real_tokens(name, lengths, garbage):
    x = np.random.default_rng(0).normal(size=(len(lengths), 7, 5)).astype(np.float32)
    padding_mask = (np.arange(7) < np.array(lengths)[:, None]).astype(np.int32)
    expected = [pool(row[:n].astype(np.float64), name) for row, n in zip(x, lengths, strict=True)]
    x[padding_mask == 0] = garbage
    actual = np.asarray(POOLERS[name](x, padding_mask))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)  # float32, values near 3


@pytest.mark.parametrize("name", POOLERS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_row_of_padding_alone_gives_the_vector_of_its_first_token(name, dtype):
    x = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(dtype)
    pooled = np.asarray(POOLERS[name](x, np.array([[0, 0, 0], [1, 1, 0]])))
    np.testing.assert_array_equal(pooled[0], x[0, 0])
    assert pooled.dtype == dtype
