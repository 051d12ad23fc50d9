# SPDX-License-Identifier: Apache-2.0
"""One writer for a model_dir: a lock that ends with the process, however that ends.

The lock is of a folder, not of a name: `check_still_there` tells where the folder of that name has
been deleted, moved or unmounted since.
"""

import contextlib
import errno
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from common.console import log
from common.errors import RunError, UserError

LOCK = "run.lock"
RETRY_SECONDS = 0.2  # for a lock file that its holder deletes meanwhile
_folders = {}  # absolute model_dir that this process has locked -> descriptor of the folder


@contextlib.contextmanager
def locked(model_dir):
    """While open, no other process can open it for the same folder.

    The kernel holds the lock (flock) as long as the process lives, so that a killed run keeps
    nobody out. The file names its holder, and is deleted at the end; so is the folder where it was
    made for the lock and is otherwise empty.

    Args:
        model_dir: path-like. Made if absent.
    Raises:
        UserError: another process holds it, or the folder cannot be written to.
    """
    folder = Path(model_dir).absolute()
    is_new = not folder.exists()
    lock = _acquire(folder, model_dir)
    descriptor = _folders[folder] = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if _is_at(descriptor, folder):  # not that of a run in a folder that has its name now
                (folder / LOCK).unlink()  # while it is held: others see that theirs has no name
                if is_new:
                    folder.rmdir()  # fails where there is something in it
        os.close(_folders.pop(folder))
        lock.release()


def check_still_there(model_dir):
    """Lets a run end rather than make its model_dir anew, or write to another folder of its name.

    Nothing is looked for where this process has not locked the folder.

    Raises:
        RunError: it is not the folder that was locked.
    """
    name = Path(model_dir).absolute()
    try:
        if name not in _folders or _is_at(_folders[name], name):
            return
    except OSError:  # a network file system that does not answer now: writing will tell
        return
    what = "is another folder than at the start" if name.exists() else "is gone"
    raise RunError(
        f"model_dir {model_dir} {what}: it was deleted, moved or unmounted while the run was "
        "training. Put it back, with the checkpoints that it has, and run again"
    )


def _acquire(folder, model_dir):
    path = folder / LOCK
    # Not soft, where flock is missing: such a lock outlives a killed process.
    lock = FileLock(path, timeout=RETRY_SECONDS, fallback_to_soft=False, on_acquired=_write_holder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):  # a lock file of a killed run may be writable
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
        raise UserError(
            f"model_dir {model_dir} is being written by {_holder(path)}; wait for it to end, or "
            "choose another --model_dir"
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
    with contextlib.suppress(OSError):  # a full disk: the lock is held all the same
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(holder).encode())


def _holder(path):
    try:
        holder = json.loads(path.read_text("utf-8"))
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _is_at(descriptor, path):
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False
