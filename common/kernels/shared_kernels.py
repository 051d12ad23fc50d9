# SPDX-License-Identifier: Apache-2.0
"""One kernel, rounded to 16 bits once, for several calls of a dense layer: of the streams of a
batch (`layer_stack.py`), or of the batches of a pass over a split.

The layers are of class `layers/dense.py:Dense`, whose attributes `shared` and `rounded` are set.
"""

import contextlib
import functools

import keras
from keras import ops

from common.kernels.fusion import compiled, narrow


@functools.cache
def _make_rounding(dtype):
    """<float32>[...] -> <dtype>[...] as XLA's loop: TensorFlow's own takes 1.5 times as long."""
    return compiled(functools.partial(narrow, dtype=dtype))


def _in_16_bits(dense_layers):
    return [each for each in dense_layers if each.compute_dtype != each.variable_dtype]


def rounded_kernels(dense_layers):
    """Returns the kernels, as they are now, of those Dense that compute in 16 bits, rounded.

    So seldom that no loop is compiled for it, other than in training.
    """
    return [ops.cast(each.kernel, each.compute_dtype) for each in _in_16_bits(dense_layers)]


@contextlib.contextmanager
def use_rounded(dense_layers, kernels):
    """Within, each Dense multiplies by its kernel of `rounded_kernels`. A context manager.

    By itself each rounds its kernel at every batch, which takes a seventh of the time of a batch
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
    """Within, each Dense is called by so many streams, and its kernel's gradient is one product.

    A context manager. Left to itself, each stream computes a gradient of the kernel's size, and
    all of them are read again to be added: with short rows that takes as long as the products.
    In 16 bits the gradient stays as the product gives it, though the kernel is of float32: to widen
    it takes a pass over memory, which the update's loop does not need.

    after: tensor. Kernels are rounded once it is there: all at a step's beginning they would wait
        for memory on every core, where one core can do so while others multiply.
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
    """The kernel of a Dense for so many calls of `multiply`; TensorFlow only.

    Every call gets a copy of the kernel, which costs nothing. For the gradient of its copy it
    gives its upstream gradient; these meet at the kernel, whose gradient is then the product of
    all inputs, one below the other, and all upstream gradients.
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
                kernel = _make_rounding(dense.compute_dtype)(kernel)
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
