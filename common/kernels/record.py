# SPDX-License-Identifier: Apache-2.0
"""What the layers of an encoder compute of a batch, for a loss that reads it: a distillation's."""

import contextlib
from dataclasses import dataclass, field

from keras import ops


@dataclass(eq=False)
class Record:
    """Gathers what layers compute, in the order of their calls: layer after layer, and of each the
    streams of a batch one after the other.

    Shapes: R rows, T tokens, D hidden size, H heads, d = D / H.
    """

    inputs: list = field(default_factory=list)  # <float>[R, T, D], of each call
    outputs: list = field(default_factory=list)  # <float>[R, T, D]
    masks: list = field(default_factory=list)  # the attention_mask of the encoder, <int32>
    heads: list = field(default_factory=list)  # (query, scaled; key; value), <float>[R, H, T, d]

    def add_layer(self, x, mask, output):
        self.inputs.append(x)
        self.masks.append(mask)
        self.outputs.append(output)

    def hidden_states(self, num_layers):
        """Returns <float>[R, T, D] of the embeddings and of each layer: list of num_layers + 1."""
        first = self.inputs[: len(self.inputs) // num_layers]
        return [_join(first), *map(_join, self._of_layers(self.outputs, num_layers))]

    def heads_of(self, layer, num_layers):
        """Returns query (scaled), key and value of a layer, <float>[R, H, T, d]."""
        parts = self._of_layers(self.heads, num_layers)[layer]
        return [_join(each) for each in zip(*parts, strict=True)]

    def attention_mask(self, num_layers):
        """Returns the mask of all rows, <int32>[R, T] or [R, T, T]."""
        return _join(self.masks[: len(self.masks) // num_layers])

    def _of_layers(self, values, num_layers):
        number = len(values) // num_layers  # of streams
        return [values[i * number : (i + 1) * number] for i in range(num_layers)]


def _join(parts):
    return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=0)


@contextlib.contextmanager
def recorded(backbone):
    """A context manager that gives a Record of what the layers of a Backbone compute within."""
    record = Record()
    layers = dict.fromkeys(backbone.encoder.layers)  # some families have one layer several times
    parts = [backbone.layer_stack, *(layer.attention for layer in layers)]
    for part in parts:
        part.record = record
    try:
        yield record
    finally:
        for part in parts:
            part.record = None
