# SPDX-License-Identifier: Apache-2.0
"""An ONNX file that this project exported, by OpenVINO: in bfloat16 where the processor has it."""

import threading

from common.export.engine import Engine
from common.export.onnx_files import INPUTS, require


class OpenVinoEngine(Engine):
    title = "OpenVINO"

    def __init__(self, path, num_streams=1):
        super().__init__(path, num_streams)
        openvino = require("openvino", "engine openvino")
        settings = {}
        if num_streams > 1:
            settings = {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": num_streams}
        self._compiled = openvino.Core().compile_model(str(path), "CPU", settings)
        outputs = {output.get_any_name(): output for output in self._compiled.outputs}
        self._outputs = {name: out for name, out in outputs.items() if name != "probabilities"}
        self._of_thread = threading.local()  # a request computes one call at a time

    def run(self, features):
        request = getattr(self._of_thread, "request", None)
        if request is None:
            request = self._of_thread.request = self._compiled.create_infer_request()
        found = request.infer({name: features[name] for name in INPUTS})
        # Copied: the next call writes into the same memory.
        return {name: found[output].copy() for name, output in self._outputs.items()}
