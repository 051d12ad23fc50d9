# SPDX-License-Identifier: Apache-2.0
"""Sinusoids against the formula, entry by entry."""

import numpy as np

from common.layers.positions import sinusoids
from tests.reference import bert_numpy


def test_sinusoids_match_the_formula():
    np.testing.assert_allclose(sinusoids(19, 8), bert_numpy.sinusoids(19, 8), rtol=0, atol=1e-6)


def test_wavelengths_go_from_1_to_10000_and_sines_and_cosines_alternate():
    table = sinusoids(3, 6)
    np.testing.assert_array_equal(table[0], [0, 1, 0, 1, 0, 1])
    np.testing.assert_allclose(table[2, :2], [np.sin(2), np.cos(2)], rtol=1e-6)
    np.testing.assert_allclose(table[2, 4:], [np.sin(2e-4), np.cos(2e-4)], rtol=1e-6)


def test_an_odd_width_ends_with_zeros_and_the_smallest_widths_work():
    assert (sinusoids(5, 7)[:, 6] == 0).all()
    np.testing.assert_array_equal(sinusoids(5, 7)[:, :6], sinusoids(5, 6))
    np.testing.assert_allclose(sinusoids(2, 2)[1], [np.sin(1), np.cos(1)], rtol=1e-6)
    assert sinusoids(2, 1).shape == (2, 1)
