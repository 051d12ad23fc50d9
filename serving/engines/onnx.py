# SPDX-License-Identifier: Apache-2.0
"""An ONNX file that this project exported, by ONNX Runtime; float32, or int8."""

from common.export.onnx_files import INPUTS, INT8_FILE, MODEL_FILE, require
from serving.engines.loaded import load_export


def load(folder, is_int8=False):
    """Returns Loaded of an export folder. folder: Path."""
    path = folder / (INT8_FILE if is_int8 else MODEL_FILE)
    return load_export(folder, lambda: OnnxEngine(path, is_int8))


class OnnxEngine:
    """int8: one row a call. Activations of a call share a scale, so that beside other rows a row's
    answer would be another; and one row alone is computed at the full speed."""

    def __init__(self, path, is_int8):
        onnxruntime = require("onnxruntime", "serving an ONNX model")
        self.max_rows = 1 if is_int8 else None
        options = onnxruntime.SessionOptions()
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
