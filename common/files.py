# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or absent: written beside their place, forced to disk, renamed."""

import os
from pathlib import Path


def write_whole(path, content):
    """Writes a file so that at any moment, also after a kill, the old or the new one is there.

    Args:
        path: path-like. Its folder is made if absent.
        content: bytes, or str to be written as UTF-8 without changing line ends.
    Raises:
        OSError: it cannot be written. A file that was there is untouched, and nothing else is left.
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
    finally:
        aside.unlink(missing_ok=True)


def flush(path):
    """Forces a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
