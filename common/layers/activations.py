# SPDX-License-Identifier: Apache-2.0
"""The elementwise functions a config can name under `model.encoder_nonlinearity`."""

from functools import partial

from keras import ops

from common.layers.fusion import fuse

# Hendrycks & Gimpel 2016 (arXiv:1606.08415) give both forms. Hugging Face's "gelu" is the erf
# form; google-research/bert modeling.py and the original Cerebras model take the tanh form. They
# differ by up to 4.7e-4, so a checkpoint must be run with the form it was trained with.
ACTIVATIONS = {
    "gelu_erf": fuse(partial(ops.gelu, approximate=False)),
    "gelu_tanh": fuse(partial(ops.gelu, approximate=True)),
    "relu": ops.relu,
    "silu": ops.silu,
    "tanh": ops.tanh,
    "linear": lambda x: x,
}
