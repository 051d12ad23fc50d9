# SPDX-License-Identifier: Apache-2.0
"""How many streams a run takes, and which threads TensorFlow is given for them."""

import os

import pytest
import tensorflow as tf

from common.params import RunParams
from common.training.streams import take_streams


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
