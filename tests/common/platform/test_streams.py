# SPDX-License-Identifier: Apache-2.0
"""How many streams a run takes, which threads TensorFlow is given, and what streams compute."""

import os
import threading

import pytest
import tensorflow as tf
from tensorflow.python.eager import context

from common.params import RunParams
from common.platform.streams import in_streams, take_streams


@pytest.fixture
def threads(monkeypatch):
    """A machine of 4 cores without a GPU: the list of what TensorFlow is told."""
    told = []
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(tf.config.threading, "set_intra_op_parallelism_threads", told.append)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    return told


@pytest.mark.parametrize(
    ("run", "streams", "told"),
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
def test_cores_are_dealt_to_the_streams(threads, run, streams, told):
    assert take_streams(RunParams(**run)) == streams
    assert threads == told


def test_one_core_computes_one_stream(threads, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert take_streams(RunParams(num_streams=2)) == 1
    assert threads == []


def test_a_gpu_computes_one_stream_unless_the_run_is_on_the_cpu(threads, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["GPU:0"])
    assert take_streams(RunParams(num_streams=2)) == 1
    assert take_streams(RunParams(num_streams=2, device="/CPU:0")) == 2
    assert threads == [2]


def test_threads_that_the_user_has_set_stay(threads, monkeypatch):
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "3")
    assert take_streams(RunParams(num_streams=2)) == 2
    monkeypatch.setenv("TF_NUM_INTEROP_THREADS", "1")
    assert take_streams(RunParams(num_streams=2)) == 1
    assert threads == []


@pytest.mark.parametrize("num_streams", [1, 2, 3])
def test_every_element_is_computed_and_given_in_its_order(num_streams):
    elements = ((number, -number) for number in range(20))
    assert list(in_streams(lambda a, b: (a, b), elements, num_streams)) == [
        (number, -number) for number in range(20)
    ]


def test_as_many_as_there_are_streams_are_computed_at_a_time():
    together = threading.Barrier(3, timeout=60)
    assert len(list(in_streams(lambda: together.wait(), [()] * 6, 3))) == 6


def test_what_a_stream_raises_is_raised_and_ends_the_work():
    begun = []

    def compute(number):
        begun.append(number)
        return 1 / (number - 2)

    results = in_streams(compute, ((number,) for number in range(1000)), 2)
    with pytest.raises(ZeroDivisionError):
        list(results)
    assert len(begun) < 10


def test_a_stream_computes_on_the_device_of_its_caller():
    def device():
        return context.context().device_name

    with tf.device("/device:CPU:0"):
        assert list(in_streams(device, [()] * 2, 2)) == [device()] * 2
    assert list(in_streams(device, [()] * 2, 2)) == [device()] * 2
