# SPDX-License-Identifier: Apache-2.0
"""Rounds the kernel of a dense layer to 16 bits once for several calls: those of the streams of a
batch (`layer_stack.py`), or those of the batches of a pass over a split.

Both set an attribute of `layers/dense.py:Dense`: `shared` or `rounded`.
"""

import contextlib
import functools

import keras
from keras import ops

from common.kernels.fusion import compiled, narrow


@functools.cache
def make_rounding(dtype):
    """<float32>[...] -> <dtype>[...] by XLA's loop: TensorFlow's cast takes 1.5 times as long."""
    return compiled(functools.partial(narrow, dtype=dtype))


def _in_16_bits(dense_layers):
    return [each for each in dense_layers if each.compute_dtype != each.variable_dtype]


def rounded_kernels(dense_layers):
    """Returns the rounded kernels, with their present values, of all Dense that compute in 16 bits.

    This is too rare to compile a loop for it, as training does.
    """
    return [ops.cast(each.kernel, each.compute_dtype) for each in _in_16_bits(dense_layers)]


@contextlib.contextmanager
def use_rounded(dense_layers, kernels):
    """A context manager in which each Dense multiplies by its kernel of `rounded_kernels`.

    Otherwise each rounds its kernel at every batch, which takes a seventh of the time of a batch
    of short rows (benchmarks/NOTES.md, "With bfloat16").
    """
    rounding = _in_16_bits(dense_layers)
    for dense, kernel in zip(rounding, kernels, strict=True):
        dense.rounded = kernel
    try:
        yield
    finally:
        for dense in rounding:
            dense.rounded = None


@contextlib.contextmanager
def share_kernels(dense_layers, num_streams, after):
    """A context manager in which each Dense is called once a stream, and the gradient of its kernel
    is one product.

    Otherwise each stream computes a gradient of the kernel's size, and all of them are read again
    to be added: with short rows that takes as long as the products. In 16 bits the gradient keeps
    the dtype of the product though the kernel is float32: widening it takes a pass over memory,
    which the loop of the update does not need.

    Args:
        dense_layers: list of Dense.
        num_streams: int.
        after: tensor. Kernels are rounded after it is computed. If all were rounded at the start of
            a step, every core would wait for memory; so one does while the others multiply.
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    for dense in dense_layers:
        dense.shared = SharedKernel(dense, num_streams, after)
    try:
        yield
    finally:
        for dense in dense_layers:
            dense.shared = None


class SharedKernel:
    """The kernel of a Dense for `num_streams` calls of `multiply`; TensorFlow only.

    Every call gets a copy of the kernel, which costs nothing, and returns its upstream gradient as
    the gradient of that copy. The gradient of the kernel is then one product: of the concatenated
    inputs and the concatenated upstream gradients.
    """

    def __init__(self, dense, num_streams, after):
        import tensorflow as tf

        self.tf = tf
        self.inputs = []  # of the calls so far: <float>[N, D]

        @tf.custom_gradient
        def copies_of(kernel):
            def gradient(*upstreams):
                inputs = tf.concat(self.inputs, axis=0)
                return tf.matmul(inputs, tf.concat(upstreams, axis=0), transpose_a=True)

            if dense.compute_dtype != dense.variable_dtype:
                with tf.control_dependencies([after]):
                    kernel = tf.identity(kernel)
                kernel = make_rounding(dense.compute_dtype)(kernel)
            return [tf.identity(kernel) for _ in range(num_streams)], gradient

        self.copies = iter(copies_of(tf.convert_to_tensor(dense.kernel)))

    def multiply(self, x):
        tf = self.tf
        self.inputs.append(x)

        @tf.custom_gradient
        def product(x, kernel):
            def gradient(upstream):
                return tf.matmul(upstream, kernel, transpose_b=True), upstream

            return tf.matmul(x, kernel), gradient

        return product(x, next(self.copies))
