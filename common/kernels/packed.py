# SPDX-License-Identifier: Apache-2.0
"""Packed rows: several rows of a batch in one long row (`input/packing.py`).

A token attends to the tokens of its row only, as in Krell et al. 2021 (arXiv:2107.02027, section
3.2), and positions start at 0 in each row, so that a packed row has the same logits and gradients
as an unpacked one.
"""

from keras import ops


class PackedRows:
    """Where each of B rows lies among the tokens of R long rows of T tokens.

    Args:
        starts: <int32>[B], increasing from 0: the first of each row's tokens among all R * T.
        padding_mask: <int32>[R, T], 1 on real tokens.
    Attributes:
        positions: <int32>[R, T], of every token in its row.
        attention_mask: <int32>[R, T, T], 1 where the first token attends to the second.
    """

    def __init__(self, starts, padding_mask):
        self.starts, self.padding_mask = starts, padding_mask
        num_long_rows, self.length = ops.shape(padding_mask)
        place = ops.arange(num_long_rows * self.length, dtype="int32")
        # Padding counts as part of the row before it; no token attends to it.
        row = ops.searchsorted(starts, place, side="right") - 1  # [R * T]
        position = ops.minimum(place - ops.take(starts, row), self.length - 1)
        self.positions = ops.reshape(position, ops.shape(padding_mask))
        self.row_of_token = ops.reshape(row, ops.shape(padding_mask))  # [R, T]
        # `==` of symbolic tensors, as validation has them, compares which tensors they are.
        same = ops.equal(self.row_of_token[:, :, None], self.row_of_token[:, None, :])
        self.attention_mask = ops.cast(same, "int32") * padding_mask[:, None, :]

    def as_one_row(self, x):
        """<float>[R, T, D] -> <float>[1, R * T, D]."""
        return ops.reshape(x, (1, -1, ops.shape(x)[-1]))

    def first_tokens(self, x):
        """<float>[1, R * T, D] -> <float>[1, B, D], the first token of every row."""
        return ops.take(x, self.starts, axis=1)

    def first_tokens_mask(self):
        """<int32>[1, B, R * T], 1 where a row's first token attends."""
        row = ops.reshape(self.row_of_token, (1, 1, -1))
        number = ops.arange(ops.shape(self.starts)[0], dtype=row.dtype)
        is_same = ops.equal(row, number[None, :, None])
        return ops.cast(is_same, "int32") * ops.reshape(self.padding_mask, (1, 1, -1))

    def unpack(self, x):
        """<float>[R, T, D] -> <float>[B, T, D], and its padding_mask <int32>[B, T]."""
        place = self.starts[:, None] + ops.arange(self.length, dtype="int32")  # [B, T]
        positions = ops.reshape(self.positions, (-1,))
        place = ops.minimum(place, ops.shape(positions)[0] - 1)
        # After the end of a row come padding, the first token of the next row, or no more tokens.
        is_same = ops.equal(ops.take(positions, place), ops.arange(self.length, dtype="int32"))
        mask = ops.cast(is_same, "int32") * ops.take(ops.reshape(self.padding_mask, (-1,)), place)
        return ops.take(ops.reshape(x, (-1, ops.shape(x)[-1])), place, axis=0), mask
