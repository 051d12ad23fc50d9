# SPDX-License-Identifier: Apache-2.0
"""Which parts of a network keep the weights they were given: `model.freeze`."""

FREEZABLE = ("embeddings", "encoder", "pooler")


def freeze(model, names):
    """Takes weights out of `model.trainable_weights`; dropout there stays as in training.

    Args:
        model: BertClassifierModel, with `embeddings`, `encoder.layers` and `pooler`.
        names: sequence of str: those of FREEZABLE, and `layers:N`, the first N encoder layers.
    """
    for name in names:
        part, _, count = name.partition(":")
        if part == "layers":
            for layer in model.encoder.layers[: int(count)]:
                layer.trainable = False
        else:
            getattr(model, part).trainable = False
