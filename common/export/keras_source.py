# SPDX-License-Identifier: Apache-2.0
"""Export as source code in Keras, which runs with TensorFlow, JAX and PyTorch."""

from common.export.source import usage_of_source, write_source

TRAINING = """
It trains as any Keras model does, with the dropout rates of `Geometry`; for a classifier:

```python
import keras
import numpy as np

loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
network.compile(keras.optimizers.AdamW(2e-5), loss)
network.fit(features, np.array([1]))
```
"""


def check(params, quantize):
    """Any network can be written."""


def write(classifier, folder):
    """Writes the files of `write_source`. Returns notes."""
    from safetensors.numpy import save_file

    library = "keras (with TensorFlow, JAX or PyTorch)"
    return write_source(classifier, folder, "keras_network.py", library, save_file, tensor_of)


def tensor_of(name, array):
    """Returns the path of a variable below the network, and its value."""
    if name.startswith("embeddings/") and name.endswith("_embeddings"):
        name += "/embeddings"
    return name.replace("pooler/layer_norm", "pooler_layer_norm"), array


def usage(classifier):
    is_classifier = classifier.params.task == "classification"
    training = TRAINING if is_classifier else ""
    return usage_of_source(classifier, "Keras", "keras tensorflow", training)
