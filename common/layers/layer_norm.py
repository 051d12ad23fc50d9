# SPDX-License-Identifier: Apache-2.0
"""Layer normalisation."""

import keras
from keras import ops

from common.kernels.layer_norm import normalize


class LayerNorm(keras.layers.Layer):
    """gamma * (x - mean) / sqrt(variance + epsilon) + beta, of every token over its D numbers.

    Ba et al. 2016 (arXiv:1607.06450, section 3.1); in float32 under every dtype policy.

    Args:
        epsilon: float > 0, added to the variance.
        use_beta: bool. Whether beta is a weight; else it is 0.
    Call:
        x: <float>[..., D].
    Returns:
        <float>[..., D] in the compute dtype.
    """

    def __init__(self, epsilon, use_beta=True, **kwargs):
        super().__init__(**kwargs)
        self.epsilon, self.use_beta = epsilon, use_beta

    def build(self, x_shape):
        # autocast=False: rounded to 16 bits, a gain near 1 would be off by up to 0.4%.
        size = (x_shape[-1],)
        self.gamma = self.add_weight(size, "ones", name="gamma", autocast=False)
        if self.use_beta:
            self.beta = self.add_weight(size, "zeros", name="beta", autocast=False)

    def call(self, x):
        # A tensor of each weight: TensorFlow's custom gradients take no variables.
        gamma = ops.reshape(self.gamma, (-1,))
        beta = ops.reshape(self.beta, (-1,)) if self.use_beta else ops.zeros_like(gamma)
        epsilon = ops.convert_to_tensor(self.epsilon, "float32")
        y = normalize(ops.reshape(x, (-1, x.shape[-1])), gamma, beta, epsilon)
        return ops.cast(ops.reshape(y, ops.shape(x)), self.compute_dtype)
