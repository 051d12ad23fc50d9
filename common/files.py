# SPDX-License-Identifier: Apache-2.0
"""Files that are complete or absent, as a kill may come at any moment; hashes of files.

They are written under a temporary name, flushed to disk, and renamed.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import re
import time
from pathlib import Path

from common.errors import UserError

TEMPORARY = re.compile(r"\..+\.\d+\.tmp")
# Where a file system has no locks, older temporary files are those of killed processes.
MAX_WRITE_SECONDS = 60
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")  # with which such a file begins


def cache_dir():
    """Returns the path of the folder in which runs keep tokens and programs for later ones.

    For a user without a home it is one that cannot be made, as in a home that is read-only.
    """
    folder = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(os.devnull if folder.startswith("~") else folder) / "bert_classifier"


def existing_above(path):
    """Returns the path, or the nearest folder above it that is there."""
    path = Path(path).absolute()
    while not path.exists():
        path = path.parent
    return path


def write_whole(path, content, mode=0o666):
    """Writes a file so that at any moment, also after a kill, the old or the new one is there.

    Args:
        path: path-like. Its folder is created if absent.
        content: bytes, or str, which is written as UTF-8 with its line ends.
        mode: int, who may read and write it, but for what the user's umask takes away.
    Raises:
        OSError: the file, which it names, cannot be written. An old file stays as it was, and no
            temporary one is left.
    """
    path = Path(path)
    content = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # of a killed process with this number, or a link
        with open(temporary, "xb", opener=lambda path, flags: os.open(path, flags, mode)) as file:
            _lock(file.fileno())
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        # The error of a full disk has no path.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def delete_leftovers(folder):
    """Deletes the temporary files of killed processes in a folder, its subfolders and theirs.

    Files that other processes still write stay, and no symbolic link is followed.
    """
    for parent, subfolders, names in os.walk(folder):
        if len(Path(parent).relative_to(folder).parts) == 2:
            subfolders.clear()
        for name in filter(TEMPORARY.fullmatch, names):
            file = Path(parent, name)
            if file.is_file() and is_abandoned(file):
                with contextlib.suppress(OSError):
                    file.unlink()


@contextlib.contextmanager
def held(path, waits=False):
    """While open, a file or folder is in use: the kernel releases it with the process.

    waits: bool. Whether to wait for other processes that hold it.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _lock(descriptor, waits)
        yield
    finally:
        os.close(descriptor)


def is_abandoned(path):
    """Whether no process is at work on a temporary file or folder any more."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        is_free = _lock(descriptor)
        if is_free is None:
            return time.time() - os.fstat(descriptor).st_mtime > MAX_WRITE_SECONDS
        return is_free
    finally:
        os.close(descriptor)


def _lock(descriptor, waits=False):
    """Returns whether the lock was free; None where the file system has none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def check_no_links(folder, names, looks_below=True):
    """Raises UserError where a file or folder of these names, or a folder in it, is a link.

    A link in a folder that somebody sent may lead anywhere. folder: path-like; names: of str.
    """
    paths = [Path(folder, name) for name in names]
    walked = paths if looks_below else []
    below = [
        Path(parent, name) for path in walked for parent, subs, _ in os.walk(path) for name in subs
    ]
    for path in (*paths, *below):
        if path.is_symlink():
            raise UserError(
                f"{path} is a symbolic link, to {os.readlink(path)}: nothing is written or deleted "
                "through links. Replace it by what it leads to, or delete it"
            )


def utf8_text(content, source):
    """Returns the text of a file's bytes. Raises UserError where they are not UTF-8, with the line.

    source: str, names the file in the message.
    """
    if content.startswith(UTF16_MARKS):
        raise UserError(f"{source} is UTF-16; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{source}, line {line} is not UTF-8; save it as UTF-8") from None


def flush(path):
    """Flushes a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hash_of(value):
    """Returns the SHA-256 of a JSON value, hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sha256_once(path):
    """As `sha256`, which is computed anew only for a file that has changed since in this process.

    A file has changed where its size, its node or the time of its last change differs.
    """
    status = os.stat(path)
    return _sha256_of(os.fspath(path), status.st_size, status.st_ino, status.st_ctime_ns)


@functools.lru_cache(maxsize=4096)
def _sha256_of(path, *status):
    del status
    return sha256(path)


def sha256(path):
    """Returns the SHA-256 of a file's content, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
