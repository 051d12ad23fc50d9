# SPDX-License-Identifier: Apache-2.0
"""Freezing: parts of a network whose weights are not trained (`model.freeze`)."""


def freeze(model, names):
    """Takes weights out of `model.trainable_weights`; dropout is drawn in frozen layers too.

    Args:
        model: BaseModel.
        names: sequence of str: attributes of the model (`embeddings`, `encoder`, `pooler`), and
            `layers:N`, the first N layers of the encoder.
    """
    for name in names:
        part, _, count = name.partition(":")
        if part == "layers":
            for layer in model.encoder.layers[: int(count)]:
                layer.trainable = False
        else:
            getattr(model, part).trainable = False
