# SPDX-License-Identifier: Apache-2.0
"""Which rows each batch has, computed from lengths alone: no iterator, no buffer, no state.

The global step gives the epoch and the batch within it, and the same (seed, epoch) gives the same
batches, so resuming at any step is exact and takes no time.
"""

import numpy as np


def truncated_lengths(lengths, room, ops=np):
    """Truncates the texts of each row, removing tokens one by one from the end of the longer text.

    If both are equally long, the second loses the token. This is the closed form of the loop in
    google-research/bert run_classifier.py, `_truncate_seq_pair`.

    Args:
        lengths: int [N, K], tokens of each text; K is 1 or 2. So is the result.
        room: int. Tokens that the texts of a row may have together.
        ops: module with minimum, maximum and stack: NumPy, or TensorFlow in a graph.
    """
    if lengths.shape[1] == 1:
        return ops.minimum(lengths, room)
    first, second = lengths[:, 0], lengths[:, 1]
    # Each keeps up to half the room, or what the other leaves. Odd room: the first half is larger.
    max_first = ops.maximum((room + 1) // 2, room - second)
    max_second = ops.maximum(room // 2, room - first)
    return ops.stack([ops.minimum(first, max_first), ops.minimum(second, max_second)], axis=1)


def choose_bucket_lengths(row_lengths, num_buckets, counts=None):
    """Returns the lengths to pad to so that the fewest tokens are computed, increasing list of int.

    Dynamic programme over the distinct lengths l_1 < ... < l_n with counts c: with k lengths, the
    lowest cost of padding all rows up to l_j is min over i < j of cost(i, k - 1) + l_j * sum of
    c_(i+1..j).

    row_lengths: int [N], tokens of each row with its special tokens. num_buckets: int > 0. The
    number of lengths, at most. counts: int [N], if the lengths are distinct and increasing: how
    many rows have each.
    """
    distinct = row_lengths
    if counts is None:
        distinct, counts = np.unique(row_lengths, return_counts=True)
        if len(distinct) <= num_buckets:  # without padding nothing is cheaper
            return distinct.tolist()
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
        shuffle: bool. True: a new order every epoch. False: rows sorted by bucket, else in the
            order of the data set.
        seed: int. The order is a function of seed and epoch.
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
        """Returns the batches of one epoch, from 0 on: rows, int32 [steps, batch_size], and the
        length to pad each to, int32 [steps].

        Rows that do not fill a batch of their bucket go to the next longer bucket, so that only the
        last batch of an epoch can be short. drop_remainder: bool. True: leave that batch out.
        False: fill it with row -1.
        """
        order = np.arange(self.num_rows)
        random = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
        if self.shuffle:
            order = random.permutation(self.num_rows)
        buckets = self.bucket_of_row[order]
        rows, lengths, remainder = [], [], np.zeros(0, int)
        for bucket, length in enumerate(self.bucket_lengths):
            members = np.concatenate([remainder, order[buckets == bucket]])
            num_batches = len(members) // self.batch_size
            num_used = num_batches * self.batch_size
            rows.append(members[:num_used].reshape(-1, self.batch_size))
            lengths.append(np.full(num_batches, length))
            remainder = members[num_used:]
        if len(remainder) and not drop_remainder:
            filler = np.full(self.batch_size - len(remainder), -1)
            rows.append(np.concatenate([remainder, filler])[None])
            lengths.append(self.bucket_lengths[-1:])
        rows, lengths = np.concatenate(rows), np.concatenate(lengths)
        if self.shuffle:
            batch_order = random.permutation(len(rows))
            rows, lengths = rows[batch_order], lengths[batch_order]
        return rows.astype(np.int32), lengths.astype(np.int32)

    def steps(self, first_step, last_step):
        """Returns rows and lengths, as in `epoch`, of first_step <= step < last_step."""
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
    """Random batches with about the same number of tokens each, in a new order every epoch.

    Stratified sampling (Cochran 1977, chapter 5): the rows are sorted by length and cut into as
    many strata as a batch has rows, and each batch gets a random row of every stratum. So every
    batch has the lengths of the data, and each row is equally likely to be in any batch. Where the
    lengths of a stratum differ, the shortest goes to the batch with the most tokens so far.

    Args:
        row_lengths, batch_size, seed: as for EpochPlan.
    """

    def __init__(self, row_lengths, batch_size, seed=0):
        super().__init__(row_lengths, batch_size, [int(row_lengths.max())], True, seed)

    def epoch(self, epoch):
        """See `EpochPlan.epoch`; the rows of the short batch, which is left out, are random."""
        random = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
        steps = self.steps_per_epoch
        order = random.permutation(self.num_rows)[: steps * self.batch_size]
        increasing = order[np.argsort(self.row_lengths[order], kind="stable")]
        rows, tokens = np.empty((steps, self.batch_size), np.int32), np.zeros(steps, np.int64)
        # The longest stratum, whose lengths differ most, comes first; the shortest evens it out.
        for place, stratum in enumerate(increasing.reshape(self.batch_size, steps)[::-1]):
            fullest_first = np.lexsort((random.random(steps), -tokens))
            rows[fullest_first, place] = stratum
            tokens[fullest_first] += self.row_lengths[stratum]
        rows = rows[random.permutation(steps)]
        return rows, np.full(steps, self.bucket_lengths[-1], np.int32)
