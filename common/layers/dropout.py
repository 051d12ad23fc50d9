# SPDX-License-Identifier: Apache-2.0
"""Dropout whose masks are a function of (seed, layer, step), so a resumed run draws them again.

Keras' own layer keeps a counter variable per layer that every call advances: state to save, and a
different mask after a resume. Here the training step sets one step counter and nothing else counts.
The random bits are a hash of an element's number, computed in the same loop that drops: nothing is
drawn ahead, and the backward pass computes the mask once more in place of keeping it.
"""

import functools
import math

import keras
import numpy as np
from keras import ops

from common.layers.fusion import fuse_residual, fuse_self_adjoint, is_compiled

# 2^32 divided by the golden ratio: multiples of it spread evenly (Knuth, TAOCP 3, section 6.4).
GOLDEN = np.uint32(0x9E3779B9)
MERSENNE = 2**31 - 1  # a prime


class DropoutClock:
    """What all dropout masks of one model depend on: the run's seed and the current step.

    A plain object, so that Keras does not list its variables among the weights of every layer.

    Attributes:
        seed: int32 variable [], the run's seed times 10,007, modulo 2^31 - 1. A variable, so that
            the programs of all seeds are the same.
        step: int32 variable []. The training step sets it before the forward pass.
        share: int. Which part of the batch the network is given, of several that are equally large
            (see `common/training/distribution.py`): the masks are those of the whole batch.
        rows: (first, total) or None. Which rows of its share a layer is given next, where it is
            not given them all: from `first` on, of `total`.
    """

    def __init__(self, seed=0):
        # 10,007 is a prime above any number of dropout layers: (seed, layer) pairs stay distinct.
        seed = seed * 10_007 % MERSENNE
        self.seed = keras.Variable(seed, dtype="int32", trainable=False, name="dropout_seed")
        self.step = keras.Variable(0, dtype="int32", trainable=False, name="dropout_step")
        self.num_layers = 0
        self.share = 0
        self.rows = None

    def next_layer(self):
        """Returns the next layer's number, in the order of construction."""
        self.num_layers += 1
        return self.num_layers

    def place(self, layer, shape):
        """What the masks of a layer's input are computed from: <uint32>[4]. shape: ints, static."""
        num_rows, *row = (*shape, 1)
        first, total = self.rows or (0, num_rows)
        first = (self.share * total + first) * math.prod(row)
        place = [self.seed.value, layer, self.step.value, first % 2**31]
        return ops.cast(ops.stack(place), "uint32")


def _shift_xor(bits, by):
    return ops.bitwise_xor(bits, ops.right_shift(bits, np.uint32(by)))


def _mix(bits, added=0):
    """A permutation of 32 bits in which each input bit changes half of the output bits.

    "lowbias32" of Chris Wellons' hash prospector, found by search; `added` comes between its two
    products, so that two streams are no permutation of each other.
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
    """Sets those to zero that `keep` does not keep, and divides the others by 1 - rate.

    x: <float32>[...], fastest in one dimension, whose loop XLA turns into vectors.
    """
    kept = ops.reshape(keep(math.prod(x.shape), place, rate), x.shape)
    return ops.where(kept, x * (1.0 / (1.0 - rate)), 0.0)


@functools.cache  # the layers of a network share the compiled loops of a rate
def _make_drop(rate):
    return fuse_self_adjoint(functools.partial(drop, rate=rate))


@functools.cache
def _make_add(rate):
    def dropped(x, *place):
        return drop(x, *place, rate) if place else x

    def gradient(upstream, *place):
        of_x = dropped(upstream, *place)
        return of_x, ops.sum(of_x, axis=0)

    return fuse_residual(lambda x, bias, *place: dropped(x + bias, *place), gradient)


class Dropout(keras.layers.Layer):
    """Sets a share of the elements to zero in training and scales the others up.

    Srivastava et al. 2014, in the inverted form: kept elements are divided by 1 - rate.

    Args:
        rate: float in [0, 1). Probability of an element to be dropped.
        clock: DropoutClock of the model.
    Call:
        x: <float>[...], of static shape.
    Returns:
        <float>[...], `x` itself outside training.
    """

    def __init__(self, rate, clock, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.clock = clock
        self.layer_number = clock.next_layer()

    def build(self, x_shape):
        del x_shape  # no weights

    def call(self, x, training=False):
        place = self.place_of(x.shape) if training else ()
        if not place:
            return x
        return ops.reshape(_make_drop(self.rate)(ops.reshape(x, (-1,)), *place), x.shape)

    def place_of(self, shape):
        """What the mask of an input of this shape is computed from, as a tuple of one tensor; an
        empty one where nothing is dropped."""
        return (self.clock.place(self.layer_number, shape),) if self.rate else ()

    def add(self, residual, x, bias, training=False):
        """residual + dropout(x + bias), in training all in one loop.

        Args:
            residual: <float>[B, T, D].
            x: <float>[B * T, D].
            bias: <float32>[D], or None.
        Returns:
            <float>[B, T, D].
        """
        if not is_compiled(x):
            x = x if bias is None else x + ops.cast(bias, x.dtype)
            return residual + ops.reshape(x, ops.shape(residual))
        place = self.place_of(residual.shape) if training else ()
        bias = ops.zeros(x.shape[-1:], "float32") if bias is None else bias
        y = _make_add(self.rate)(ops.reshape(residual, x.shape), x, bias, *place)
        return ops.reshape(y, residual.shape)
