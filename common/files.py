# SPDX-License-Identifier: Apache-2.0
"""Files that are complete or absent, as a kill may come at any moment; hashes of files.

They are written under a temporary name, flushed to disk, and renamed.
"""

import contextlib
import hashlib
import json
import os
import re
import time
from pathlib import Path

MAX_WRITE_SECONDS = 60  # older temporary files are those of processes that were killed


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
    """Deletes the temporary files of killed processes.

    Args:
        folder: path-like. No other process writes to it; in its subfolders others may.
    """
    folder = Path(folder)
    for file in (*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp"), *folder.glob("*/*/.*.tmp")):
        with contextlib.suppress(OSError):
            is_old = file.parent == folder or time.time() - file.stat().st_mtime > MAX_WRITE_SECONDS
            if is_old and file.is_file() and re.fullmatch(r"\..+\.\d+\.tmp", file.name):
                file.unlink()


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


def sha256(path):
    """Returns the SHA-256 of a file's content, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
