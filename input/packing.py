# SPDX-License-Identifier: Apache-2.0
"""Packing: several rows of a batch share one long row. Their places follow from lengths alone.

Unlike buckets (`epoch_plan.py`), `packing: packed` keeps the batches random, and padding remains
only at the ends of the long rows. `common/kernels/packed.py` separates the rows in the network.
"""

import itertools
import math

import numpy as np

from input.epoch_plan import BalancedPlan, EpochPlan, choose_bucket_lengths

# One more program costs as much as computing about 20 batches: MiniLM and BERT-base, batches of
# 32, on two cores.
BATCHES_PER_PROGRAM = 20
# Long rows of a split, as multiples of its longest row, of which the cheapest is taken.
TRIED_LENGTHS = (1, 1.125, 1.25, 1.5, 2, 3)
MAX_TRIED = 200  # batches to choose the number of rows by; takes 0.01 s
# MiniLM's, because larger networks spend less on attention. A third of it, because softmax and
# dropout, forward and backward, take twice as long as the products of attention.
HIDDEN_SIZE = 384 / 3


def pack(lengths, num_rows):
    """Packs each batch into long rows that are about equally full.

    Graham 1969 (SIAM J. Applied Mathematics 17, "LPT"): from the longest example on, each goes to
    the emptiest row; the fullest row has at most 4/3 of the tokens of an optimal packing's. All
    batches are packed at once.

    Args:
        lengths: int [N, B], tokens of the examples of N batches; 0 for filler, which comes first
            and has no token.
    Returns:
        order: int [N, B], the examples of each batch in the order of their places.
        row, offset: int [N, B], the place of each; 0, 0 for filler.
        room: int [N], tokens in the fullest row of each batch.
    """
    num_batches, batch_size = lengths.shape
    batch = np.arange(num_batches)
    decreasing = np.argsort(-lengths, axis=1, kind="stable")
    used = np.zeros((num_batches, num_rows), np.int64)  # tokens in each row
    row, offset = (np.empty((num_batches, batch_size), np.int64) for _ in range(2))
    for example in decreasing.T:  # the longest of every batch, then the second, ...
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
    """Returns the number of long rows per batch that costs least.

    Fewer, longer rows have less padding; in shorter rows, attention costs less. The number is 1 or
    even, so that two streams (`runconfig.num_streams`) have equal work.

    Args:
        lengths: int [N, B], as for `pack`. The first MAX_TRIED batches are tried.
        room_of: int [N], tokens that a long row of each batch needs -> tokens that all get.
    """
    lengths = lengths[:MAX_TRIED]
    max_rows = math.ceil(lengths.sum(axis=1).mean() / lengths.max())
    return min(
        (1, *range(2, max_rows + 2, 2)),
        key=lambda rows: num_products([[rows, room_of(pack(lengths, rows)[-1])]], HIDDEN_SIZE),
    )


def choose_lengths(room, max_choices, rows_per_batch=1):
    """Returns increasing lengths to pad to, only as many as pay for their programs.

    room: int [N], tokens of each row, of which a batch has so many; packed, what a long row of
    each batch needs.
    """
    found, counts = np.unique(room, return_counts=True)
    choices = [choose_bucket_lengths(found, n, counts) for n in range(1, max_choices + 1)]
    per_program = BATCHES_PER_PROGRAM * rows_per_batch * found[-1]

    def tokens(lengths):
        return (round_up(found, lengths) * counts).sum() + len(lengths) * per_program

    return min(choices, key=tokens)


def round_up(numbers, choices):
    """Rounds each number up to the next choice; numbers above all choices stay.

    numbers: int [N]; choices: increasing ints. Returns int [N].
    """
    choices = np.asarray(choices)
    place = np.searchsorted(choices, numbers)
    return np.where(place < len(choices), choices[np.minimum(place, len(choices) - 1)], numbers)


class PackedPlan:
    """The packed batches of every epoch.

    Args:
        plan: EpochPlan, for its rows, batch size, shuffling and seed; buckets are ignored.
        num_choices: int > 0. The number of lengths of long rows, at most; each is a program.
    """

    def __init__(self, plan, num_choices):
        self.lengths = plan.row_lengths
        if plan.shuffle:
            self.batches = BalancedPlan(self.lengths, plan.batch_size, plan.seed)
        else:
            longest = [int(self.lengths.max())]
            self.batches = EpochPlan(self.lengths, plan.batch_size, longest, shuffle=False)
        # From the first epoch, so that a resumed run chooses the same. A batch of a later epoch
        # that needs more gets a length of its own.
        lengths = self.lengths[self.batches.epoch(0)[0]]
        self.num_rows = choose_num_rows(lengths)
        self.choices = choose_lengths(pack(lengths, self.num_rows)[-1], num_choices)

    def steps(self, first_step, last_step):
        """Returns the batches of first_step <= step < last_step.

        Returns:
            rows: int32 [steps, B], in the order of their places.
            starts: int32 [steps, B], increasing except for filler: where each row begins, in
                tokens from the beginning of the first long row.
            shapes: int32 [steps, 2], the number of long rows and their tokens.
        """
        rows, _ = self.batches.steps(first_step, last_step)
        packed = pack(self.lengths[rows], self.num_rows)
        return place(rows, packed, self.num_rows, round_up(packed[-1], self.choices))


def pack_every_row(lengths, batch_size):
    """Packs every row of a split once, into long rows that are nearly full.

    As nothing has to be random, the whole split is packed at once, and not each batch by itself.
    All batches have one shape, so that they share one program.

    Args:
        lengths: int [N], tokens of each row, above 0; N > 0.
        batch_size: int > 0. How many rows a batch has, on average.
    Returns:
        rows, starts: int32 [steps, B], as in `PackedPlan.steps`; -1 for filler, first in a batch.
            B is the number of rows in the batch that has most.
        shapes: int32 [steps, 2], all alike.
    """

    def cost(length):
        number = sum(number for number, _ in fill_by_length(*found, length))
        return num_products([[number, length]], HIDDEN_SIZE)

    found = np.unique(lengths, return_counts=True)
    length = min(np.unique(np.multiply(lengths.max(), TRIED_LENGTHS).astype(int)), key=cost)
    long_row, offset = best_fit(lengths, length)
    counts = np.bincount(long_row)
    mean = batch_size * len(counts) / len(lengths)  # long rows of a batch
    # About so many long rows make a batch; of the numbers near it the one that leaves the last
    # batch fullest.
    near = range(max(1, math.floor(mean * 0.8)), math.ceil(mean * 1.2) + 1)
    num_rows = min(
        near, key=lambda rows: (round(-len(counts) % rows / len(counts), 2), abs(rows - mean))
    )
    # Dealt by their numbers of rows, so that B is hardly more than the mean.
    dealt = deal(counts, num_rows)
    batch_of, place_of = np.empty((2, len(counts)), int)
    where = np.nonzero(dealt >= 0)
    batch_of[dealt[where]], place_of[dealt[where]] = where
    batch, start = batch_of[long_row], place_of[long_row] * length + offset
    order = np.lexsort((start, batch))
    sizes = np.bincount(batch, minlength=len(dealt))
    from_end = np.cumsum(sizes)[batch[order]] - np.arange(len(lengths))
    rows = np.full((len(dealt), sizes.max()), -1, np.int32)
    starts = np.zeros_like(rows)
    rows[batch[order], -from_end], starts[batch[order], -from_end] = order, start[order]
    return rows, starts, np.full((len(dealt), 2), (num_rows, length), np.int32)


def fill_by_length(found, counts, room):
    """Puts each example, the longest first, into the fullest long row that has room for it.

    By the numbers of examples of each length, as "longest-pack-first" of Krell et al. 2021
    (arXiv:2107.02027), so that the time does not depend on how many examples there are.

    Args:
        found, counts: int [L], increasing lengths between 1 and room, and examples of each.
        room: int, tokens of a long row.
    Returns:
        list of (number of long rows that are filled alike, tuple of the lengths in each).
    """
    free = {}  # {tokens that are free: [(number of long rows, their lengths)]}
    for length, count in zip(found[::-1].tolist(), counts[::-1].tolist(), strict=True):
        while count:
            fullest = min((tokens for tokens in free if tokens >= length), default=room)
            number, pattern = free[fullest].pop() if fullest in free else (count, ())
            if not free.get(fullest, True):
                del free[fullest]
            times = min(count, fullest // length)
            if pattern and number > count // times:
                free.setdefault(fullest, []).append((number - count // times, pattern))
            number = min(number, count // times)
            left = fullest - times * length
            free.setdefault(left, []).append((number, pattern + (length,) * times))
            count -= number * times
    return list(itertools.chain.from_iterable(free.values()))


def best_fit(lengths, room):
    """Returns the places of examples as `fill_by_length` puts them: long_row, offset: int [N].

    lengths: int [N], tokens of each example, between 1 and room. room: int, tokens of a long row.
    """
    found, counts = np.unique(lengths, return_counts=True)
    examples = {
        length: each
        for length, each in zip(
            found.tolist(),
            np.split(np.argsort(lengths, kind="stable"), np.cumsum(counts)[:-1]),
            strict=True,
        )
    }
    long_row, offset = np.empty((2, len(lengths)), int)
    first, taken = 0, dict.fromkeys(examples, 0)
    for number, pattern in fill_by_length(found, counts, room):
        used = 0
        for length in pattern:
            each = examples[length][taken[length] : taken[length] + number]
            long_row[each], offset[each] = np.arange(first, first + number), used
            taken[length] += number
            used += length
        first += number
    return long_row, offset


def deal(lengths, batch_size):
    """Deals rows, the longest first, to batches in alternating direction.

    lengths: int [N]. Returns the rows of each batch, int32 [steps, B]; -1 for filler.
    """
    steps = -(-len(lengths) // batch_size)
    dealt = np.full(steps * batch_size, -1, np.int32)
    dealt[: len(lengths)] = np.argsort(-lengths, kind="stable")
    dealt = dealt.reshape(batch_size, steps)
    dealt[1::2] = dealt[1::2, ::-1]
    return dealt.T


def place(rows, packed, num_rows, room):
    """Returns rows, starts and shapes as `PackedPlan.steps`.

    rows: int [steps, B]; packed: of `pack`; room: int [steps], tokens of the long rows.
    """
    order, row, offset, _ = packed
    shapes = np.stack([np.full_like(room, num_rows), room], axis=1)
    starts = row * room[:, None] + offset
    rows = np.take_along_axis(rows, order, axis=1)
    return rows, starts.astype(np.int32), shapes.astype(np.int32)


def num_products(shapes, hidden_size):
    """Returns the multiplications of an encoder layer for shapes [steps, 2], up to a factor.

    A token takes 24 D^2 for its dense layers and 4 T D for attention in a row of T tokens.
    """
    rows, length = np.asarray(shapes, np.float64).T
    return (rows * length * (6 * hidden_size + length)).sum()
