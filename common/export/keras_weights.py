# SPDX-License-Identifier: Apache-2.0
"""Export of the weights alone as Keras writes them, with what is needed to build the network."""

import yaml

from common.export.export import write_vocab
from common.export.model_card import params_text

WEIGHTS_FILE = "model.weights.h5"


def check(params, quantize):
    """Any network can be written."""


def write(classifier, folder):
    """Writes model.weights.h5, params.yaml and vocab.txt."""
    classifier.model.save_weights(folder / WEIGHTS_FILE)
    sections = yaml.safe_load(classifier.params.to_yaml())
    (folder / "params.yaml").write_text(params_text(sections), "utf-8", newline="\n")
    write_vocab(classifier, folder)
    return []


def usage(classifier):
    return """
It is for this project: give this folder as `--checkpoint_path`, to train from, to evaluate or to
predict. Or, for the network that `params.yaml` describes:

```python
model = make_model(params)  # model.py
model.load_weights("model.weights.h5")
```

A layer's group in the file is the path of the attribute that holds it, and `vars/0`, `vars/1` are
its kernel and bias (gamma and beta of a layer norm). Kernels are [in, out].
"""
