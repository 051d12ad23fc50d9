# SPDX-License-Identifier: Apache-2.0
"""Export for LiteRT (TensorFlow Lite): token ids in, numbers out, any batch size and length.

TensorFlow's own converter makes the file from the network as it is, with the operations of LiteRT
alone: none of TensorFlow's, which a phone lacks. Texts and label names are beside it.
"""

import contextlib
import warnings

from common.BaseModel import PREDICT
from common.checkpoints.small_files import write_json
from common.checkpoints.vocab import write_vocab
from common.export.decoder import decoder_usage, write_decoder
from common.export.engine import Engine
from common.export.tokenizing import tokenizing

MODEL_FILE, INT8_FILE = "model.tflite", "model_int8.tflite"
LABELS_FILE, SETTINGS_FILE = "labels.txt", "settings.json"
INPUTS = ("input_ids", "input_mask", "segment_ids")
LOADING = "from ai_edge_litert.interpreter import Interpreter"
RUNNING = f"""network = Interpreter("{MODEL_FILE}").get_signature_runner()
outputs = network(**rows.features)"""


def check(params, quantize):
    """Any network can be written, with either weights."""


def write(classifier, folder):
    """Writes model.tflite, model_int8.tflite where asked for, and what texts and answers need."""
    import tensorflow as tf

    classifier.check_size("a LiteRT file")
    model, module = classifier.model, tf.Module(name="classifier")
    module.weights = {name: w.value for name, w in model.weights_by_name().items()}

    @tf.function(autograph=False)
    def from_ids(**features):
        outputs = model.export_outputs(model.build_model(features, PREDICT))
        # LiteRT has no operations on strings; the names of labels are in a file.
        return {name: each for name, each in outputs.items() if each.dtype != tf.string}

    ids = {name: tf.TensorSpec([None, None], tf.int32, name) for name in INPUTS}
    function = from_ids.get_concrete_function(**ids)
    for name in (MODEL_FILE, INT8_FILE) if classifier.quantize == "int8" else (MODEL_FILE,):
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
        if name == INT8_FILE:  # weights in 8 bits, activations quantized when it runs
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        (folder / name).write_bytes(converter.convert())
    write_vocab(folder, classifier.vocab)
    if classifier.label_names:
        lines = "".join(f"{name}\n" for name in classifier.label_names)
        (folder / LABELS_FILE).write_text(lines, "utf-8", newline="\n")
    write_json(folder / SETTINGS_FILE, classifier.settings)
    write_decoder(classifier, folder)
    return []


class TfliteEngine(Engine):
    """A .tflite file by LiteRT, which computes one call at a time."""

    title = "LiteRT"

    def __init__(self, path, num_threads=None):
        """num_threads: int; None is all."""
        super().__init__(path)
        self._network = make_interpreter(path, num_threads).get_signature_runner()

    def run(self, features):
        return self._network(**{name: features[name] for name in INPUTS})


def open_engine(path):
    """Returns the Engine that scores a file."""
    return TfliteEngine(path)


def make_interpreter(path, num_threads=None):
    """Returns an interpreter of a .tflite file: that of ai-edge-litert, or else TensorFlow's."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow as tf

        Interpreter = tf.lite.Interpreter
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        # TensorFlow's announces its removal, and the version is pinned.
        warnings.filterwarnings("ignore", message=".*tf.lite.Interpreter is deprecated")
        return Interpreter(str(path), num_threads=num_threads)


def usage(classifier):
    shapes = classifier.model.onnx_outputs()
    given = "; ".join(f"`{name}`, `[{', '.join(map(str, axes))}]`" for name, axes in shapes.items())
    names = ", ".join(shapes)
    read = ", ".join(f'outputs["{name}"]' for name in shapes)
    int8 = f"""
`{INT8_FILE}` is the same network with 8-bit weights: a quarter of the size, faster, and less exact.
"""
    labels = f", `{LABELS_FILE}` the label names" if classifier.label_names else ""
    return f"""
`{MODEL_FILE}` has one signature. It takes {", ".join(f"`{name}`" for name in INPUTS)} (int32,
`[batch, tokens]`, both free; `input_mask` is {classifier.mask_meaning}) and gives, in float32,
{given}. `{classifier.vocab_name}` has the vocabulary{labels}, `{SETTINGS_FILE}` what
a program that makes rows must know.
{int8 if classifier.quantize == "int8" else ""}
In this folder, with `pip install ai-edge-litert tokenizers`:

```python
import numpy as np
{LOADING}
{tokenizing(classifier)}
outputs = Interpreter("{MODEL_FILE}").get_signature_runner()(**features)
{names} = {read}
{classifier.answer.reading["ids"]}
```
{decoder_usage(classifier, LOADING, RUNNING)}"""
