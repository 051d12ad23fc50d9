# SPDX-License-Identifier: Apache-2.0
"""Fresh weights: values of their own for every weight, from one seed."""

import keras
import numpy as np

_MAX_SEED = 2**31 - 1
_STRIDE = 10_007  # a prime above any number of weights


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
        self.count = 0

    def clone(self):
        raise NotImplementedError("share this object between layers; a clone would repeat it")

    def __call__(self, shape, dtype=None):
        config = self.first.get_config()
        if "seed" in config:
            config["seed"] = (self.seed + _STRIDE * self.count) % _MAX_SEED
        self.count += 1
        return type(self.first).from_config(config)(shape, dtype)
