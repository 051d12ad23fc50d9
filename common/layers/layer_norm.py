# SPDX-License-Identifier: Apache-2.0
"""Layer normalisation with its gradient written out, a compiled loop each.

What automatic differentiation makes of the formula keeps and reads every intermediate result; the
closed form needs the input, and a mean and a deviation for each token.
"""

import keras
from keras import ops

from common.kernels.fusion import fuse_with_gradient, is_compiled


def _mean(x):
    """<float32>[N, D] -> [N, 1]."""
    return ops.mean(x, axis=-1, keepdims=True)


def _mean_by_product(x):
    """As `_mean`, for XLA, which sums a row one number after the other otherwise."""
    return ops.matmul(x, ops.full((x.shape[-1], 1), 1.0 / x.shape[-1], dtype="float32"))


def _forward(x, gamma, beta, epsilon, mean_of=_mean_by_product):
    """gamma * (x - mean) / sqrt(variance + epsilon) + beta, of every token by itself.

    Ba et al. 2016 (arXiv:1607.06450, section 3.1).

    Args:
        x: <float32>[N, D].
        gamma, beta: <float32>[D].
        epsilon: <float32>[].
    Returns:
        <float32>[N, D]; and for the gradient mean and 1 / deviation, <float32>[N, 1].
    """
    mean = mean_of(x)
    centred = x - mean
    scale = ops.rsqrt(mean_of(centred * centred) + epsilon)
    return centred * scale * gamma + beta, (mean, scale)


def _backward(upstream, kept, x, gamma, beta, epsilon):
    """With z = (x - mean) / deviation and u the upstream gradient times gamma, the gradient of x is
    (u - mean(u) - z * mean(u * z)) / deviation."""
    del beta
    mean, scale = kept
    z, u = (x - mean) * scale, upstream * gamma
    zero = ops.zeros_like(epsilon)
    of_x = (u - _mean_by_product(u) - z * _mean_by_product(u * z)) * scale
    return of_x, ops.sum(upstream * z, axis=0), ops.sum(upstream, axis=0), zero


_compiled = fuse_with_gradient(_forward, _backward)


class LayerNorm(keras.layers.Layer):
    """Normalises every token over its D numbers, in float32 under every dtype policy.

    Args:
        epsilon: float > 0, added to the variance.
    Call:
        x: <float>[..., D].
    Returns:
        <float>[..., D] in the compute dtype.
    """

    def __init__(self, epsilon, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, x_shape):
        # autocast=False: rounded to 16 bits, a gain near 1 would be off by up to 0.4%.
        size = (x_shape[-1],)
        self.gamma = self.add_weight(size, "ones", name="gamma", autocast=False)
        self.beta = self.add_weight(size, "zeros", name="beta", autocast=False)

    def call(self, x):
        rows = ops.reshape(x, (-1, x.shape[-1]))
        # A tensor of each weight: TensorFlow's custom gradients take no variables.
        gamma, beta = (ops.reshape(weight, (-1,)) for weight in (self.gamma, self.beta))
        weights = gamma, beta, ops.convert_to_tensor(self.epsilon, "float32")
        if is_compiled(rows):
            y = _compiled(rows, *weights)
        else:
            y, _ = _forward(ops.cast(rows, "float32"), *weights, mean_of=_mean)
        return ops.cast(ops.reshape(y, ops.shape(x)), self.compute_dtype)
