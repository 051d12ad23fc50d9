# SPDX-License-Identifier: Apache-2.0
"""Where the rows of a batch stand when several share one long row, computed from lengths alone.

`packing: packed` keeps the batches random, as rows of like length (`epoch_plan.py`) are not, and
leaves padding only at the ends of the long rows. `common/kernels/packed.py` is how the network
keeps the rows apart.
"""

import math

import numpy as np

from input.epoch_plan import BalancedPlan, EpochPlan, choose_bucket_lengths

# To make a program for another shape takes as long as to compute about so many batches with it:
# MiniLM and BERT-base, batches of 32, on two cores.
BATCHES_PER_PROGRAM = 20
MAX_TRIED = 200  # batches: a hundredth of a second
# MiniLM's, as larger networks spend less on attention; a third of it, as softmax and dropout of
# the probabilities, there and back, take twice as long as the products of attention.
HIDDEN_SIZE = 384 / 3


def pack(lengths, num_rows):
    """Packs each batch into long rows that are about equally full.

    Graham 1969 (SIAM J. Applied Mathematics 17, "LPT"): the longest first, each into the emptiest
    row; the fullest has at most 4/3 of what the best packing has in its. All batches are packed
    side by side.

    Args:
        lengths: int [N, B], tokens of the examples of N batches, each at least 1, or 0: an example
            that only fills up a batch, which stands first and has no token.
        num_rows: int > 0.
    Returns:
        order: int [N, B], the examples of each batch as they stand one behind the other.
        row, offset: int [N, B], where each of them stands; 0, 0 for filling.
        room: int [N], tokens in the fullest row of each batch.
    """
    num_batches, batch_size = lengths.shape
    batch = np.arange(num_batches)
    decreasing = np.argsort(-lengths, axis=1, kind="stable")
    used = np.zeros((num_batches, num_rows), np.int64)  # tokens in each row
    row, offset = (np.empty((num_batches, batch_size), np.int64) for _ in range(2))
    for example in decreasing.T:  # of every batch the longest, then the second, ...
        length = lengths[batch, example]
        emptiest = used.argmin(axis=1)
        row[batch, example] = np.where(length > 0, emptiest, 0)
        offset[batch, example] = np.where(length > 0, used[batch, emptiest], 0)
        used[batch, emptiest] += length
    place = np.where(lengths > 0, row * (used.max() + 1) + offset, -1)
    order = np.argsort(place, axis=1, kind="stable")
    row, offset = (np.take_along_axis(array, order, axis=1) for array in (row, offset))
    return order, row, offset, used.max(axis=1)


def choose_num_rows(lengths, room_of=np.mean):
    """Returns how many long rows to pack batches into, for the least to compute.

    Few long ones are the fuller, and in many short ones a token is compared with fewer others. One,
    or an even number, so that two streams (`runconfig.num_streams`) compute equally much.

    Args:
        lengths: int [N, B], of `pack`. The first MAX_TRIED batches are tried.
        room_of: int [N] -> the tokens of a long row, from those that each batch needs.
    """
    lengths = lengths[:MAX_TRIED]
    most = math.ceil(lengths.sum(axis=1).mean() / lengths.max())
    return min(
        (1, *range(2, most + 2, 2)),
        key=lambda rows: num_products([[rows, room_of(pack(lengths, rows)[-1])]], HIDDEN_SIZE),
    )


def choose_lengths(room, most):
    """Returns increasing lengths of long rows, `most` at most: as many as are worth a program each.

    room: int [N], the tokens that a long row of each batch needs.
    """
    choices = [choose_bucket_lengths(room, number) for number in range(1, most + 1)]

    def tokens(lengths):
        return round_up(room, lengths).sum() + len(lengths) * BATCHES_PER_PROGRAM * room.max()

    return min(choices, key=tokens)


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
        num_choices: int > 0. How many lengths the long rows may have: as many programs.
    """

    def __init__(self, plan, num_choices):
        self.lengths = plan.row_lengths
        if plan.shuffle:
            self.batches = BalancedPlan(self.lengths, plan.batch_size, plan.seed)
        else:
            longest = [int(self.lengths.max())]
            self.batches = EpochPlan(self.lengths, plan.batch_size, longest, shuffle=False)
        # Of the first epoch: the same at whichever step a run begins. A batch of a later one that
        # needs more has a length of its own.
        lengths = self.lengths[self.batches.epoch(0)[0]]
        self.num_rows = choose_num_rows(lengths)
        self.choices = choose_lengths(pack(lengths, self.num_rows)[-1], num_choices)

    def steps(self, first_step, last_step):
        """Returns the batches of first_step <= step < last_step.

        Returns:
            rows: int32 [steps, B], in the order in which they stand in the long rows.
            starts: int32 [steps, B], increasing (but for filling): where each of them begins, in
                tokens from the first long row's beginning.
            shapes: int32 [steps, 2], how many long rows there are, and their tokens.
        """
        rows, _ = self.batches.steps(first_step, last_step)
        packed = pack(self.lengths[rows], self.num_rows)
        return _placed(rows, packed, self.num_rows, round_up(packed[-1], self.choices))


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
    steps = -(-len(lengths) // batch_size)
    dealt = np.full(steps * batch_size, -1)
    dealt[: len(lengths)] = np.argsort(-lengths, kind="stable")
    dealt = dealt.reshape(batch_size, steps)
    dealt[1::2] = dealt[1::2, ::-1]
    rows = dealt.T
    lengths = np.where(rows < 0, 0, lengths[rows])
    num_rows = choose_num_rows(lengths, np.max)
    packed = pack(lengths, num_rows)
    room = packed[-1]
    return _placed(rows, packed, num_rows, round_up(room, choose_lengths(room, 2)))


def _placed(rows, packed, num_rows, room):
    """rows, starts and shapes of `PackedPlan.steps`. packed: of `pack`; room: int [steps]."""
    order, row, offset, _ = packed
    shapes = np.stack([np.full_like(room, num_rows), room], axis=1)
    arrays = np.take_along_axis(rows, order, axis=1), row * room[:, None] + offset, shapes
    return tuple(array.astype(np.int32) for array in arrays)


def num_products(shapes, hidden_size):
    """What an encoder layer multiplies for batches of shapes [steps, 2], up to a common factor.

    Of a token's 24 D^2 + 4 T D: its own products, and its attention to a row of T.
    """
    rows, length = np.asarray(shapes, np.float64).T
    return (rows * length * (6 * hidden_size + length)).sum()
