# SPDX-License-Identifier: Apache-2.0
"""The random bits of dropout: each mask is a fair draw, and no two are alike.

Here the counts are compared with those of fair coins. What a mask depends on, and that a layer
keeps the mean, is tested with the network (tests/test_BertClassifierModel.py).
"""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from common.kernels.dropout_bits import keep
from common.layers.dropout import DropoutClock

COUNT = 200_000
compiled = tf.function(keep, jit_compile=True)  # one program for each count and rate


def mask(seed=1, layer=1, step=0, share=0, rate=0.5, count=COUNT):
    clock = DropoutClock(seed)
    clock.step.assign(step)
    clock.share = share
    return np.asarray(compiled(count, clock.place(layer, (count,)), rate))


def lowbias32(number):
    """Wellons' function, on Python integers."""
    number ^= number >> 16
    number = number * 0x7FEB352D % 2**32
    number ^= number >> 15
    number = number * 0x846CA68B % 2**32
    return number ^ number >> 16


def test_the_mask_follows_the_formula_in_python_integers():
    seed, layer, step, share, count, rate = 5, 3, 7, 2, 50, 0.25
    stream = lowbias32((lowbias32((seed * 10_007 + layer) * 0x9E3779B9 % 2**32) + step) % 2**32)
    added = lowbias32((stream + 0x9E3779B9) % 2**32)
    expected = []
    for i in range(share * count, (share + 1) * count):
        bits = (i * 0x9E3779B9 + stream) % 2**32
        bits ^= bits >> 16
        bits = bits * 0x7FEB352D % 2**32
        bits ^= bits >> 15
        bits = (bits + added) * 0x846CA68B % 2**32
        expected.append((bits ^ bits >> 16) >= rate * 2**32)
    assert mask(seed, layer, step, share, rate, count).tolist() == expected


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.9])
def test_the_dropped_share_is_the_rate(rate):
    for step in range(5):
        dropped = 1 - mask(step=step, rate=rate).mean()
        assert abs(dropped - rate) < 4.5 * np.sqrt(rate * (1 - rate) / COUNT)


def test_neighbours_steps_layers_and_seeds_are_not_correlated():
    """Correlations of N fair coins are normal with deviation 1 / sqrt(N)."""
    masks = {
        (seed, layer, step): mask(seed, layer, step) * 2.0 - 1.0
        for seed, layer, step in itertools.product((1, 2), (1, 2), (0, 1, 2))
    }
    pairs = [a * b for a, b in itertools.combinations(masks.values(), 2)]
    pairs += [m[lag:] * m[:-lag] for m in masks.values() for lag in (1, 2, 64, 384, 1024)]
    for product in pairs:
        assert abs(product.mean()) < 4.5 / np.sqrt(len(product))


@pytest.mark.parametrize("size", [16, 64, 256, 1024])
def test_the_number_dropped_in_a_block_has_the_binomial_variance(size):
    """Masks that are permutations of each other, block by block, would have a smaller variance."""
    for step in range(3):
        counts = mask(step=step)[: COUNT // size * size].reshape(-1, size).sum(axis=1)
        # Var of the sample variance of n normal values: 2 / (n - 1) of its square.
        ratio = counts.var(ddof=1) / (size / 4)
        assert abs(ratio - 1) < 4.5 * np.sqrt(2 / (len(counts) - 1))


def test_all_patterns_of_eight_neighbours_are_equally_frequent():
    patterns = np.packbits(mask(count=800_000).reshape(-1, 8), axis=1).ravel()
    counts = np.bincount(patterns, minlength=256)
    chi_square = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert 255 - 4.5 * np.sqrt(510) < chi_square < 255 + 4.5 * np.sqrt(510)


def test_every_element_is_dropped_equally_often_over_the_steps():
    masks = np.stack([mask(step=step, rate=0.1, count=500) for step in range(400)])
    dropped = 400 - masks.sum(axis=0)
    assert abs(dropped - 40).max() < 5.5 * np.sqrt(400 * 0.1 * 0.9)
