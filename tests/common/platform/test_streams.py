# SPDX-License-Identifier: Apache-2.0
"""How many streams a run has, how many threads TensorFlow gets, and what streams compute."""

import logging
import os
import threading

import pytest
import tensorflow as tf

from common.params import RunParams
from common.platform.streams import in_streams, take_streams


@pytest.fixture
def threads(monkeypatch):
    """A machine of 4 cores without a GPU. Returns the list of the thread counts that are set."""
    counts = []
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(tf.config.threading, "set_intra_op_parallelism_threads", counts.append)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    return counts


@pytest.mark.parametrize(
    ("run", "streams", "counts"),
    [
        ({}, 1, []),
        ({"num_streams": 2}, 2, [2]),
        ({"num_streams": 3}, 3, [1]),
        ({"num_streams": 8}, 4, [1]),
        ({"num_streams": 2, "enable_distributed": True}, 1, []),
        ({"num_streams": 2, "multiple_workers": True}, 1, []),
    ],
    ids=str,
)
def test_cores_are_divided_among_the_streams(threads, run, streams, counts):
    assert take_streams(RunParams(**run)) == streams
    assert threads == counts


def test_one_core_computes_one_stream(threads, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert take_streams(RunParams(num_streams=2)) == 1
    assert threads == []


def test_a_gpu_computes_one_stream_unless_the_run_is_on_the_cpu(threads, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["GPU:0"])
    assert take_streams(RunParams(num_streams=2)) == 1
    assert take_streams(RunParams(num_streams=2, device="/CPU:0")) == 2
    assert threads == [2]


def test_thread_counts_of_the_user_stay(threads, monkeypatch):
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "3")
    assert take_streams(RunParams(num_streams=2)) == 2
    monkeypatch.setenv("TF_NUM_INTEROP_THREADS", "1")
    assert take_streams(RunParams(num_streams=2)) == 1
    assert threads == []


@pytest.mark.parametrize("num_streams", [1, 2, 3])
def test_results_come_in_the_order_of_the_elements(num_streams):
    elements = ((number, -number) for number in range(20))
    assert list(in_streams(lambda a, b: (a, b), elements, num_streams)) == [
        (number, -number) for number in range(20)
    ]


def test_streams_compute_at_the_same_time():
    together = threading.Barrier(3, timeout=60)
    assert len(list(in_streams(lambda: together.wait(), [()] * 6, 3))) == 6


def test_an_error_in_a_stream_is_raised_and_ends_the_work():
    started = []

    def compute(number):
        started.append(number)
        return 1 / (number - 2)

    results = in_streams(compute, ((number,) for number in range(1000)), 2)
    with pytest.raises(ZeroDivisionError):
        list(results)
    assert len(started) < 10


def test_a_stream_computes_on_the_device_of_its_caller():
    def device():
        return tf.zeros([]).device

    with tf.device("/device:CPU:0"):
        assert list(in_streams(device, [()] * 2, 2)) == [device()] * 2
    assert list(in_streams(device, [()] * 2, 2)) == [device()] * 2


def test_streams_use_nothing_that_tensorflow_warns_of(recwarn):
    messages = []
    tf.get_logger().addHandler(handler := logging.Handler())
    handler.emit = lambda record: messages.append(record.getMessage())
    try:
        assert list(in_streams(lambda number: number, [(1,), (2,)], 2)) == [1, 2]
    finally:
        tf.get_logger().removeHandler(handler)
    assert messages == [] and not recwarn.list
