# SPDX-License-Identifier: Apache-2.0
"""The compiled programs that runs keep for the runs after them; needs no TensorFlow.

A folder as `machine_code.py` describes it, by default in ~/.cache/bert_classifier, which all runs
of a user share, also at the same time. Each holds a lock of its machine's part until its process
ends. A run that holds it alone tidies up after killed runs and deletes the least recently used
programs. Nothing here fails: where the folder cannot be written to, a run compiles as if there were
none.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from common.files import cache_dir, sha256
from common.platform.machine_code import (
    give_to_xla,
    hashes,
    machine_code,
    machine_dir,
    note_hashes,
    own_dir,
    use_machine_code,
    write_machine_code,
)

LOCK = "lock"
# Of a machine's part, which each start reads to see that it is whole: a quarter of a second at
# most. A shape of MiniLM's takes 7 to 10 MB.
MOST_BYTES = 256 * 2**20
ROOM = 64 * 2**20  # free bytes that a run needs to write: a full disk would stop XLA, and the run
_held = []  # descriptors of locks, which the kernel lets go of with the process


def compiled_for(run):
    """Where a run on one device takes its programs from; to be called before TensorFlow is there.

    Args:
        run: RunParams with model_dir.
    Returns:
        pathlib.Path of a folder as `machine_code.py` describes it, or None; and whether it is the
        cache, to which the run adds.
    """
    own = own_dir(run.model_dir)
    if run.compile_only:
        write_machine_code(own)
        return own, False
    if use_machine_code(own):
        return own, False
    is_off = run.compile_cache_dir is False or run.mode == "export"
    if is_off or _may_use_gpu(run.device):
        return None, False
    return open_cache(run.compile_cache_dir), True


def _may_use_gpu(device):
    """What XLA keeps of programs for GPUs has not been measured."""
    is_cpu = device is not None and "cpu" in device.lower()
    return not is_cpu and any(Path("/dev").glob("nvidia[0-9]*"))


def open_cache(folder):
    """Lets XLA read and write a cache. To be called before TensorFlow is imported.

    Args:
        folder: path-like, made if absent; None: the default.
    Returns:
        pathlib.Path of the folder; None where nothing can be kept there.
    """
    with contextlib.suppress(OSError, RuntimeError):  # a user without a home
        compiled = Path(folder or cache_dir() / "compiled")
        part = machine_dir(compiled)
        (part / "xla").mkdir(parents=True, exist_ok=True)
        descriptor = os.open(part / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        _held.append(descriptor)
        is_alone = _is_alone(descriptor)
        if is_alone:
            _make_room(part)
        _delete_damaged(part, is_alone)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        _check_disk(part)
        give_to_xla(part, write=True)
        return compiled
    return None


def _is_alone(descriptor):
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _make_room(part):
    """Deletes the programs that are longest unused, then all machine code, while it is too much."""
    programs = sorted(part.glob("config-*"), key=lambda folder: folder.stat().st_mtime)
    for folder in (*programs, part / "xla"):
        files = [file for file in part.rglob("*") if file.is_file()]
        if sum(file.stat().st_size for file in files) <= MOST_BYTES:
            return
        shutil.rmtree(folder)
    (part / "xla").mkdir()


def _delete_damaged(part, is_alone):
    """Deletes machine code that is not what was noted. What nobody has noted, another run may be
    writing; of a run that was killed, nobody knows whether it is whole."""
    noted = hashes(part) or {}
    present = {file: sha256(file) for file in machine_code(part)}
    whole = {
        file.name: digest for file, digest in present.items() if digest == noted.get(file.name)
    }
    for file in present:
        if file.name not in whole and (is_alone or file.name in noted):
            file.unlink()
    if whole != noted:
        note_hashes(part, whole)
    if is_alone:
        for aside in (part / "xla").glob("*.tmp"):
            aside.unlink()


def _check_disk(folder):
    """Raises OSError where the disk, or what the user may take of it, has no room."""
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, ROOM)
        elif shutil.disk_usage(folder).free < ROOM:  # not told of quotas
            raise OSError(f"{folder} has no room")
