# SPDX-License-Identifier: Apache-2.0
"""Turns a chain of elementwise operations into one compiled loop forward and one backward.

TensorFlow runs such a chain operation by operation, each a pass over memory that keeps its result
for the backward pass. Compiled by XLA, the chain is one pass, and the backward pass recomputes it
from the inputs. The other Keras backends compile whole steps and need no help.
"""

import keras


def fuse(function):
    """Returns `function`, computing the same with the same gradients in fewer passes over memory.

    function: from <float>[...] tensors to one <float>[...] tensor, of Keras operations only.
    """
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    forward = tf.function(function, jit_compile=True, autograph=False)

    @tf.function(jit_compile=True, autograph=False)
    def backward(inputs, upstream):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = function(*inputs)
        return tape.gradient(output, inputs, output_gradients=upstream)

    @tf.custom_gradient
    def fused(*inputs):
        return forward(*inputs), lambda upstream: backward(inputs, upstream)

    return fused


def fuse_self_adjoint(function):
    """As `fuse`, of a function that is linear in its first input and symmetric: its own gradient.

    function: (<float>[N], others) -> <float>[N]. It is applied to the gradient in place of a
    backward pass; the others are given none.
    """
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    forward = tf.function(function, jit_compile=True, autograph=False)

    @tf.custom_gradient
    def fused(x, *others):
        return forward(x, *others), lambda upstream: (
            forward(upstream, *others),
            *[None] * len(others),
        )

    return fused
