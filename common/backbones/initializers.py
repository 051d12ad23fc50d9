# SPDX-License-Identifier: Apache-2.0
"""Fresh weights: every weight draws different values from one seed."""

import contextlib

import keras
import numpy as np

# `part` of FreshWeights, for each group of weights.
TABLES, WORDS, LAYERS, PROJECTION = 0, 1, 2, 5
POOLER, CLASSIFIER, MASKED_LM, NEXT_SENTENCE, DISTILLATION, DISCRIMINATOR = 3, 4, 6, 7, 8, 9
HEADS = POOLER, CLASSIFIER, MASKED_LM, NEXT_SENTENCE, DISTILLATION, DISCRIMINATOR
_MAX_SEED = 2**31 - 1
_STRIDE = 10_007  # a prime above any number of weights

_is_backbone_loaded = False


@contextlib.contextmanager
def backbone_is_loaded():
    """A context manager in which a network's backbone starts with zeros, for a checkpoint to fill.

    Drawing the numbers of BERT-base takes seconds, and `load_weights` either replaces all of them
    or refuses the checkpoint. The head is drawn: a checkpoint need not have one.
    """
    global _is_backbone_loaded
    _is_backbone_loaded = True
    try:
        yield
    finally:
        _is_backbone_loaded = False


class FreshWeights(keras.initializers.Initializer):
    """A Keras initializer that draws different values at every call.

    Keras' initializers give all weights of one shape the same values when layers share the object:
    query, key and value would start equal, and so would all encoder layers.

    Values depend on seed, part and the number of earlier calls.

    Args:
        spec: {"class_name", "config"} or a name, as `keras.initializers.get` takes it.
        seed: int >= 0, or None: drawn from Python's random numbers, as in Keras.
        part: int >= 0. Objects with one seed and different parts draw different values.
    """

    def __init__(self, spec, seed=None, part=0):
        self.first = keras.initializers.get(spec)
        self.seed = getattr(self.first, "seed", 0)  # a constant has none
        if seed is not None:
            self.seed = int(np.random.SeedSequence([seed, part]).generate_state(1)[0])
        self.part, self.count = part, 0

    def clone(self):
        raise NotImplementedError("share this object between layers; a clone would repeat it")

    def __call__(self, shape, dtype=None):
        config = self.first.get_config()
        if "seed" in config:
            config["seed"] = (self.seed + _STRIDE * self.count) % _MAX_SEED
        self.count += 1
        if _is_backbone_loaded and self.part not in HEADS:
            return keras.ops.zeros(shape, dtype)
        return type(self.first).from_config(config)(shape, dtype)
