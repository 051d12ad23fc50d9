# SPDX-License-Identifier: Apache-2.0
"""One run at a time writes to a model_dir; a run that was killed does not block it."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import BusyError, RunError, UserError
from common.training.lock import LOCK, check_still_there, check_written, locked

HOLD = """
import sys
from common.training.lock import locked
with locked(sys.argv[1]):
    print("locked", flush=True)
    input()
"""


def hold(model_dir):
    """Starts a process that holds the lock until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(model_dir)],
        cwd=Path(__file__).resolve().parents[3],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "locked\n"
    return process


def test_a_second_run_is_refused_and_told_who_holds_it(tmp_path):
    with hold(tmp_path) as process:
        facts = rf"process {process.pid} on {socket.gethostname()}, since 20\d\d-.*"
        with pytest.raises(BusyError, match=f"{facts}; wait .* --model_dir"), locked(tmp_path):
            pass
        process.stdin.close()
        assert process.wait(60) == 1  # EOFError
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert os.listdir(tmp_path) == []


def test_a_run_that_was_killed_does_not_block_the_next(tmp_path):
    with hold(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    assert os.listdir(tmp_path) == [LOCK]
    with locked(tmp_path):
        pass


def test_a_folder_made_for_the_lock_is_deleted_unless_it_has_content(tmp_path):
    with locked(tmp_path / "a" / "b"):
        pass
    assert not (tmp_path / "a" / "b").exists()
    with locked(tmp_path / "b"):
        (tmp_path / "b" / "params.yaml").write_text("")
    assert os.listdir(tmp_path / "b") == ["params.yaml"]
    (tmp_path / "empty").mkdir()
    with locked(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").is_dir()


@pytest.mark.parametrize(
    "name", [LOCK, "eval", "plots", "metrics.jsonl", "compiled/machine-1", "cs", "cs/job"]
)
def test_a_link_in_the_place_of_what_a_run_writes_is_refused(tmp_path, name):
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "model_dir" / name
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=rf"{name} is a symbolic link, to .*elsewhere: nothing is"):
        check_written(tmp_path / "model_dir")
    (tmp_path / "link").symlink_to(tmp_path / "model_dir")
    path.unlink()
    check_written(tmp_path / "link")  # model_dir itself may be one


def test_a_lock_file_that_is_deleted_before_it_is_locked_does_not_count(tmp_path, monkeypatch):
    flock, files = fcntl.flock, []

    def delete_first(descriptor, operation):
        files.append(os.fstat(descriptor).st_ino)
        if len(files) == 1:
            (tmp_path / LOCK).unlink()
            (tmp_path / LOCK).write_text("of the next holder")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", delete_first)
    with locked(tmp_path):
        assert len(files) == 2
        assert (tmp_path / LOCK).stat().st_ino == files[1] != files[0]


def test_a_file_system_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, capsys):
    def fail(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", fail)
    with locked(tmp_path):
        pass
    assert "cannot be locked (No locks available)" in capsys.readouterr().err


def test_a_model_dir_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another --model_dir"), locked(tmp_path / "file"):
        pass


def test_a_folder_that_is_gone_or_replaced_ends_the_run_and_the_new_one_stays_untouched(tmp_path):
    model_dir, elsewhere = tmp_path / "model_dir", tmp_path / "elsewhere"
    check_still_there(model_dir)  # not locked by this process
    with locked(model_dir):
        check_still_there(model_dir)
        model_dir.rename(elsewhere)
        with pytest.raises(RunError, match=r"model_dir .* is gone: .* Put it back"):
            check_still_there(model_dir)
        with hold(model_dir) as process:  # another run, in a new folder of the old name
            with pytest.raises(RunError, match="is another folder than at the start"):
                check_still_there(model_dir)
            process.stdin.close()
            process.wait(60)
        elsewhere.rename(model_dir)
        check_still_there(model_dir)
        model_dir.rename(elsewhere)
        model_dir.mkdir()
        (model_dir / LOCK).write_text("of another run")
    assert (model_dir / LOCK).read_text() == "of another run"


def test_a_lock_on_a_full_disk_holds(tmp_path, monkeypatch):
    def no_space(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", no_space)
    with locked(tmp_path):
        descriptor = os.open(tmp_path / LOCK, os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)


def test_a_read_only_folder_with_the_lock_file_of_a_killed_run_is_refused(tmp_path, monkeypatch):
    (tmp_path / LOCK).write_text("")
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (tmp_path, os.W_OK))
    with pytest.raises(UserError, match="cannot be written to: Permission"), locked(tmp_path):
        pass
