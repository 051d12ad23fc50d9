# SPDX-License-Identifier: Apache-2.0
"""Which rows stand in which batch, computed from lengths alone: no iterator, no buffer, no state.

A position in training is the global step: it gives the epoch and the batch within it, and the same
(seed, epoch) gives the same batches again, so resuming at any step is exact and takes no time.
"""

import numpy as np


def truncated_lengths(lengths, room, ops=np):
    """Cuts texts so that each row fits, taking tokens one by one from the end of the longer text.

    With texts of equal length the second loses the token (google-research/bert run_classifier.py,
    `_truncate_seq_pair`); this is the closed form of its loop.

    Args:
        lengths: int [N, K], tokens of each text; K is 1 or 2.
        room: int. Tokens that the texts of a row may have together.
        ops: module with minimum, maximum and stack: NumPy, or TensorFlow within a graph.
    Returns:
        int [N, K].
    """
    if lengths.shape[1] == 1:
        return ops.minimum(lengths, room)
    first, second = lengths[:, 0], lengths[:, 1]
    # Each may keep half the room, or what the other leaves; the first half is the larger.
    most_first = ops.maximum((room + 1) // 2, room - second)
    most_second = ops.maximum(room // 2, room - first)
    return ops.stack([ops.minimum(first, most_first), ops.minimum(second, most_second)], axis=1)


def choose_bucket_lengths(row_lengths, num_buckets):
    """Chooses the lengths to pad to so that the fewest tokens are computed.

    Dynamic programme over the distinct lengths l_1 < ... < l_n with counts c: the best cost of
    padding all rows up to l_j with k lengths is min over i < j of cost(i, k - 1) + l_j * sum of
    c_(i+1..j).

    Args:
        row_lengths: int [N], tokens of each row with its special tokens.
        num_buckets: int > 0. How many lengths, at most.
    Returns:
        increasing int list; the last is the longest row's length.
    """
    distinct, counts = np.unique(row_lengths, return_counts=True)
    rows_up_to = np.concatenate([[0], np.cumsum(counts)])
    n = len(distinct)
    cost = np.full(n + 1, np.inf)
    cost[0] = 0
    choices = []
    for _ in range(min(num_buckets, n)):
        # [i, j]: rows i+1..j padded to distinct[j - 1], after the best for rows 1..i.
        padded = distinct[None, :] * (rows_up_to[None, 1:] - rows_up_to[:, None])
        padded = np.where(np.arange(n + 1)[:, None] <= np.arange(n)[None, :], padded, np.inf)
        total = cost[:, None] + padded
        choices.append(total.argmin(axis=0))
        cost = np.concatenate([[0], total.min(axis=0)])
    lengths, j = [], n
    for choice in reversed(choices):
        if j == 0:
            break
        lengths.append(int(distinct[j - 1]))
        j = int(choice[j - 1])
    return lengths[::-1]


class EpochPlan:
    """The batches of every epoch.

    Args:
        row_lengths: int [N], tokens of each row with its special tokens, after truncation.
        batch_size: int.
        bucket_lengths: increasing ints, the last at least the longest row.
        shuffle: bool. True: a new order every epoch. False: rows in order of their bucket and,
            within it, of the data set.
        seed: int. Together with the epoch it gives the order.
    Attributes:
        steps_per_epoch: int, whole batches of an epoch.
    """

    def __init__(self, row_lengths, batch_size, bucket_lengths, shuffle, seed=0):
        self.batch_size = batch_size
        self.row_lengths = row_lengths
        self.bucket_lengths = np.asarray(bucket_lengths)
        self.bucket_of_row = np.searchsorted(self.bucket_lengths, row_lengths)
        self.shuffle = shuffle
        self.seed = seed
        self.num_rows = len(row_lengths)
        self.steps_per_epoch = self.num_rows // batch_size

    def epoch(self, epoch, drop_remainder=True):
        """Returns the batches of one epoch.

        Rows that do not fill a batch of their bucket go to the next longer one, so that only the
        last batch of an epoch can be short.

        Args:
            epoch: int >= 0.
            drop_remainder: bool. True: leave out the rows of that short batch. False: fill it
                with row -1.
        Returns:
            rows: int32 [steps, batch_size]; lengths: int32 [steps], what to pad each batch to.
        """
        order = np.arange(self.num_rows)
        random = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
        if self.shuffle:
            order = random.permutation(self.num_rows)
        buckets = self.bucket_of_row[order]
        rows, lengths, left_over = [], [], np.zeros(0, int)
        for bucket, length in enumerate(self.bucket_lengths):
            waiting = np.concatenate([left_over, order[buckets == bucket]])
            num_batches = len(waiting) // self.batch_size
            whole = num_batches * self.batch_size
            rows.append(waiting[:whole].reshape(-1, self.batch_size))
            lengths.append(np.full(num_batches, length))
            left_over = waiting[whole:]
        if len(left_over) and not drop_remainder:
            filler = np.full(self.batch_size - len(left_over), -1)
            rows.append(np.concatenate([left_over, filler])[None])
            lengths.append(self.bucket_lengths[-1:])
        rows, lengths = np.concatenate(rows), np.concatenate(lengths)
        if self.shuffle:
            batch_order = random.permutation(len(rows))
            rows, lengths = rows[batch_order], lengths[batch_order]
        return rows.astype(np.int32), lengths.astype(np.int32)

    def steps(self, first_step, last_step):
        """Returns rows and lengths, as `epoch` does, of first_step <= step < last_step."""
        rows = [np.zeros((0, self.batch_size), np.int32)]
        lengths = [np.zeros(0, np.int32)]
        step = first_step
        while step < last_step:
            epoch, within = divmod(step, self.steps_per_epoch)
            end = min(self.steps_per_epoch, within + last_step - step)
            epoch_rows, epoch_lengths = self.epoch(epoch)
            rows.append(epoch_rows[within:end])
            lengths.append(epoch_lengths[within:end])
            step += end - within
        return np.concatenate(rows), np.concatenate(lengths)


class BalancedPlan(EpochPlan):
    """Random batches of about the same number of tokens each, in a new order every epoch.

    Sorted by length and cut into as many strata as a batch has rows, each batch gets a random row
    of every stratum: all have the lengths of the data, and each row stands in any of them with the
    same probability (stratified sampling, Cochran 1977, chapter 5). Of a stratum, where lengths
    differ, the shortest goes to the batch that is fullest so far.

    Args:
        row_lengths, batch_size, seed: as of EpochPlan.
    """

    def __init__(self, row_lengths, batch_size, seed=0):
        super().__init__(row_lengths, batch_size, [int(row_lengths.max())], True, seed)

    def epoch(self, epoch):
        """As `EpochPlan.epoch`; the rows of a short batch, which is left out, are random ones."""
        random = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
        steps = self.steps_per_epoch
        order = random.permutation(self.num_rows)[: steps * self.batch_size]
        increasing = order[np.argsort(self.row_lengths[order], kind="stable")]
        rows, tokens = np.empty((steps, self.batch_size), np.int32), np.zeros(steps, np.int64)
        # From the longest stratum, whose lengths differ most, to the shortest, which evens out.
        for place, stratum in enumerate(increasing.reshape(self.batch_size, steps)[::-1]):
            fullest_first = np.lexsort((random.random(steps), -tokens))
            rows[fullest_first, place] = stratum
            tokens[fullest_first] += self.row_lengths[stratum]
        rows = rows[random.permutation(steps)]
        return rows, np.full(steps, self.bucket_lengths[-1], np.int32)
