# SPDX-License-Identifier: Apache-2.0
"""What `--export_format` takes: name -> row of the table of formats."""

from common.checkpoints.formats import FORMATS, Format

ROOM = "common.export"
EXPORT_FORMATS = {
    row.export_name: row
    for row in (
        Format("saved_model", "TensorFlow SavedModel", export_name="saved_model", room=ROOM),
        *FORMATS.values(),
        Format("onnx", "ONNX", export_name="onnx", room=ROOM, quantizations=("int8",)),
        Format("keras_source", "Keras source code", export_name="keras_source", room=ROOM),
        Format("pytorch_source", "PyTorch source code", export_name="pytorch_source", room=ROOM),
        Format("tflite", "LiteRT", export_name="tflite", room=ROOM, quantizations=("int8",)),
    )
    if row.export_name is not None
}
