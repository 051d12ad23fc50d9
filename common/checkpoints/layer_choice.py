# SPDX-License-Identifier: Apache-2.0
"""A checkpoint with some of its layers: what a student of fewer layers begins with."""

import re
from dataclasses import replace

from common.checkpoints.names import geometry
from common.console import counted
from common.errors import UserError
from common.params.families import BERT, FAMILIES, ROTARY

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
    family = FAMILIES[checkpoint.config.get("backbone") or BERT]
    number = geometry(shapes).get("num_hidden_layers", 0)
    if family.shares_layers:  # the weights of one, which is computed so many times
        number = checkpoint.config.get("num_hidden_layers") or number
    absent = [layer for layer in layers if layer >= number]
    if absent:
        raise UserError(
            f"distillation.student_layers has {absent[0]}, but {checkpoint.path} has "
            f"{counted(number, 'layer')}, from 0 on; choose others"
        )
    notes = [f"of its {counted(number, 'layer')}: {', '.join(map(str, layers))}"]
    if family.is_rotary:
        notes += notes_on_reach(checkpoint.config, layers)
    config = checkpoint.config | {
        "num_hidden_layers": len(layers),
        "notes": [*checkpoint.config.get("notes", ()), *notes],
    }
    return replace(checkpoint, config=config, layers=None if family.shares_layers else layers)


def notes_on_reach(config, layers):
    """Says which layers attend otherwise in their new places: list of str. Of the network's layers,
    every n-th attends to all tokens."""
    every = config.get("global_attention_every") or ROTARY["global_attention_every"]
    moved = [n for place, n in enumerate(layers) if (n % every == 0) != (place % every == 0)]
    if not moved:
        return []
    return [
        f"{', '.join(map(str, moved))} attend to other tokens than in the teacher: one layer of "
        f"every {every} attends to all, the others within a window"
    ]


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
