# SPDX-License-Identifier: Apache-2.0
"""What the files of an ONNX export are called, and what they take. It imports no TensorFlow, so
that a server of such a file starts without it."""

import importlib

from common.errors import UserError

MODEL_FILE, INT8_FILE = "model.onnx", "model_int8.onnx"
INPUTS = ("input_ids", "input_mask", "segment_ids")


def require(package, purpose):
    """Imports an optional package, or says how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        name = package.split(".")[0]
        raise UserError(
            f"{purpose} needs the package {name}, which cannot be imported ({error}); "
            f"install it with: pip install {name}"
        ) from None
