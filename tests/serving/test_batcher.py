# SPDX-License-Identifier: Apache-2.0
"""Which waiting rows are computed together, and what becomes of one that fails."""

import queue
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.batcher import FEWEST_TOKENS, MAX_DIFFERENCE, Batcher, QueueFull, choose


class Network:
    """Notes the rows of each call; waits for its gate; fails on rows with the id 13."""

    def __init__(self):
        self.calls, self.gate = [], threading.Event()
        self.has_begun = threading.Event()

    def __call__(self, rows):
        self.has_begun.set()
        self.gate.wait(60)
        self.calls.append([ids for ids, _ in rows])
        if any(13 in ids for ids, _ in rows):
            raise ArithmeticError
        return {"sums": np.array([sum(ids) for ids, _ in rows])}


@pytest.fixture
def network():
    return Network()


@pytest.fixture
def batcher(network):
    batcher = Batcher(network, max_tokens=40, max_queue=10)
    yield batcher
    network.gate.set()
    batcher.close()


def row(length, value=1):
    return [value] * length, length


def submit(batcher, rows, done):
    return batcher.submit(rows, done.put)


def test_what_waits_is_taken_together_as_soon_as_the_network_is_free(network, batcher):
    done = queue.Queue()
    submit(batcher, [row(3)], done)
    network.has_begun.wait(60)  # the first goes alone, without waiting for others
    for n in range(5):
        submit(batcher, [row(3, n)], done)
    network.gate.set()
    found = [done.get(timeout=60).outputs[0]["sums"] for _ in range(6)]
    assert found == [3, 0, 3, 6, 9, 12]
    assert [len(call) for call in network.calls] == [1, 5]


def test_a_row_that_fails_fails_no_other(network, batcher):
    done = queue.Queue()
    network.gate.set()
    first = submit(batcher, [row(3)], done)
    bad = submit(batcher, [row(3), row(3, 13)], done)
    last = submit(batcher, [row(3, 2)], done)
    for _ in range(3):
        done.get(timeout=60)
    assert (first.outputs, last.outputs) == ([{"sums": 3}], [{"sums": 6}])
    assert bad.outputs[0] == {"sums": 3} and list(bad.errors) == [1]


def test_a_full_queue_refuses_and_what_nobody_waits_for_is_not_computed(network, batcher):
    done = queue.Queue()
    submit(batcher, [row(3)], done)
    network.has_begun.wait(60)
    gone = submit(batcher, [row(4, 7)] * 8, done)
    with pytest.raises(QueueFull):
        submit(batcher, [row(3)] * 3, done)
    gone.is_cancelled = True
    submit(batcher, [row(3, 2)] * 3, done)  # there is room now
    network.gate.set()
    done.get(timeout=60), done.get(timeout=60)
    assert network.calls == [[[1] * 3], [[2] * 3] * 3]


def test_two_threads_compute_two_batches_of_a_job_at_a_time():
    both, done = threading.Barrier(2), queue.Queue()

    def run(rows):
        both.wait(60)  # one thread alone would wait for ever
        return {"sums": np.array([sum(ids) for ids, _ in rows])}

    batcher = Batcher(run, max_tokens=40, max_rows=1, num_threads=2)
    submit(batcher, [row(3, n) for n in range(10)], done)
    assert [each["sums"] for each in done.get(timeout=60).outputs] == [3 * n for n in range(10)]
    assert done.empty()
    batcher.close()


def test_the_end_waits_for_what_waits(network):
    batcher, done = Batcher(network, max_tokens=40), queue.Queue()
    submit(batcher, [row(3)] * 4, done)
    network.gate.set()
    batcher.close()
    assert done.get_nowait().num_left == 0
    with pytest.raises(RuntimeError):
        submit(batcher, [row(3)], done)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.data())
def test_a_batch_has_the_oldest_row_and_others_as_long_within_its_tokens(lengths, data):
    lengths.sort()
    oldest = data.draw(st.integers(0, len(lengths) - 1))
    max_rows = data.draw(st.none() | st.integers(1, 5))
    first, end = choose(lengths, oldest, 100, max_rows)
    assert 0 <= first <= oldest < end <= len(lengths)
    taken = lengths[first:end]
    assert len(taken) == 1 or len(taken) * max(taken) <= 100
    assert max_rows is None or len(taken) <= max_rows
    longest = max(taken)
    assert longest - min(taken) <= max(FEWEST_TOKENS, MAX_DIFFERENCE * longest)


def test_rows_of_two_lengths_make_two_batches_and_fill_them():
    lengths = [10] * 5 + [40] * 3
    assert choose(lengths, 6, 400) == (5, 8)  # 3 x 40; with a short one it would be 4 x 40
    assert choose(lengths, 0, 30) == (0, 3)  # 3 x 10 tokens
    assert choose(lengths, 4, 30) == (2, 5)
    assert choose([10, 10, 500], 2, 400) == (2, 3)  # a longer one is a batch of its own
