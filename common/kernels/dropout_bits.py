# SPDX-License-Identifier: Apache-2.0
"""The random bits of dropout, and the loops that drop.

A bit is a hash of (seed, layer, step, the element's number), computed in the same loop that drops:
nothing is drawn ahead, and the backward pass computes the mask again instead of keeping it.
"""

import functools
import math

import keras
import numpy as np
from keras import ops

from common.kernels.fusion import fuse_residual, fuse_self_adjoint

# 2^32 divided by the golden ratio: multiples of it spread evenly (Knuth, TAOCP 3, section 6.4).
GOLDEN = np.uint32(0x9E3779B9)
MERSENNE = 2**31 - 1  # a prime


def _shift_xor(bits, by):
    if keras.backend.backend() == "torch":
        # Keras keeps uint32 in PyTorch's int64, where products do not wrap at 2^32.
        bits = ops.bitwise_and(bits, 2**32 - 1)
    return ops.bitwise_xor(bits, ops.right_shift(bits, np.uint32(by)))


def _mix(bits, added=0):
    """A permutation of 32 bits in which each input bit changes half of the output bits.

    "lowbias32" of Chris Wellons' hash prospector; `added` stands between its two products, so that
    no stream is a permutation of another.
    """
    bits = _shift_xor(bits, 16) * np.uint32(0x7FEB352D)
    bits = (_shift_xor(bits, 15) + ops.cast(added, "uint32")) * np.uint32(0x846CA68B)
    return _shift_xor(bits, 16)


def keep(count, place, rate):
    """Which of `count` elements stay: <bool>[count], each with probability 1 - rate.

    place: <uint32>[4], of DropoutClock.
    """
    seed, layer, step, first = (place[i] for i in range(4))
    key = (seed + layer) % np.uint32(MERSENNE)
    stream = _mix(_mix(key * GOLDEN) + step)
    number = ops.cast(ops.arange(count, dtype="int32"), "uint32") + first
    bits = _mix(number * GOLDEN + stream, added=_mix(stream + GOLDEN))
    return bits >= np.uint32(round(rate * 2**32))


def drop(x, place, rate):
    """Sets the elements that `keep` drops to zero and divides the others by 1 - rate.

    x: <float32>[...]. One dimension is fastest: XLA vectorises its loop.
    """
    shape = ops.shape(x)
    kept = ops.reshape(keep(math.prod(shape), place, rate), shape)
    return ops.where(kept, x * (1.0 / (1.0 - rate)), 0.0)


@functools.cache  # the layers of a network share the compiled loops of a rate
def make_drop(rate):
    return fuse_self_adjoint(functools.partial(drop, rate=rate))


@functools.cache
def make_add(rate):
    def dropped(x, *place):
        return drop(x, *place, rate) if place else x

    def gradient(upstream, *place):
        of_x = dropped(upstream, *place)
        return of_x, ops.sum(of_x, axis=0)

    return fuse_residual(lambda x, bias, *place: dropped(x + bias, *place), gradient)
