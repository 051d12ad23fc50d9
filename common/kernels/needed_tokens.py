# SPDX-License-Identifier: Apache-2.0
"""Which token vectors a head reads; a backbone computes no others in its last layer."""

from dataclasses import dataclass
from typing import Any

from keras import ops

FIRST_TOKEN, ALL_TOKENS = "first token", "all tokens"


@dataclass(frozen=True)
class SomeTokens:
    """The tokens at some positions of each row, and the first token of each row if needed.

    Args:
        positions: <int32>[R, P], of each row of the features.
        num_first: how many first tokens are needed, int or <int32>[]: B, the number of rows of the
            batch (which is R, unless they are packed into R long ones); or None.
    """

    positions: Any
    num_first: Any = None

    @property
    def with_first(self):
        return self.num_first is not None

    def split(self, x):
        """<float>[1, B + R * P, D] -> first tokens <float>[B, D], None where none is needed; the
        others <float>[R * P, D]."""
        x = x[0]
        return (x[: self.num_first], x[self.num_first :]) if self.with_first else (None, x)


def tokens_at(x, positions):
    """<float>[R, T, ...] -> <float>[R, P, ...], of each row the tokens at its positions.

    A flat gather, with the offsets of the rows added to the positions.
    """
    num_rows, length, *rest = ops.shape(x)
    offsets = length * ops.expand_dims(ops.arange(num_rows, dtype="int32"), 1)
    return ops.take(ops.reshape(x, (-1, *rest)), positions + offsets, axis=0)
