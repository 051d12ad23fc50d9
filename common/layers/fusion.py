# SPDX-License-Identifier: Apache-2.0
"""Turns a chain of elementwise operations into one compiled loop forward and one backward.

TensorFlow runs such a chain operation by operation, each a pass over memory that keeps its result
for the backward pass. Compiled by XLA, the chain is one pass, and the backward pass recomputes it
from the inputs. The other Keras backends compile whole steps and need no help.
"""

import functools

import keras
from keras import ops


def is_compiled(x, training):
    """Whether what follows x is better one compiled loop than TensorFlow's own operations.

    In training it is. Outside, oneDNN computes product, bias and GELU in float32 as one kernel; in
    16 bits it is slow at that, and operations by themselves spend their time on rounding. Of a
    batch of any size (an export) nothing is: not every format can hold what XLA compiles.
    """
    return training or (x.shape[0] is not None and _is_half(x))


def compiled(function):
    """Returns `function` as a program of XLA's, without a gradient; see `fuse` for its rounding."""
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    return tf.function(function, jit_compile=True, autograph=False)


def fuse(function):
    """Returns `function`, computing the same with the same gradients in fewer passes over memory.

    function: from <float>[...] tensors to one <float>[...] tensor, of Keras operations only. It is
        given 16-bit tensors in float32, and its result is rounded to the first one's dtype: XLA
        rounds after every operation else, which takes longer than the operations.
    """
    function = in_float32(function)
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


def fuse_with_gradient(forward, backward):
    """As `fuse`, with the gradient given.

    Args:
        forward: inputs -> a tensor, and what `backward` needs besides the inputs.
        backward: (upstream, that, inputs) -> the gradient of each input, or None.
    Returns:
        inputs -> the tensor.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        compiled = functools.partial(tf.function, jit_compile=True, autograph=False)
        forward, backward = compiled(forward), compiled(backward)

    @ops.custom_gradient
    def fused(*inputs):
        output, kept = forward(*inputs)
        return output, lambda upstream: backward(upstream, kept, *inputs)

    return fused


def fuse_residual(function, gradient):
    """As `fuse`, of residual + function(x, bias, others), with the gradient of `function` given.

    That of the residual is the upstream one itself, and nothing is kept but `others`.

    function: (x, bias, others) -> <float32>[N, D]; x: <float32>[N, D], bias: <float32>[D].
    gradient: (upstream <float32>[N, D], others) -> those of x and bias, in float32.
    Returns:
        (residual, x, bias, others) -> <float>[N, D], of any dtype.
    """
    forward = in_float32(lambda residual, *inputs: residual + function(*inputs))
    if keras.backend.backend() != "tensorflow":
        return forward
    import tensorflow as tf

    forward = tf.function(forward, jit_compile=True, autograph=False)

    @tf.function(jit_compile=True, autograph=False)
    def backward(upstream, *others):
        gradients = gradient(tf.cast(upstream, tf.float32), *others)
        return [tf.cast(each, upstream.dtype) for each in gradients]

    @tf.custom_gradient
    def fused(residual, x, bias, *others):
        def gradients(upstream):
            return upstream, *backward(upstream, *others), *[None] * len(others)

        return forward(residual, x, bias, *others), gradients

    return fused


def in_float32(function):
    """Returns `function` of 16-bit tensors in float32, its result in the first one's dtype."""

    def wide(*inputs):
        output = function(*(ops.cast(x, "float32") if _is_half(x) else x for x in inputs))
        return ops.cast(output, inputs[0].dtype)

    return wide


def _is_half(x):
    return keras.backend.standardize_dtype(x.dtype) in ("bfloat16", "float16")
