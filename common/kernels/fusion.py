# SPDX-License-Identifier: Apache-2.0
"""Compiles a chain of elementwise operations into one loop forward and one backward.

TensorFlow runs such a chain operation by operation: each is a pass over memory and keeps its result
for the backward pass. Compiled by XLA, the chain is one pass, and the backward pass recomputes it
from the inputs. oneDNN's kernels of a product with its bias and GELU take longer than the product
and such a loop. The other Keras backends compile whole steps and need no help.
"""

import keras
import numpy as np
from keras import ops


def is_compiled(x):
    """Whether operations on x may be compiled. A batch of unknown size is an export, and not every
    format can hold what XLA compiles."""
    return x.shape[0] is not None


def compiled(function):
    """Returns `function` compiled by XLA, without a gradient."""
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    return tf.function(function, jit_compile=True, autograph=False)


def custom_gradient(function):
    """`ops.custom_gradient`. Under PyTorch, where Keras' one calls the gradient with the inputs too
    and does not unpack what it returns, automatic differentiation takes its place.

    function: inputs -> a tensor, and the function from its gradient to those of the inputs.
    """
    if keras.backend.backend() == "torch":
        return lambda *inputs: function(*inputs)[0]
    return ops.custom_gradient(function)


def fuse(function):
    """Returns `function` with the same values and gradients in fewer passes over memory.

    function: from <float>[...] tensors to one <float>[...] tensor, of Keras operations only; see
        `in_float32`.
    """
    forward = compiled(in_float32(function))
    if keras.backend.backend() != "tensorflow":
        return forward
    import tensorflow as tf

    @compiled
    def backward(inputs, upstream):
        wide = [widen(x) for x in inputs]
        with tf.GradientTape() as tape:
            tape.watch(wide)
            output = function(*wide)
        gradients = tape.gradient(output, wide, output_gradients=widen(upstream))
        return [narrow(gradient, x.dtype) for gradient, x in zip(gradients, inputs, strict=True)]

    @tf.custom_gradient
    def fused(*inputs):
        return forward(*inputs), lambda upstream: backward(inputs, upstream)

    return fused


def fuse_self_adjoint(function):
    """As `fuse`, for a function that is linear in its first input and symmetric.

    function: (<float>[N], others) -> <float>[N]. The gradient of its first input is the function of
        the upstream gradient; the others have none.
    """
    forward = compiled(in_float32(function))
    if keras.backend.backend() != "tensorflow":
        return forward

    @ops.custom_gradient
    def fused(x, *others):
        def gradients(upstream):
            return forward(upstream, *others), *[None] * len(others)

        return forward(x, *others), gradients

    return fused


def fuse_with_gradient(forward, backward):
    """As `fuse`, with a written-out gradient.

    Args:
        forward: inputs -> a tensor, and statistics that `backward` needs besides the inputs.
        backward: (upstream, statistics, inputs) -> the gradient of each input.
    Returns inputs -> the tensor, in the dtype of the first input.
    """

    @compiled
    def narrow_forward(*inputs):
        output, statistics = forward(*map(widen, inputs))
        return narrow(output, inputs[0].dtype), statistics

    @compiled
    def narrow_backward(upstream, statistics, *inputs):
        gradients = backward(widen(upstream), statistics, *map(widen, inputs))
        return [narrow(gradient, x.dtype) for gradient, x in zip(gradients, inputs, strict=True)]

    @custom_gradient
    def fused(*inputs):
        output, statistics = narrow_forward(*inputs)
        return output, lambda upstream: narrow_backward(upstream, statistics, *inputs)

    return fused


def fuse_residual(function, gradient):
    """As `fuse`, for residual + function(x, bias, others), with a written-out gradient.

    The gradient of the residual is the upstream one. The backward pass keeps only `others`.

    Args:
        function: (x, bias, others) -> <float32>[N, D]; x: <float32>[N, D], bias: <float32>[D].
        gradient: (upstream <float32>[N, D], others) -> those of x and bias, in float32.
    Returns (residual, x, bias, others) -> <float>[N, D]; bias is <float32>, others of any dtype.
    """
    forward = compiled(in_float32(lambda residual, *inputs: residual + function(*inputs)))
    if keras.backend.backend() != "tensorflow":
        return forward

    @compiled
    def backward(upstream, *others):
        of_x, of_bias = gradient(widen(upstream), *others)
        return narrow(of_x, upstream.dtype), of_bias

    @ops.custom_gradient
    def fused(residual, x, bias, *others):
        def gradients(upstream):
            return upstream, *backward(upstream, *others), *[None] * len(others)

        return forward(residual, x, bias, *others), gradients

    return fused


def in_float32(function):
    """Returns `function` of 16-bit tensors, computed in float32 and rounded to the first's dtype.

    XLA would round after every operation, which takes longer than the operations.
    """
    return lambda *inputs: narrow(function(*map(widen, inputs)), inputs[0].dtype)


def widen(x):
    """Casts a tensor of 16 bits to float32; returns any other as it is."""
    return ops.cast(x, "float32") if _is_half(x) else x


def narrow(x, dtype):
    """<float32>[...] -> <dtype>[...], rounded to nearest, ties to even. To be compiled by XLA."""
    dtype = keras.backend.standardize_dtype(dtype)
    if keras.backend.backend() != "tensorflow" or dtype != "bfloat16":
        return ops.cast(x, dtype)
    import tensorflow as tf

    # In integers: XLA does not vectorise its own conversion, and a loop with it takes 1.4 times as
    # long. NaN and infinities stay what they are.
    bits = tf.bitcast(x, tf.uint32)
    is_odd = ops.bitwise_and(ops.right_shift(bits, np.uint32(16)), np.uint32(1))
    bits = ops.right_shift(bits + np.uint32(0x7FFF) + is_odd, np.uint32(16))
    return tf.bitcast(tf.cast(bits, tf.uint16), tf.bfloat16)


def _is_half(x):
    return keras.backend.standardize_dtype(x.dtype) in ("bfloat16", "float16")
