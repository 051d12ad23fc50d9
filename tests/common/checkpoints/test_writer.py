# SPDX-License-Identifier: Apache-2.0
"""Saving in the background: what was there at the call is written, and failures are told."""

import errno
import os
import shutil
import threading

import numpy as np
import pytest

from common.checkpoints import store
from common.checkpoints.formats import ours
from common.checkpoints.writer import CheckpointWriter
from common.errors import RunError

WEIGHTS = {"pooler/kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}
STATE = {"global_step": np.array(7, np.int64)}


@pytest.fixture
def gate(monkeypatch):
    """A threading.Event that saves wait for before they write."""
    gate = threading.Event()
    save_file = ours.save_file

    def wait_and_save(*arguments):
        assert gate.wait(60)
        save_file(*arguments)

    monkeypatch.setattr(ours, "save_file", wait_and_save)
    yield gate
    gate.set()


def save(writer, step, weights=None, **keywords):
    writer.save(step, weights or WEIGHTS, STATE, {"step": step}, ["[PAD]"], **keywords)


def test_what_is_written_is_what_was_there_at_the_call(tmp_path, gate):
    weights = {name: array.copy() for name, array in WEIGHTS.items()}
    writer = CheckpointWriter(tmp_path)
    writer.reserve(weights)
    save(writer, 1, weights)
    weights["pooler/kernel"] += 1  # training goes on
    assert store.list_checkpoints(tmp_path) == []
    gate.set()
    writer.wait()
    save(writer, 2, weights)
    writer.wait()
    for step in (1, 2):
        path = tmp_path / f"checkpoint-{step}"
        assert store.fault_in(path) is None
        read = ours.read_weights(path)["pooler/kernel"].read()
        np.testing.assert_array_equal(read, WEIGHTS["pooler/kernel"] + step - 1)


def test_a_second_save_waits_for_the_first(tmp_path, gate):
    writer = CheckpointWriter(tmp_path)
    save(writer, 1)
    threading.Timer(0.2, gate.set).start()
    save(writer, 2)
    assert gate.is_set() and (tmp_path / "checkpoint-1").exists()
    writer.wait()
    assert [step for step, _ in store.list_checkpoints(tmp_path)] == [1, 2]


def test_what_follows_a_save_happens_once_it_is_whole(tmp_path, gate):
    writer, seen = CheckpointWriter(tmp_path), []

    def look():
        seen.append(store.fault_in(tmp_path / "checkpoint-1"))

    save(writer, 1)
    writer.then(look)
    writer.then(look)
    assert seen == []
    gate.set()
    writer.wait()
    assert seen == [None, None]
    writer.then(look)  # nothing is under way: at once
    assert seen == [None, None, None]


@pytest.mark.parametrize("method", ["wait", "poll", "save"])
def test_a_failure_is_raised_once_in_the_training_thread(tmp_path, monkeypatch, method):
    writer = CheckpointWriter(tmp_path)
    save(writer, 1)
    writer.wait()
    before = {file.name: file.read_bytes() for file in (tmp_path / "checkpoint-1").iterdir()}

    has_follower, followed = threading.Event(), []

    def no_space(*arguments):
        has_follower.wait()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ours, "save_file", no_space)
    save(writer, 2, keep_max=1)
    writer.then(lambda: followed.append(1))
    has_follower.set()
    with pytest.raises(RunError, match=r"checkpoint-2 could not be written: No space left"):
        while method == "poll":  # until the thread has failed
            writer.poll()
        save(writer, 3) if method == "save" else writer.wait()
    writer.wait()
    writer.poll()
    assert followed == [] and os.listdir(tmp_path) == ["checkpoint-1"]
    assert before == {f.name: f.read_bytes() for f in (tmp_path / "checkpoint-1").iterdir()}


def test_a_number_that_is_not_finite_is_not_saved(tmp_path):
    writer = CheckpointWriter(tmp_path)
    save(writer, 1, {"pooler/kernel": np.array([1, np.nan], np.float32)})
    with pytest.raises(RunError, match="pooler/kernel is not finite at step 1"):
        writer.wait()
    assert os.listdir(tmp_path) == []


def test_a_disk_without_room_is_told_before_the_thread_starts(tmp_path, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda folder: usage)
    writer = CheckpointWriter(tmp_path)
    with pytest.raises(RunError, match="a checkpoint needs 4 MB"):
        save(writer, 1)
    assert os.listdir(tmp_path) == []


def test_polling_does_not_wait(tmp_path, gate):
    writer = CheckpointWriter(tmp_path)
    save(writer, 1)
    writer.poll()
    assert store.list_checkpoints(tmp_path) == []
