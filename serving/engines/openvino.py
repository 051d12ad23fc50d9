# SPDX-License-Identifier: Apache-2.0
"""An ONNX file that this project exported, by OpenVINO: in bfloat16 where the processor has it."""

from common.export.onnx_files import INPUTS, MODEL_FILE, require
from serving.engines.loaded import load_export


def load(folder):
    """Returns Loaded of an export folder. folder: Path."""
    return load_export(folder, lambda: OpenVinoEngine(folder / MODEL_FILE))


class OpenVinoEngine:
    max_rows = None

    def __init__(self, path):
        openvino = require("openvino", "engine openvino")
        self._compiled = openvino.Core().compile_model(str(path), "CPU")
        outputs = {output.get_any_name(): output for output in self._compiled.outputs}
        self._outputs = {name: out for name, out in outputs.items() if name != "probabilities"}
        self._request = self._compiled.create_infer_request()

    def run(self, features):
        found = self._request.infer({name: features[name] for name in INPUTS})
        # Copied: the next call writes into the same memory.
        return {name: found[output].copy() for name, output in self._outputs.items()}
