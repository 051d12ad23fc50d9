# SPDX-License-Identifier: Apache-2.0
"""A SavedModel that this project exported, by its signature of token ids."""

import numpy as np

from common.export.engine import Engine
from common.platform.quiet_imports import import_once_quietly


class SavedModelEngine(Engine):
    """path: Path of the version's folder."""

    title = "TensorFlow's SavedModel"

    def __init__(self, path, num_streams=1):
        super().__init__(path, num_streams)
        import_once_quietly()
        import tensorflow as tf
        import tensorflow_text  # noqa: F401  (registers the operations of the tokenizer)

        # Kept, as variables go with the object that was loaded.
        self._loaded = tf.saved_model.load(str(path))
        self._program = self._loaded.signatures["token_ids"]
        self._constant = tf.constant

    def run(self, features):
        inputs = {name: self._constant(each) for name, each in features.items()}
        outputs = self._program(**inputs)
        arrays = {name: output.numpy() for name, output in outputs.items()}
        return {name: each for name, each in arrays.items() if each.dtype == np.float32}
