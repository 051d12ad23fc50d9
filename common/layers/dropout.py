# SPDX-License-Identifier: Apache-2.0
"""Dropout whose masks are a function of (seed, layer, step), so a resumed run draws them again.

Keras' own layer has a counter variable that every call advances: state to save, and another mask
after a resume. Here the only counter is the step, which the training step sets.
"""

import math

import keras
from keras import ops

from common.kernels.dropout_bits import MERSENNE, make_add, make_drop
from common.kernels.fusion import is_compiled


class DropoutClock:
    """The state that all dropout masks of a model depend on: the run's seed and the current step.

    A plain object, so that Keras does not list its variables among the weights of every layer.

    Attributes:
        seed: int32 variable [], the run's seed times 10,007, modulo 2^31 - 1. A variable, so that
            the programs of all seeds are the same.
        step: int32 variable []. The training step sets it before the forward pass.
        share: int. Index of the part of the batch that the network computes, of several parts of
            one size (`common/training/distribution.py`): the masks are those of the whole batch.
        depth: int. How often the same layers were called before in this step: where all layers of
            an encoder share their weights, each of them has masks of its own.
        rows: (first, total), where layers are called with some rows of the share: those from
            `first` on, of `total`. None: with all rows.
    """

    def __init__(self, seed=0):
        # 10,007 is a prime above any number of dropout layers: (seed, layer) pairs stay distinct.
        seed = seed * 10_007 % MERSENNE
        self.seed = keras.Variable(seed, dtype="int32", trainable=False, name="dropout_seed")
        self.step = keras.Variable(0, dtype="int32", trainable=False, name="dropout_step")
        self.num_layers = 0
        self.share = 0
        self.depth = 0
        self.rows = None

    def place(self, layer, shape):
        """Returns what the mask of a layer's input depends on: <uint32>[4].

        That is seed, layer, step, and the number of the input's first element in the whole batch.

        shape: `ops.shape` of the input; its batch size, where unknown, is a tensor <int32>[].
        """
        num_rows, *row = (*shape, 1)
        first, total = self.rows or (0, num_rows)
        first = (self.share * total + first) * math.prod(row)
        layer += self.depth * self.num_layers
        place = [self.seed.value, layer, self.step.value, first & MERSENNE]  # modulo 2^31
        return ops.cast(ops.stack(place), "uint32")


class Dropout(keras.layers.Layer):
    """Sets random elements to zero in training and scales the others up.

    Srivastava et al. 2014, in the inverted form: kept elements are divided by 1 - rate.

    Args:
        rate: float in [0, 1). Probability of an element to be dropped.
        clock: DropoutClock of the model.
    Call:
        x: <float>[...].
    Returns:
        <float>[...], `x` itself outside training.
    """

    def __init__(self, rate, clock, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.clock = clock
        clock.num_layers += 1  # numbered in the order of construction
        self.layer_number = clock.num_layers

    def call(self, x, training=False):
        place = self.place_of(ops.shape(x)) if training else ()
        if not place:
            return x
        return ops.reshape(make_drop(self.rate)(ops.reshape(x, (-1,)), *place), ops.shape(x))

    def place_of(self, shape):
        """Returns (`place` of the clock,) for an input of this shape, () where the rate is 0."""
        return (self.clock.place(self.layer_number, shape),) if self.rate else ()

    def add(self, residual, x, bias, training=False):
        """residual + dropout(x + bias): <float>[B, T, D], in training as one compiled loop.

        residual: <float>[B, T, D]; x: <float>[B * T, D]; bias: <float32>[D], or None.
        """
        if not training and not is_compiled(x):
            x = x if bias is None else x + ops.cast(bias, x.dtype)
            return residual + ops.reshape(x, ops.shape(residual))
        place = self.place_of(ops.shape(residual)) if training else ()
        bias = ops.zeros(x.shape[-1:], "float32") if bias is None else bias
        y = make_add(self.rate)(ops.reshape(residual, ops.shape(x)), x, bias, *place)
        return ops.reshape(y, ops.shape(residual))
