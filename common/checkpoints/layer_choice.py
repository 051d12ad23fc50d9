# SPDX-License-Identifier: Apache-2.0
"""A checkpoint with some of its layers: what a student of fewer layers begins with."""

import re
from dataclasses import replace

from common.checkpoints.names import geometry
from common.console import counted
from common.errors import UserError

LAYER = re.compile(r"encoder/layer_(\d+)/")


def with_layers(checkpoint, layers):
    """Returns the checkpoint with these encoder layers alone, in their order, and all the rest.

    Sanh et al. 2019 (arXiv:1910.01108, section 3): DistilBERT begins with every other layer.

    Args:
        checkpoint: Checkpoint.
        layers: tuple of int, from 0.
    Raises:
        UserError: it has no such layer.
    """
    shapes = {name: each.shape for name, each in checkpoint.weights.items()}
    checkpoint.close()
    number = geometry(shapes).get("num_hidden_layers", 0)
    absent = [layer for layer in layers if layer >= number]
    if absent:
        raise UserError(
            f"distillation.student_layers has {absent[0]}, but {checkpoint.path} has "
            f"{counted(number, 'layer')}, from 0 on; choose others"
        )
    note = f"of its {number} layers: {', '.join(map(str, layers))}"
    config = checkpoint.config | {
        "num_hidden_layers": len(layers),
        "notes": [*checkpoint.config.get("notes", ()), note],
    }
    return replace(checkpoint, config=config, layers=layers)


def chosen(weights, layers):
    """Returns {neutral name: tensor} of some layers, which are numbered from 0, and of the rest."""
    places = {str(layer): place for place, layer in enumerate(layers)}
    taken = {}
    for name, tensor in weights.items():
        match = LAYER.match(name)
        if match is None:
            taken[name] = tensor
        elif match[1] in places:
            taken[f"encoder/layer_{places[match[1]]}/{name[match.end() :]}"] = tensor
    return taken
