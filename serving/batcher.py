# SPDX-License-Identifier: Apache-2.0
"""Rows that wait for a network, and which of them are computed together.

Whenever the network is free it takes what waits, and it never waits for more: one request alone is
answered as fast as without a batcher, and the more requests there are, the larger the batches. The
oldest row goes first, with those that are about as long: a short row beside a long one would be
computed as a long one.
"""

import bisect
import threading
import time

# Rows that share a batch differ in length by at most this share of the longest, or so many tokens.
MAX_DIFFERENCE, FEWEST_TOKENS = 0.25, 8


class QueueFull(Exception):
    """More rows wait than may."""


class Job:
    """The rows of a request.

    Attributes:
        rows: [(ids, number of ids of the first segment)].
        outputs: for each row {name: array}, or None; errors: {row: exception}.
        is_cancelled: bool. Set by who no longer wants the answer.
    """

    def __init__(self, rows, on_done):
        self.rows, self.on_done = rows, on_done
        self.outputs, self.errors = [None] * len(rows), {}
        self.num_left = len(rows)
        self.is_cancelled = False


class Batcher:
    """One network, and the threads that compute with it, each a batch at a time.

    Args:
        run: rows -> {name: array [rows, ...]}.
        max_tokens: int, of a batch with its padding. A longer row is a batch of its own.
        max_rows: int or None, of a batch. max_queue: int, rows that may wait.
        num_threads: int, how many call `run` at a time.
        on_batch: (number of rows, tokens with padding, real tokens, seconds) -> None.
    """

    def __init__(
        self, run, max_tokens, max_rows=None, max_queue=1024, on_batch=None, num_threads=1
    ):
        self._run, self.max_tokens, self.max_rows = run, max_tokens, max_rows
        self.max_queue, self._on_batch = max_queue, on_batch
        self._waiting = []  # (length, number, place in its job, job), sorted
        self._number = 0
        self._changed = threading.Condition()
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"batcher {n}", daemon=True)
            for n in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def __len__(self):
        return len(self._waiting)

    def submit(self, rows, on_done):
        """Returns the Job of some rows. on_done: called in another thread, with the Job.

        Raises QueueFull.
        """
        job = Job(rows, on_done)
        with self._changed:
            if self._is_closed:
                raise RuntimeError("the batcher is closed")
            if len(self._waiting) + len(rows) > self.max_queue:
                self._forget_cancelled()
            if len(self._waiting) + len(rows) > self.max_queue:
                raise QueueFull
            for place, (ids, _) in enumerate(rows):
                self._number += 1
                bisect.insort(self._waiting, (len(ids), self._number, place, job))
            self._changed.notify(len(rows))
        return job

    def close(self):
        """Computes what waits, and ends the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._run = None  # which keeps the network in memory

    def _forget_cancelled(self):
        self._waiting = [each for each in self._waiting if not each[-1].is_cancelled]

    def _take(self):
        """Returns the rows of the next batch; none at the end."""
        with self._changed:
            while True:
                self._forget_cancelled()
                if self._waiting:
                    break
                if self._is_closed:
                    return []
                self._changed.wait()
            first, end = choose(
                [each[0] for each in self._waiting],
                min(range(len(self._waiting)), key=lambda n: self._waiting[n][1]),
                self.max_tokens,
                self.max_rows,
            )
            taken = self._waiting[first:end]
            del self._waiting[first:end]
            return taken

    def _work(self):
        while taken := self._take():
            started = time.perf_counter()
            self._compute(taken)
            if self._on_batch is not None:
                lengths = [each[0] for each in taken]
                tokens = len(taken) * max(lengths), sum(lengths)
                self._on_batch(len(taken), *tokens, time.perf_counter() - started)

    def _compute(self, taken):
        """Computes rows; where that fails, one by one, so that one fails no other."""
        rows = [job.rows[place] for _, _, place, job in taken]
        try:
            outputs = self._run(rows)
        except Exception as error:
            if len(taken) > 1:
                for each in taken:
                    self._compute([each])
                return
            ((_, _, place, job),) = taken
            job.errors[place] = error
            self._count_down(job)
            return
        for n, (_, _, place, job) in enumerate(taken):
            job.outputs[place] = {name: array[n] for name, array in outputs.items()}
            self._count_down(job)

    def _count_down(self, job):
        with self._changed:  # other rows of the job may be computed by another thread
            job.num_left -= 1
            is_done = job.num_left == 0
        if is_done:
            job.on_done(job)


def choose(lengths, oldest, max_tokens, max_rows=None):
    """Returns which rows are computed next, (first, end).

    From the oldest row it grows to both sides, to the nearer length first.

    Args:
        lengths: list of int, rising, of the rows that wait. oldest: int, which of them has to go.
        max_tokens: int, of the longest row times their number. max_rows: int or None.
    """
    first, end = oldest, oldest + 1
    max_rows = max_rows or len(lengths)
    while end - first < max_rows:
        nearest = None
        for place in (first - 1, end):
            if not 0 <= place < len(lengths):
                continue
            longest = lengths[max(place, end - 1)]
            shortest = lengths[min(place, first)]
            if (end - first + 1) * longest > max_tokens:
                continue
            if longest - shortest > max(FEWEST_TOKENS, MAX_DIFFERENCE * longest):
                continue
            distance = abs(lengths[place] - lengths[oldest])
            if nearest is None or distance < nearest[0]:
                nearest = distance, place
        if nearest is None:
            break
        first, end = min(first, nearest[1]), max(end, nearest[1] + 1)
    return first, end
