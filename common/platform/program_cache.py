# SPDX-License-Identifier: Apache-2.0
"""The cache of compiled programs that all runs of a user share. Needs no TensorFlow.

It is a folder as `machine_code.py` describes it, by default in ~/.cache/bert_classifier. Runs may
use it at the same time: each holds a shared lock on its machine's part until its process ends. A
run that finds no other deletes what killed runs have left, and the least recently used programs.
Nothing here raises: where the folder cannot be written to, a run compiles as if there were none.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from common.files import cache_dir, sha256
from common.platform.machine_code import (
    code_files,
    give_to_xla,
    machine_dir,
    own_dir,
    read_hashes,
    use_machine_code,
    write_hashes,
    write_machine_code,
)

LOCK = "lock"
# Size limit of a machine's part, which each start reads to check the hashes: a quarter of a second
# at most. One shape of MiniLM takes 7 to 10 MB.
MAX_BYTES = 256 * 2**20
MIN_FREE_BYTES = 64 * 2**20  # a full disk stops XLA, and with it the run
_locks = []  # file descriptors, which the kernel closes with the process


def compiled_for(run):
    """Chooses the folder of programs for a run on one device, before TensorFlow is imported.

    Args:
        run: RunParams with model_dir.
    Returns:
        pathlib.Path of a folder as `machine_code.py` describes it, or None; and whether it is the
        cache, to which the run adds.
    """
    compiled_ahead = own_dir(run.model_dir)
    if run.compile_only:
        write_machine_code(compiled_ahead)
        return compiled_ahead, False
    if use_machine_code(compiled_ahead):
        return compiled_ahead, False
    is_off = run.compile_cache_dir is False or run.mode == "export"
    if is_off or _may_use_gpu(run.device):
        return None, False
    return open_cache(run.compile_cache_dir), True


def _may_use_gpu(device):
    """Such a run takes no cache: what XLA keeps of programs for GPUs has not been measured."""
    is_cpu = device is not None and "cpu" in device.lower()
    return not is_cpu and any(Path("/dev").glob("nvidia[0-9]*"))


def open_cache(folder):
    """Makes XLA read and write a cache. Call it before TensorFlow is imported.

    Args:
        folder: path-like, created if absent; None: the default.
    Returns:
        pathlib.Path of the folder; None where it cannot be written to.
    """
    with contextlib.suppress(OSError, RuntimeError):  # a user without a home
        compiled = Path(folder or cache_dir() / "compiled")
        part = machine_dir(compiled)
        (part / "xla").mkdir(parents=True, exist_ok=True)
        descriptor = os.open(part / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        _locks.append(descriptor)
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
    """Deletes the least recently used programs, then all machine code, down to MAX_BYTES."""
    programs = sorted(part.glob("config-*"), key=lambda folder: folder.stat().st_mtime)
    for folder in (*programs, part / "xla"):
        files = [file for file in part.rglob("*") if file.is_file()]
        if sum(file.stat().st_size for file in files) <= MAX_BYTES:
            return
        shutil.rmtree(folder)
    (part / "xla").mkdir()


def _delete_damaged(part, is_alone):
    """Deletes machine code whose hash is not the listed one.

    A file that is not listed may come from another run that still writes, and is deleted only if
    there is none: the run that wrote it was killed.
    """
    listed = read_hashes(part) or {}
    digests = {file: sha256(file) for file in code_files(part)}
    intact = {
        file.name: digest for file, digest in digests.items() if digest == listed.get(file.name)
    }
    for file in digests:
        if file.name not in intact and (is_alone or file.name in listed):
            file.unlink()
    if intact != listed:
        write_hashes(part, intact)
    if is_alone:
        for unfinished in (part / "xla").glob("*.tmp"):
            unfinished.unlink()


def _check_disk(folder):
    """Raises OSError where the disk, or the user's quota, has too little room."""
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, MIN_FREE_BYTES)
        elif shutil.disk_usage(folder).free < MIN_FREE_BYTES:  # without quotas
            raise OSError(f"{folder} has no room")
