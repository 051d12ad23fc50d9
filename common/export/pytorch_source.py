# SPDX-License-Identifier: Apache-2.0
"""Export as source code in PyTorch."""

import re

import numpy as np

from common.export.source import usage_of_source, write_source

TRAINING = """
It trains as any module does, with the dropout rates of `Geometry`; for a classifier:

```python
import torch

optimizer = torch.optim.AdamW(network.train().parameters(), 2e-5)
loss = torch.nn.functional.cross_entropy(network(features), torch.tensor([1]))
loss.backward()
optimizer.step()
```
"""
PARTS = {"kernel": "weight", "gamma": "weight", "beta": "bias"}


def check(params, quantize):
    """Any network can be written."""


def write(classifier, folder):
    """Writes the files of `write_source`. Returns notes."""
    from safetensors.numpy import save_file

    return write_source(classifier, folder, "torch_network.py", "torch", save_file, tensor_of)


def tensor_of(name, array):
    """Returns the name of a parameter of the network, and its value."""
    is_kernel = name.endswith("/kernel")
    if name.startswith("embeddings/") and name.endswith("_embeddings"):
        name += "/weight"
    name = re.sub(r"layer_(\d+)", r"layers/\1", name)
    name = name.replace("pooler/layer_norm", "pooler_layer_norm")
    parent, _, part = name.rpartition("/")
    name = f"{parent}/{PARTS.get(part, part)}".replace("/", ".")
    return name, np.ascontiguousarray(array.T) if is_kernel else array  # [out, in]


def usage(classifier):
    is_classifier = classifier.params.task == "classification"
    training = TRAINING if is_classifier else ""
    return usage_of_source(classifier, "PyTorch", "torch", training)
