# SPDX-License-Identifier: Apache-2.0
"""Fresh weights: values of their own for every weight, from one seed."""

import contextlib

import keras
import numpy as np

# `part` of FreshWeights, for each group of weights; those of the head are the last two.
TABLES, WORDS, LAYERS, PROJECTION, POOLER, CLASSIFIER = 0, 1, 2, 5, 3, 4
_MAX_SEED = 2**31 - 1
_STRIDE = 10_007  # a prime above any number of weights


_is_backbone_loaded = False


@contextlib.contextmanager
def backbone_is_loaded():
    """Within it the backbone of a network begins with zeros, as a checkpoint is to fill it.

    Drawing the numbers of BERT-base takes seconds, and `load_weights` either replaces all of them
    or refuses the checkpoint. The head is drawn as ever: a checkpoint need not have one.
    """
    global _is_backbone_loaded
    _is_backbone_loaded = True
    try:
        yield
    finally:
        _is_backbone_loaded = False


class FreshWeights(keras.initializers.Initializer):
    """A Keras initializer that draws anew for every weight it is asked for.

    Keras' own gives all weights of one shape the same values when several layers share the object:
    query, key and value would begin equal, and every encoder layer like the first.

    Args:
        spec: {"class_name", "config"} or a name, as `keras.initializers.get` takes it.
        seed: int >= 0, or None: drawn from Python's random numbers, as Keras does.
        part: int >= 0. Objects of one seed and other parts draw other values.
    Call:
        shape, dtype: of the weight. Its values depend on seed, part and how many weights were asked
            for before.
    Returns:
        tensor [shape].
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
        if _is_backbone_loaded and self.part not in (POOLER, CLASSIFIER):
            return keras.ops.zeros(shape, dtype)
        return type(self.first).from_config(config)(shape, dtype)
