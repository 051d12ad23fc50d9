# SPDX-License-Identifier: Apache-2.0
"""What the files of an ONNX export are called, what they take, and ONNX Runtime, which runs them.
It imports no TensorFlow, so that a server of such a file starts without it."""

import importlib

from common.errors import UserError
from common.export.engine import Engine
from common.platform.machine import num_cores

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


class OnnxEngine(Engine):
    """An .onnx file by ONNX Runtime; without "probabilities", which a task computes itself.

    int8: one row a call. Activations of a call share a scale, so that beside other rows a row's
    answer would be another; and one row alone is computed at the full speed.
    """

    title = "ONNX Runtime"

    def __init__(self, path, num_streams=1):
        super().__init__(path, num_streams)
        onnxruntime = require("onnxruntime", "running an ONNX model")
        self.max_rows = 1 if path.name == INT8_FILE else None
        options = onnxruntime.SessionOptions()
        if num_streams > 1:  # a call of one thread is computed by that thread
            options.intra_op_num_threads = max(1, num_cores() // num_streams)
        # Threads that wait for each other sleep. Where others need the cores, too, such as the one
        # that reads requests, spinning halves the speed: 48 and 76 rows/s at a load of 3 a core.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        outputs = [each.name for each in self._session.get_outputs()]
        self._names = [name for name in outputs if name != "probabilities"]

    def run(self, features):
        inputs = {name: features[name] for name in INPUTS}
        return dict(zip(self._names, self._session.run(self._names, inputs), strict=True))
