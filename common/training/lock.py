# SPDX-License-Identifier: Apache-2.0
"""One writer for a model_dir: a lock that the kernel releases when the process ends, even killed.

The lock belongs to a folder and not to its name: `check_still_there` finds that the folder has been
deleted, moved or unmounted since.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from common.console import log
from common.errors import BusyError, RunError, UserError
from common.files import check_no_links

LOCK = "run.lock"
# What runs write into a model_dir besides checkpoints, and files under names that are new.
WRITTEN = (
    *("compiled", "eval", "export", "plots", "predict", "runs", "tracking", "validate"),
    *("metrics.jsonl", LOCK),
)
OF_CS = ("cs", "cs/job", "cs/artifacts")  # below which the vendor's SDK makes links of its own
RETRY_SECONDS = 0.2  # where the holder deletes the lock file between opening and locking it
_folders = {}  # absolute model_dir that this process has locked -> descriptor of the folder


@contextlib.contextmanager
def locked(model_dir):
    """While open, no other process can open it for the same folder, which is made if absent.

    The lock file names its holder and is deleted at the end. So is a folder that was made for the
    lock and has nothing else in it. Raises BusyError where another process holds it, and UserError
    where the folder cannot be written to.
    """
    folder = Path(model_dir).absolute()
    is_new = not folder.exists()
    lock = _acquire(folder / LOCK, model_dir)
    descriptor = _folders[folder] = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if _is_at(descriptor, folder):  # else another run may lock a new folder of that name
                (folder / LOCK).unlink()  # before the release: a process that waits opens it anew
                if is_new:
                    folder.rmdir()  # fails unless it is empty
        os.close(_folders.pop(folder))
        lock.release()


def check_written(model_dir):
    """Raises UserError where a run would write through a symbolic link in a model_dir."""
    check_no_links(model_dir, WRITTEN)
    check_no_links(model_dir, OF_CS, looks_below=False)


def is_held(model_dir):
    """Whether a process on this machine holds the lock of a folder now."""
    try:
        with open(Path(model_dir) / LOCK, "rb") as file:
            # A start at this very moment tries again: see RETRY_SECONDS.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock file, or a network file system without locks
        return False
    return False


def check_still_there(model_dir):
    """Raises RunError where the name of a folder that this process has locked is no longer its.

    So a run ends whose model_dir is gone, before it makes a new one or writes to another folder.
    """
    name = Path(model_dir).absolute()
    try:
        if name not in _folders or _is_at(_folders[name], name):
            return
    except OSError:  # a network file system that does not answer now; writing will show
        return
    what = "is another folder than at the start" if name.exists() else "is gone"
    raise RunError(
        f"model_dir {model_dir} {what}: it was deleted, moved or unmounted while the run was "
        "training. Put it back, with the checkpoints that it has, and run again"
    )


def _acquire(path, model_dir):
    # No soft lock where flock is missing: it would outlive a killed process.
    lock = FileLock(path, timeout=RETRY_SECONDS, fallback_to_soft=False, on_acquired=_write_holder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):  # an old lock file may be writable
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        path.touch(0o644)
    except OSError as error:
        raise UserError(
            f"model_dir {model_dir} cannot be written to: {error.strerror}; choose another "
            "--model_dir"
        ) from None
    try:
        lock.acquire()
    except Timeout:
        holder = "another process"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            facts = json.loads(path.read_text("utf-8"))
            holder = f"process {facts['pid']} on {facts['host']}, since {facts['since']}"
        raise BusyError(
            f"model_dir {model_dir} is being written by {holder}; wait for it to end, or choose "
            "another --model_dir"
        ) from None
    except OSError as error:  # a network file system without locks
        log(f"{path} cannot be locked ({error.strerror}): make sure that no other run writes there")
    return lock


def _write_holder(descriptor):
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with contextlib.suppress(OSError):  # on a full disk the lock holds without its content
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(holder).encode())


def _is_at(descriptor, path):
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False
