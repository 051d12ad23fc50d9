# SPDX-License-Identifier: Apache-2.0
"""Layer-wise decay of the learning rate. Free of frameworks, for the CS twin."""

import re

_LAYER = re.compile(r"encoder/layer_(\d+)/")


def layer_rate_factor(name, decay, num_layers):
    """Returns the factor on the learning rate of a weight: decay^(layers between it and the top).

    The numbering is that of BEiT's fine-tuning (microsoft/unilm beit/optim_factory.py): classifier,
    pooler and everything after the encoder 0, encoder layer i of L: L - i, embeddings L + 1.
    google-research/electra has one more step below the head.

    Args:
        name: str, neutral name of the weight.
        decay: float in (0, 1].
        num_layers: int, L.
    """
    if match := _LAYER.match(name):
        return decay ** (num_layers - int(match[1]))
    return decay ** (num_layers + 1) if name.startswith("embeddings/") else 1.0
