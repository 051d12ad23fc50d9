# SPDX-License-Identifier: Apache-2.0
"""Layer normalisation and its written-out gradient, each a compiled loop.

Automatic differentiation of the formula would keep and read every intermediate result; the closed
form needs only the input, and a mean and a deviation for each token.
"""

from keras import ops

from common.kernels.fusion import fuse_with_gradient, is_compiled


def normalize(x, gamma, beta, epsilon):
    """gamma * (x - mean) / sqrt(variance + epsilon) + beta, of every row by itself.

    Ba et al. 2016 (arXiv:1607.06450, section 3.1).

    x: <float>[N, D]; gamma, beta: <float32>[D]; epsilon: <float32>[].
    Returns <float>[N, D]: in the dtype of x where it is compiled, else <float32>.
    """
    if is_compiled(x):
        return _compiled(x, gamma, beta, epsilon)
    return _forward(ops.cast(x, "float32"), gamma, beta, epsilon, mean_of=_mean)[0]


def _mean(x):
    """<float32>[N, D] -> [N, 1]."""
    return ops.mean(x, axis=-1, keepdims=True)


def _mean_by_product(x):
    """As `_mean`, for XLA, which would sum a row one number after the other."""
    return ops.matmul(x, ops.full((x.shape[-1], 1), 1.0 / x.shape[-1], dtype="float32"))


def _forward(x, gamma, beta, epsilon, mean_of=_mean_by_product):
    """Returns `normalize` in float32; and for the gradient mean and 1 / deviation, [N, 1]."""
    mean = mean_of(x)
    centred = x - mean
    scale = ops.rsqrt(mean_of(centred * centred) + epsilon)
    return centred * scale * gamma + beta, (mean, scale)


def _backward(upstream, statistics, x, gamma, beta, epsilon):
    """With z = (x - mean) / deviation and u the upstream gradient times gamma, the gradient of x is
    (u - mean(u) - z * mean(u * z)) / deviation."""
    del beta
    mean, scale = statistics
    z, u = (x - mean) * scale, upstream * gamma
    zero = ops.zeros_like(epsilon)
    of_x = (u - _mean_by_product(u) - z * _mean_by_product(u * z)) * scale
    return of_x, ops.sum(upstream * z, axis=0), ops.sum(upstream, axis=0), zero


_compiled = fuse_with_gradient(_forward, _backward)
