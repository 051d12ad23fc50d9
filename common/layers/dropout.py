# SPDX-License-Identifier: Apache-2.0
"""Dropout whose masks are a function of (seed, layer, step), so a resumed run draws them again.

Keras' own layer keeps a counter variable per layer that every call advances: state to save, and a
different mask after a resume. Here the training step sets one step counter and nothing else counts.
"""

import keras
from keras import ops


class DropoutClock:
    """What all dropout masks of one model depend on: the run's seed and the current step.

    A plain object, so that Keras does not list `step` among the weights of every layer.

    Attributes:
        step: int32 variable []. The training step sets it before the forward pass.
        dropout: (x, rate, seed=SeedGenerator) -> x with elements dropped. Another function where
            x is a part of the batch only (see `common/training/distribution.py`).
    """

    def __init__(self, seed=0):
        self.seed = seed
        self.step = keras.Variable(0, dtype="int32", trainable=False, name="dropout_step")
        self.num_layers = 0
        self.dropout = keras.random.dropout

    def next_layer(self):
        """Returns the next layer's number, in the order of construction."""
        self.num_layers += 1
        return self.num_layers


class _StepSeed(keras.random.SeedGenerator):
    """The stateless pair (seed and layer, step) in the shape Keras' random functions accept."""

    def __init__(self, clock, layer):
        # Not the parent's __init__: it would make a state variable inside a traced function.
        self.clock, self.layer = clock, layer

    def next(self, ordered=True):
        # 10,007 is a prime above any number of dropout layers: (seed, layer) pairs stay distinct.
        key = (self.clock.seed * 10_007 + self.layer) % (2**31 - 1)
        dtype = keras.src.backend.random_seed_dtype()
        return ops.stack([ops.cast(key, dtype), ops.cast(self.clock.step, dtype)])


class Dropout(keras.layers.Layer):
    """Sets a share of the elements to zero in training and scales the others up.

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
        self.layer_number = clock.next_layer()

    def build(self, x_shape):
        del x_shape  # no weights

    def call(self, x, training=False):
        if not training or self.rate == 0.0:
            return x
        return self.clock.dropout(x, self.rate, seed=_StepSeed(self.clock, self.layer_number))
