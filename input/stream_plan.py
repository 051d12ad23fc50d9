# SPDX-License-Identifier: Apache-2.0
"""The batches of a split of any size: `epoch_plan.py` and `packing.py`, stretch by stretch.

The order of an epoch is a keyed permutation, so that no list of rows is ever made. A stretch is
about 16,000 consecutive places in it; its rows are sorted into batches as a small split is. So a
step gives its stretch, a stretch its rows, and resuming at any step is exact and takes no time.
"""

import math
from dataclasses import dataclass

import numpy as np

from input.epoch_plan import BalancedPlan, EpochPlan, choose_bucket_lengths
from input.packing import choose_lengths, choose_num_rows, deal, num_products, pack, place, round_up
from input.prepared.draws import Permutation

STRETCH_ROWS = 2**14
MIN_STRETCH_STEPS = 16  # of large batches
# A batch with more tokens than all of the first stretch gets rows of a multiple of so many.
OVERFLOW_MULTIPLE = 64
SAMPLE_KEY = 0, 0  # of the rows that max_train_samples and max_eval_samples leave
PADDED, PACKED = "padded", "packed"


@dataclass(frozen=True)
class Stretch:
    """The plan of some batches."""

    epoch: int
    rows: np.ndarray  # int64 [steps, B]; -1 for filler
    starts: np.ndarray | None  # int32 [steps, B] of packed rows, see `PackedPlan.steps`
    shapes: np.ndarray  # int32 [steps, 2]: rows and tokens of the features of each batch


class StreamPlan:
    """The batches of every epoch of a RowStore.

    Args:
        store: `prepared.blocks.RowStore`.
        batch_size: int.
        num_special: int, special tokens of a row.
        kind: PADDED or PACKED.
        lengths: increasing ints that rows are padded to, the last at least the longest row; None:
            chosen.
        num_lengths: int, the number of lengths to choose, at most.
        shuffle: bool. False: in the order of the rows, sorted within each stretch.
        seed: int.
        has_every_row: bool. Whether the rows after the last whole batch of an epoch are in one that
            is filled up, as in an evaluation, or left out.
        max_rows: int or None. Use a fixed random sample of so many rows.
    Attributes:
        num_rows: int.
        steps_per_epoch: int.
    """

    def __init__(
        self,
        store,
        batch_size,
        num_special,
        kind,
        lengths=None,
        num_lengths=1,
        shuffle=True,
        seed=0,
        has_every_row=False,
        max_rows=None,
    ):
        self.store, self.batch_size, self.num_special = store, batch_size, num_special
        self.kind, self.shuffle, self.seed = kind, shuffle, seed
        self.num_rows = min(len(store), max_rows or len(store))
        self._sample = None
        if self.num_rows < len(store):
            self._sample = Permutation(len(store), *SAMPLE_KEY)
        whole, rest = divmod(self.num_rows, batch_size)
        self.steps_per_epoch = whole + bool(rest and has_every_row)
        self.has_every_row = has_every_row
        self.steps_per_stretch = max(MIN_STRETCH_STEPS, STRETCH_ROWS // batch_size)
        self._per_epoch = max(1, math.ceil(self.steps_per_epoch / self.steps_per_stretch))
        if kind == PADDED:
            self.lengths = lengths
            if lengths is None:
                lengths, counts = _possible_lengths(store, num_special)
                self.lengths = choose_bucket_lengths(lengths, num_lengths, counts)
        else:
            # From the first stretch, so that a resumed run chooses the same.
            first, _ = self._sorted(0)
            self.num_long = choose_num_rows(first, np.max if has_every_row else np.mean)
            num_lengths = min(num_lengths, 2) if has_every_row else num_lengths
            self.lengths = choose_lengths(pack(first, self.num_long)[-1], num_lengths)

    @property
    def distinct_shapes(self):
        """The shapes of features, but for batches longer than all of the first stretch."""
        rows = self.batch_size if self.kind == PADDED else self.num_long
        return [[rows, length] for length in self.lengths]

    def stretch(self, number):
        """Returns the Stretch. number: int, counted from the beginning of the first epoch."""
        epoch, rows = number // self._per_epoch, self._rows(number)
        if self.kind == PADDED:
            lengths = self._lengths_of(rows)
            plan = EpochPlan(lengths, self.batch_size, self.lengths, self.shuffle, self.seed)
            order, lengths = plan.epoch(number, drop_remainder=False)
            shapes = np.stack([np.full_like(lengths, self.batch_size), lengths], axis=1)
            return Stretch(epoch, np.where(order < 0, -1, rows[order]), None, shapes)
        lengths, rows = self._sorted(number)
        packed = pack(lengths, self.num_long)
        room = packed[-1]
        beyond = -(-room // OVERFLOW_MULTIPLE) * OVERFLOW_MULTIPLE
        room = np.where(room <= self.lengths[-1], round_up(room, self.lengths), beyond)
        return Stretch(epoch, *place(rows, packed, self.num_long, room))

    def stretches(self, first_step, last_step):
        """Yields (number of a stretch, its first and last step that are wanted) for the steps
        first_step <= step < last_step."""
        step = first_step
        while step < last_step:
            epoch, within = divmod(step, self.steps_per_epoch)
            number, first = divmod(within, self.steps_per_stretch)
            left = self.steps_per_epoch - number * self.steps_per_stretch
            last = min(left, self.steps_per_stretch, first + last_step - step)
            yield epoch * self._per_epoch + number, first, last
            step += last - first

    def num_products(self, hidden_size):
        """Returns the multiplications of the first stretch, see `packing.num_products`."""
        return num_products(self.stretch(0).shapes, hidden_size)

    def share_real(self):
        """Returns the share of the computed tokens that is no padding, of the first stretch."""
        stretch = self.stretch(0)
        real = self._lengths_of(stretch.rows[stretch.rows >= 0]).sum()
        return float(real / stretch.shapes.prod(axis=1, dtype=np.int64).sum())

    def _rows(self, number):
        """Returns the rows of a stretch in the order of the epoch, int64 [at most steps * B]."""
        epoch, within = divmod(number, self._per_epoch)
        size = self.steps_per_stretch * self.batch_size
        end = self.num_rows
        if not self.has_every_row:
            end = self.steps_per_epoch * self.batch_size
        rows = np.arange(within * size, min(end, (within + 1) * size))
        if self.shuffle:
            rows = Permutation(self.num_rows, self.seed, epoch)(rows)
        return rows if self._sample is None else self._sample(rows)

    def _lengths_of(self, rows):
        return np.maximum(self.store.lengths(rows).sum(axis=1) + self.num_special, 1)

    def _sorted(self, number):
        """Returns the rows of a stretch in batches of about as many tokens, and their lengths.

        Returns lengths and rows: int64 [steps, B]; filler is row -1 of length 0.
        """
        rows = self._rows(number)
        lengths = self._lengths_of(rows)
        if self.has_every_row:
            order = deal(lengths, self.batch_size)
        elif self.shuffle:
            order, _ = BalancedPlan(lengths, self.batch_size, self.seed).epoch(number)
        else:
            order = np.arange(len(rows)).reshape(-1, self.batch_size)
        is_filler = order < 0
        return np.where(is_filler, 0, lengths[order]), np.where(is_filler, -1, rows[order])


def _possible_lengths(store, num_special):
    """Returns the tokens of rows with special ones, and how many rows have as many."""
    counts = np.asarray(store.length_counts)
    lengths = np.flatnonzero(counts)
    return np.maximum(lengths + num_special, 1), counts[lengths]
