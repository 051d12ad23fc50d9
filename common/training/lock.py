# SPDX-License-Identifier: Apache-2.0
"""One writer for a model_dir: a lock that ends with the process, however that ends.

The lock is of a folder, not of a name: `check_still_there` tells where the folder of that name has
been deleted, moved or unmounted since.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path

from common.errors import RunError, UserError

LOCK = "run.lock"
_folders = {}  # absolute model_dir that this process has locked -> descriptor of the folder


@contextlib.contextmanager
def locked(model_dir):
    """While open, no other process can open it for the same folder.

    The kernel holds the lock (flock) as long as the process lives, so that a killed run keeps
    nobody out. The file says who holds it, and is deleted at the end; the folder too where it was
    made for the lock and nothing else came into it.

    Args:
        model_dir: path-like. Made if absent.
    Raises:
        UserError: another process holds it, or the folder cannot be written to.
    """
    path = Path(model_dir) / LOCK
    is_new = not path.parent.exists()
    descriptor = _take(path)
    name = path.parent.absolute()
    _folders[name] = os.open(name, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # a full disk: the lock is held all the same
            _write_holder(descriptor)
        yield
    finally:
        with contextlib.suppress(OSError):
            if _is_at(descriptor, path):  # not that of a run in a folder that has its name now
                path.unlink()  # while it is held: see _take
                if is_new:
                    path.parent.rmdir()  # fails where there is something in it
        os.close(_folders.pop(name))
        os.close(descriptor)


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


def _write_holder(descriptor):
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps(holder).encode())


def _take(path):
    """Returns the descriptor of the lock file, locked."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):  # a lock file of a killed run may be writable
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                text = _refusal(path)
                os.close(descriptor)
                raise UserError(text) from None
            except OSError as error:  # a network file system without locks
                print(
                    f"{path} cannot be locked ({error.strerror}): see to it that no other run "
                    "writes there",
                    file=sys.stderr,
                )
            if _is_at(descriptor, path):
                return descriptor
            os.close(descriptor)  # its holder has deleted it between the two calls
    except OSError as error:
        raise UserError(
            f"model_dir {path.parent} cannot be written to: {error.strerror}; choose another "
            "--model_dir"
        ) from None


def _is_at(descriptor, path):
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _refusal(path):
    try:
        holder = json.loads(path.read_text("utf-8"))
        who = f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        who = "another process"
    return (
        f"model_dir {path.parent} is being written by {who}; wait for it to end, or choose "
        "another --model_dir"
    )
