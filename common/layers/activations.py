# SPDX-License-Identifier: Apache-2.0
"""The elementwise functions that `model.encoder_nonlinearity` can name."""

from functools import partial

from keras import ops

from common.kernels.fusion import fuse, is_compiled


class Activation:
    """An elementwise function of <float>[...], of Keras operations.

    is_chain: bool. It is several operations, which `kernels/fusion.py` compiles into one loop.
    """

    def __init__(self, function, is_chain=False):
        self.function = lambda x, *bias: function(
            sum((ops.cast(each, x.dtype) for each in bias), start=x)
        )
        self.compiled = fuse(self.function) if is_chain else self.function

    def __call__(self, x, bias=None):
        """x: <float>[..., F]; bias: <float>[F], added to x first, or None."""
        inputs = (x,) if bias is None else (x, bias)
        return (self.compiled if is_compiled(x) else self.function)(*inputs)


def _gelu_erf(x):
    """`ops.gelu` would take TensorFlow's erfc, which in XLA takes twice as long as erf."""
    return 0.5 * x * (1.0 + ops.erf(x * 0.5**0.5))


# Hendrycks & Gimpel 2016 (arXiv:1606.08415) give both forms. Hugging Face's "gelu" is the erf
# form; google-research/bert modeling.py and the original Cerebras model take the tanh form. They
# differ by up to 4.7e-4, so a checkpoint needs the form that it was trained with.
ACTIVATIONS = {
    "gelu_erf": Activation(_gelu_erf, is_chain=True),
    "gelu_tanh": Activation(partial(ops.gelu, approximate=True), is_chain=True),
    "relu": Activation(ops.relu),
    "silu": Activation(ops.silu),
    "tanh": Activation(ops.tanh),
    "linear": Activation(lambda x: x),
}
