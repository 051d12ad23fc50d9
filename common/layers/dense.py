# SPDX-License-Identifier: Apache-2.0
"""A dense layer whose product and bias are separate steps.

The bias is left to the loop that follows: in oneDNN a bfloat16 product with its bias takes up to
twice as long as the product alone.
"""

import keras
from keras import ops


class Dense(keras.layers.Dense):
    """Keras' dense layer of F units, whose caller adds the bias.

    kernel, bias: Keras variables <float32>[D, F] and [F], or None; `product` is in the compute
    dtype.
    """

    def __init__(self, units, use_bias, initializer, **kwargs):
        super().__init__(units, use_bias=use_bias, kernel_initializer=initializer, **kwargs)
        self.shared = None  # the SharedKernel, inside `share_kernels`
        self.rounded = None  # the kernel in 16 bits, inside `use_rounded`

    def add_weight(self, *args, **kwargs):
        return super().add_weight(*args, autocast=False, **kwargs)

    @property
    def bias_tensor(self):
        """<float32>[F], or None. Custom gradients take no variables."""
        return None if self.bias is None else ops.cast(self.bias, self.variable_dtype)

    def product(self, x):
        """<float>[N, D] -> <float>[N, F], the bias not added."""
        if self.shared is not None:
            return self.shared.multiply(x)
        kernel = self.kernel if self.rounded is None else self.rounded
        return ops.matmul(x, ops.cast(kernel, self.compute_dtype))
