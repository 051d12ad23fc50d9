# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or absent: written beside their place, forced to disk, renamed."""

import contextlib
import hashlib
import json
import os
import re
import time
from pathlib import Path

SECONDS_OF_A_WRITE = 60  # at most: what is older is that of a process that was killed


def cache_dir():
    """Path of the folder of what runs keep for later ones: tokens, compiled programs.

    Raises:
        RuntimeError: the user has no home.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "bert_classifier"


def write_whole(path, content):
    """Writes a file so that at any moment, also after a kill, the old or the new one is there.

    Args:
        path: path-like. Its folder is made if absent.
        content: bytes, or str to be written as UTF-8 without changing line ends.
    Raises:
        OSError: it cannot be written, with the file's name. A file that was there is untouched, and
            nothing else is left.
    """
    path = Path(path)
    content = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk names none
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def delete_leftovers(folder):
    """Deletes what killed processes have written aside.

    Args:
        folder: path-like. In itself nobody else may be writing; in its folders, others may.
    """
    folder = Path(folder)
    for aside in (*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")):
        with contextlib.suppress(OSError):
            is_mine = aside.parent == folder
            is_old = is_mine or time.time() - aside.stat().st_mtime > SECONDS_OF_A_WRITE
            if is_old and aside.is_file() and re.fullmatch(r"\..+\.\d+\.tmp", aside.name):
                aside.unlink()


def flush(path):
    """Forces a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hash_of(value):
    """SHA-256, hexadecimal, of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
