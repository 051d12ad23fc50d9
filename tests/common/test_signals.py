# SPDX-License-Identifier: Apache-2.0
"""The first signal is a request, the second ends the process, wherever it is."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from common import signals
from common.signals import SAVING, STOPPING, Control, Stopped, listening, poll


@pytest.fixture(autouse=True)
def no_nohup():
    """These tests may themselves run under nohup, which ignores SIGHUP in all that it starts."""
    former = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, former)


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_is_raised_where_the_work_polls(number):
    with listening() as control:
        poll()
        os.kill(os.getpid(), number)
        assert control.stopped_by == number
        with pytest.raises(Stopped, match=f"stopped by {number.name}") as stopped:
            poll()
    assert stopped.value.signal_number == number
    poll()  # nobody listens any more


def test_handlers_are_as_before_afterwards():
    before = [signal.getsignal(number) for number in (*STOPPING, SAVING)]
    threads = set(threading.enumerate())  # some of which may end meanwhile
    with listening():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in (*STOPPING, SAVING)] == before
    assert set(threading.enumerate()) <= threads
    assert signal.set_wakeup_fd(-1) == -1


def test_a_save_is_asked_for_once_a_signal():
    with listening() as control:
        assert not control.take_save()
        os.kill(os.getpid(), SAVING)
        poll()
        assert control.take_save() and not control.take_save()


def test_one_inside_another_hears_the_same():
    with listening() as outer, listening() as inner:
        os.kill(os.getpid(), signal.SIGTERM)
        assert inner.stopped_by == outer.stopped_by == signal.SIGTERM


def test_outside_the_main_thread_nothing_is_asked_for():
    heard = []

    def listen():
        with listening() as control:
            heard.append((control.stopped_by, control.take_save()))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert heard == [(None, False)]


def test_a_second_signal_ends_the_process(monkeypatch):
    ended = []
    monkeypatch.setattr(signals, "exit_at_once", ended.append)
    with listening() as control:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), SAVING)
        assert ended == []
        os.kill(os.getpid(), signal.SIGINT)
        deadline = time.monotonic() + 60
        while len(ended) < 2 and time.monotonic() < deadline:  # by the handler and by the watcher
            time.sleep(0.001)
    assert set(ended) == {signal.SIGINT} and control.stopped_by == signal.SIGTERM


# Deriving a key takes minutes without returning to Python, where a handler could run, and leaves
# other threads free: as compiling a network does.
BUSY = """
import hashlib
from common.signals import listening
with listening():
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**30)
"""


def test_a_second_signal_is_heard_while_a_library_computes():
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", BUSY], cwd=root, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)  # it goes on: nothing polls
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 128 + signal.SIGTERM
        finally:
            process.kill()


STUCK = """
import hashlib, os, sys
from common import signals
signals.GRACE_SECONDS = 0.2
with signals.listening() as control:
    if sys.argv[1] == "importing":
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libraries log meanwhile
    control.has_unsaved = sys.argv[1] == "training"
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**30)
"""


@pytest.mark.parametrize("number", STOPPING)
@pytest.mark.parametrize("phase", ["importing", "building", "training"])
def test_one_signal_ends_what_does_not_poll_unless_something_is_unsaved(phase, number):
    root = Path(__file__).resolve().parents[2]
    arguments = [sys.executable, "-c", STUCK, phase]
    with subprocess.Popen(
        arguments, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(number)
            if phase == "training":
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(1)
            else:
                assert process.wait(60) == 128 + number
                assert process.stderr.read() == f"\nThe run was stopped by {number.name}\n"
        finally:
            process.kill()


def test_a_closed_terminal_does_not_stop_a_run_under_nohup(monkeypatch):
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with listening() as control:
            os.kill(os.getpid(), signal.SIGHUP)
            assert control.stopped_by is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)


# ---- Several processes ---------------------------------------------------------------------------


def share(control, *others):
    """Shares with processes that give these counts of SIGUSR1, SIGINT, SIGTERM and SIGHUP."""
    control.share(lambda counts: [sum(each) for each in zip(counts, *others, strict=True)])


def test_a_signal_of_one_process_is_heard_by_all_when_they_share():
    control = Control()
    share(control, [0, 0, 0, 0])
    control.on_signal(signal.SIGUSR1)
    control.on_signal(signal.SIGTERM)
    assert control.stopped_by is None and not control.take_save()  # the others do not know yet
    share(control, [0, 0, 0, 0])
    assert control.stopped_by == signal.SIGTERM and control.take_save()

    asleep = Control()
    share(asleep, [1, 0, 1, 0])
    assert asleep.stopped_by == signal.SIGTERM and asleep.take_save()
    share(asleep, [0, 1, 0, 0])  # to a scheduler's second signal, another process has listened
    assert asleep.stopped_by == signal.SIGTERM and not asleep.take_save()


def test_a_second_signal_ends_a_process_that_shares_at_once(monkeypatch):
    ended = []
    monkeypatch.setattr(signals, "exit_at_once", ended.append)
    control = Control()
    share(control, [0, 0, 0, 0])
    control.on_signal(signal.SIGTERM)
    assert not ended
    control.on_signal(signal.SIGINT)  # before the first has been shared
    assert ended == [signal.SIGINT]
    share(control, [0, 0, 0, 0])
    control.on_signal(signal.SIGTERM)
    assert ended == [signal.SIGINT, signal.SIGTERM]
