# SPDX-License-Identifier: Apache-2.0
"""A SavedModel that this project exported, by its signature of token ids."""

import numpy as np

from serving.engines.loaded import load_export


def load(folder, version="1"):
    """Returns Loaded of an export folder. folder: Path."""
    return load_export(folder, lambda: SavedModelEngine(folder / version))


class SavedModelEngine:
    max_rows = None

    def __init__(self, folder):
        import tensorflow as tf
        import tensorflow_text  # noqa: F401  (registers the operations of the tokenizer)

        # Kept, as variables go with the object that was loaded.
        self._loaded = tf.saved_model.load(str(folder))
        self._program = self._loaded.signatures["token_ids"]
        self._constant = tf.constant

    def run(self, features):
        inputs = {name: self._constant(each) for name, each in features.items()}
        outputs = self._program(**inputs)
        arrays = {name: output.numpy() for name, output in outputs.items()}
        return {name: each for name, each in arrays.items() if each.dtype == np.float32}
