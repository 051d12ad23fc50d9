# SPDX-License-Identifier: Apache-2.0
"""Rows that share longer ones (`input/packing.py`): what keeps them apart in the network.

A token attends to tokens of its own row only, as in Krell et al. 2021 (arXiv:2107.02027, section
3.2), and positions begin anew with each row, so that every row has the logits and the gradients
that it has on a line of its own.
"""

from keras import ops


class PackedRows:
    """Where each of B rows is among the tokens of R long ones, of T tokens each.

    Args:
        starts: <int32>[B], increasing from 0: where among the R * T tokens each row begins.
        padding_mask: <int32>[R, T], 1 on real tokens.
    Attributes:
        positions: <int32>[R, T], of every token in its own row.
        attention_mask: <int32>[R, T, T], 1 where the first token attends to the second.
    """

    def __init__(self, starts, padding_mask):
        self.starts, self.padding_mask = starts, padding_mask
        num_long_rows, self.length = ops.shape(padding_mask)
        place = ops.arange(num_long_rows * self.length, dtype="int32")
        # Padding belongs to the row before it; it is never attended to.
        row = ops.searchsorted(starts, place, side="right") - 1  # [R * T]
        position = ops.minimum(place - ops.take(starts, row), self.length - 1)
        self.positions = ops.reshape(position, ops.shape(padding_mask))
        self.row_of_token = ops.reshape(row, ops.shape(padding_mask))  # [R, T]
        same = self.row_of_token[:, :, None] == self.row_of_token[:, None, :]
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
        own = row == ops.arange(ops.shape(self.starts)[0], dtype=row.dtype)[None, :, None]
        return ops.cast(own, "int32") * ops.reshape(self.padding_mask, (1, 1, -1))

    def unpack(self, x):
        """Gives every row a line of its own again.

        x: <float>[R, T, D].
        Returns <float>[B, T, D], and its padding_mask <int32>[B, T].
        """
        place = self.starts[:, None] + ops.arange(self.length, dtype="int32")  # [B, T]
        positions = ops.reshape(self.positions, (-1,))
        place = ops.minimum(place, ops.shape(positions)[0] - 1)
        # Beyond a row's end comes padding, or the next row's first token, or the end of all.
        is_own = ops.take(positions, place) == ops.arange(self.length, dtype="int32")
        mask = ops.cast(is_own, "int32") * ops.take(ops.reshape(self.padding_mask, (-1,)), place)
        return ops.take(ops.reshape(x, (-1, ops.shape(x)[-1])), place, axis=0), mask
