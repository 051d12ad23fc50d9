# SPDX-License-Identifier: Apache-2.0
"""Where the rows of a batch stand when several share one long row, computed from lengths alone.

`packing: packed` keeps the batches random, as rows of like length (`epoch_plan.py`) are not, and
leaves padding only at the ends of the long rows. `common/layers/packed.py` is how the network
keeps the rows apart.
"""

import numpy as np

from input.epoch_plan import EpochPlan, choose_bucket_lengths

# To make a program for another shape takes as long as to compute about so many batches with it:
# MiniLM and BERT-base, batches of 32, on two cores.
BATCHES_PER_PROGRAM = 20


def pack(lengths, room):
    """Packs each batch into as few rows of `room` tokens as first-fit decreasing finds.

    Johnson et al. 1974 (SIAM J. Computing 3): the longest first, each into the first row that has
    room for it; at most 11/9 of the fewest rows, plus one. All batches are packed side by side.

    Args:
        lengths: int [N, B], tokens of the examples of N batches, each from 1 to room, or 0: an
            example that only fills up a batch, which stands first and has no token.
        room: int.
    Returns:
        order: int [N, B], the examples of each batch as they stand one behind the other.
        starts: int [N, B], increasing (but for filling): where each of them begins, in tokens from
            the first row's beginning.
        num_rows: int [N], rows that each batch takes.
    """
    num_batches, batch_size = lengths.shape
    batch = np.arange(num_batches)
    decreasing = np.argsort(-lengths, axis=1, kind="stable")
    used = np.zeros((num_batches, batch_size), np.int64)  # tokens in each row
    starts = np.empty_like(used)
    for example in decreasing.T:  # of every batch the longest, then the second, ...
        length = lengths[batch, example]
        row = (used + length[:, None] <= room).argmax(axis=1)  # the first that has room
        starts[batch, example] = row * room + used[batch, row]
        used[batch, row] += length
    starts[lengths == 0] = -1  # before the first
    order = np.argsort(starts, axis=1, kind="stable")
    starts = np.maximum(starts, 0)
    return order, np.take_along_axis(starts, order, axis=1), (used > 0).sum(axis=1)


def round_up(numbers, choices):
    """The smallest choice that is at least as large, or the number itself above them all.

    numbers: int [N]; choices: increasing ints. Returns int [N].
    """
    choices = np.asarray(choices)
    place = np.searchsorted(choices, numbers)
    return np.where(place < len(choices), choices[np.minimum(place, len(choices) - 1)], numbers)


class PackedPlan:
    """The packed batches of every epoch.

    Args:
        plan: EpochPlan. Its rows, batch size and seed are taken, not its buckets.
        num_choices: int > 0. How many numbers of long rows a batch may have: as many programs.
    """

    def __init__(self, plan, num_choices):
        self.lengths, self.room = plan.row_lengths, int(plan.row_lengths.max())
        self.random = EpochPlan(self.lengths, plan.batch_size, [self.room], plan.shuffle, plan.seed)
        # Of the first epoch: the same at whichever step a run begins. A batch of a later one that
        # needs more has a number of its own.
        *_, num_rows = pack(self.lengths[self.random.epoch(0)[0]], self.room)
        self.choices = choose_bucket_lengths(num_rows, num_choices)

    def steps(self, first_step, last_step):
        """Returns the batches of first_step <= step < last_step.

        Returns:
            rows: int32 [steps, B], in the order in which they stand in the long rows.
            starts: int32 [steps, B], of `pack`.
            shapes: int32 [steps, 2], how many long rows there are, and their tokens.
        """
        rows, _ = self.random.steps(first_step, last_step)
        order, starts, num_rows = pack(self.lengths[rows], self.room)
        num_rows = round_up(num_rows, self.choices)
        shapes = np.stack([num_rows, np.full_like(num_rows, self.room)], axis=1)
        rows = np.take_along_axis(rows, order, axis=1)
        return rows, starts.astype(np.int32), shapes.astype(np.int32)


def pack_every_row(lengths, batch_size):
    """Packs each row of a split into one of as few batches as hold them, nearly all of one shape.

    From the longest to the shortest, rows are dealt to the batches there and back, so that all have
    about the same number of tokens, and one program computes them.

    Args:
        lengths: int [N], tokens of each row; N > 0.
        batch_size: int.
    Returns:
        rows, starts: int32 [steps, B], as of `PackedPlan.steps`; -1 for filling, first in a batch.
        shapes: int32 [steps, 2], at most two different ones.
    """
    steps, room = -(-len(lengths) // batch_size), int(lengths.max())
    dealt = np.full(steps * batch_size, -1)
    dealt[: len(lengths)] = np.argsort(-lengths, kind="stable")
    dealt = dealt.reshape(batch_size, steps)
    dealt[1::2] = dealt[1::2, ::-1]
    rows = dealt.T
    order, starts, num_rows = pack(np.where(rows < 0, 0, lengths[rows]), room)
    rounded = round_up(num_rows, choose_bucket_lengths(num_rows, 2))
    if (num_rows.max() - rounded).sum() < BATCHES_PER_PROGRAM * num_rows.max():
        rounded = np.full_like(num_rows, num_rows.max())
    shapes = np.stack([rounded, np.full_like(num_rows, room)], axis=1)
    rows = np.take_along_axis(rows, order, axis=1)
    return rows.astype(np.int32), starts.astype(np.int32), shapes.astype(np.int32)


def num_products(shapes, hidden_size):
    """What an encoder layer multiplies for batches of shapes [steps, 2], up to a common factor.

    Of a token's 24 D^2 + 4 T D: its own products, and its attention to a row of T.
    """
    rows, length = np.asarray(shapes, np.float64).T
    return (rows * length * (6 * hidden_size + length)).sum()
