# SPDX-License-Identifier: Apache-2.0
"""Files that this user's own runs have written for later ones, and nobody else.

Kept programs are executed, and kept tokens are trained on. Neither may come from a folder that
somebody sent or can write to, nor be damaged. A sealed file ends in a line with a keyed hash
(BLAKE2b) of its content. The key is 32 random bytes in the user's cache folder, mode 0600.
"""

import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

from common.files import cache_dir, write_whole

KEY, KEY_BYTES = "key", 32
SEAL_BYTES = len("\n" + 64 * "0" + "\n")
OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


class NotSealed(Exception):
    """A file or folder is not to be trusted. The text, a phrase, says why."""


def write_sealed(path, content, purpose):
    """Writes a file whole, with its seal.

    Args:
        path: path-like.
        content: str or bytes.
        purpose: str, what the content is for: a file that is renamed or moved is not trusted.
    Raises:
        OSError: it cannot be written, or this user can keep no key.
    """
    content = content.encode() if isinstance(content, str) else content
    write_whole(path, content + _seal_of(content, purpose), mode=0o644)


def read_sealed(path, purpose):
    """Returns the content of a sealed file, bytes.

    Raises:
        NotSealed: other than `write_sealed` of this user wrote it, or others could.
        OSError: it cannot be read, or this user can keep no key.
    """
    whole = _read_own(path)
    content, seal = whole[:-SEAL_BYTES], whole[-SEAL_BYTES:]
    if not hmac.compare_digest(seal, _seal_of(content, purpose)):
        raise NotSealed("it is damaged, or another user or version wrote it")
    return content


def check_own(path):
    """Raises NotSealed unless a file or folder is this user's and only this user can write to it.
    A symbolic link is not followed."""
    _check_facts(os.lstat(path))


def make_own(folder):
    """Makes a folder, or keeps others from writing to one of this user.

    Raises:
        NotSealed: it is another user's, or no folder.
        OSError: it cannot be made.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    facts = os.lstat(folder)
    if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid():
        os.chmod(folder, stat.S_IMODE(facts.st_mode) & ~OTHERS_MAY_WRITE)
    check_own(folder)


def _seal_of(content, purpose):
    seal = hashlib.blake2b(f"{purpose}\n".encode(), key=_key(), digest_size=32)
    seal.update(content)
    return f"\n{seal.hexdigest()}\n".encode()


def _key():
    """Returns the user's key, drawn at the first use.

    Raises:
        OSError: there is no place for it.
    """
    path = cache_dir() / KEY
    key = _key_in(path)
    if key is None:
        write_whole(path, secrets.token_bytes(KEY_BYTES), mode=0o600)
        key = _key_in(path)  # that of another run which has drawn one meanwhile
    if key is None:
        raise OSError(f"{path} cannot be kept from other users")
    return key


def _key_in(path):
    """Returns the key in a file, or None where there is none that only this user can read."""
    try:
        key = _read_own(path)
        is_secret = not os.lstat(path).st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    except (OSError, NotSealed):
        return None
    return key if is_secret and len(key) == KEY_BYTES else None


def _read_own(path):
    """Returns the bytes of an ordinary file of this user. Raises NotSealed or OSError."""
    check_own(path)
    with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW)) as file:
        _check_facts(os.fstat(file.fileno()))
        return file.read()


def _check_facts(facts):
    """facts: os.stat_result."""
    if not (stat.S_ISREG(facts.st_mode) or stat.S_ISDIR(facts.st_mode)):
        raise NotSealed("it is a symbolic link, or no ordinary file")
    if facts.st_uid != os.geteuid():
        raise NotSealed("it belongs to another user")
    if facts.st_mode & OTHERS_MAY_WRITE:
        raise NotSealed("other users can write to it")
