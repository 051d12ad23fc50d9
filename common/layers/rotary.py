# SPDX-License-Identifier: Apache-2.0
"""Rotary positions: queries and keys are turned by an angle that grows with their place."""

import numpy as np
from keras import ops

LOW = 1024  # places are LOW * high + low, each with a table of its own
MAX_PLACES = LOW * LOW


class RotaryPositions:
    """Turns each pair of numbers of a head, so that a dot product knows the distance of two tokens.

    Su et al. 2021 (arXiv:2104.09864, section 3.2.2), in the order of GPT-NeoX and transformers:
    number i makes a pair with i + d / 2. Shapes: B batch, H heads, T tokens, d head size.

    Only differences of places count. So tokens of packed rows take the places of their long row.

    Args:
        head_size: int, d, even.
        theta: float > 0, the base: pair i is turned by place / theta^(2i / d).
    Call:
        x: <float>[B, H, T, d].
        places: <int32>[T], [B, T] or [1, T] in [0, MAX_PLACES).
    Returns:
        <float>[B, H, T, d] in the dtype of x; the angles are exact to float32 at every place.
    """

    def __init__(self, head_size, theta):
        frequencies = float(theta) ** (-np.arange(0, head_size, 2) / head_size)  # [d / 2]
        # Float64, then float32: a float32 angle at place 10,000 would be off by 0.0005.
        self.tables = [
            [
                function(np.arange(LOW)[:, None] * step * frequencies).astype(np.float32)
                for function in (np.cos, np.sin)
            ]
            for step in (1, LOW)
        ]  # [low, high][cos, sin], each [LOW, d / 2]

    def angles(self, places):
        """Returns cosine and sine of the angles at places: <float32>[..., T, d / 2] each."""
        low, high = places % LOW, places // LOW
        (cos, sin), (cos_high, sin_high) = (
            [ops.take(ops.convert_to_tensor(table), which, axis=0) for table in tables]
            for tables, which in zip(self.tables, (low, high), strict=True)
        )
        return cos * cos_high - sin * sin_high, sin * cos_high + cos * sin_high

    def __call__(self, x, places):
        cos, sin = (ops.cast(each, x.dtype) for each in self.angles(places))
        if len(cos.shape) == 3:  # of every row, for every head
            cos, sin = ops.expand_dims(cos, 1), ops.expand_dims(sin, 1)
        first, second = ops.split(x, 2, axis=-1)
        return ops.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
