# SPDX-License-Identifier: Apache-2.0
"""Folders of compiled programs, which of them a run takes, and the flags by which XLA uses it.

Needs no TensorFlow.

    compiled/machine-<hash>/machine.json    libraries, processor, settings; hashes of xla/
                            xla/            XLA's machine code, one file a fused loop
                            config-<hash>/  the programs of one configuration

There are two: the one in model_dir, which `--compile_only` writes and other runs only read, and the
cache of all runs of a user, by default in ~/.cache/bert_classifier. Before it loads a file, XLA
compares the whole text of the loop; the hash in the folder's name stands for what it does not
compare. The files hold machine code: as with any program, use only those that you or your site has
made.

Runs may use the cache at the same time: each holds a shared lock on its machine's part until its
process ends. A run that finds no other deletes what killed runs have left, and the least recently
used programs. Where the cache cannot be written to, a run compiles as if there were none.
"""

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from pathlib import Path

from common.console import log
from common.files import cache_dir, hash_of, sha256, write_whole
from common.platform.machine import machine_facts
from common.platform.tf_private import GRAPH_FOLDER

MACHINE = "machine.json"
XLA_FLAGS, EXTRA_OPTIONS = "XLA_FLAGS", "xla_backend_extra_options"
FLAGS = "TF_XLA_FLAGS"
# Size limit of a machine's part, which each start reads to check the hashes: a quarter of a second
# at most. One shape of MiniLM takes 7 to 10 MB.
MAX_BYTES = 256 * 2**20
MIN_FREE_BYTES = 64 * 2**20  # a full disk stops XLA, and with it the run
_locks = []  # file descriptors, which the kernel closes with the process


def own_dir(model_dir):
    """Path of the programs that --compile_only makes for a model_dir."""
    return Path(model_dir) / "compiled"


def machine_dir(compiled):
    """Path of this machine's part of a folder of compiled programs, there or not."""
    return Path(compiled) / f"machine-{hash_of(machine_facts())[:12]}"


def use_multi_output_fusion():
    """Makes XLA write several results in one loop on CPUs too; its default does so on GPUs only.

    An update by Adam then takes two thirds to half of the time (benchmarks/NOTES.md). Call it
    before TensorFlow, which reads its flags once, is imported. Such options that the user has set
    in XLA_FLAGS stay.
    """
    flags = os.environ.get(XLA_FLAGS, "")
    if EXTRA_OPTIONS not in flags:
        option = f"--{EXTRA_OPTIONS}=xla_cpu_use_multi_output_fusion"
        os.environ[XLA_FLAGS] = " ".join(filter(None, [flags, option]))


def use_machine_code(compiled):
    """Makes XLA read the machine code of --compile_only, if it is intact and for this machine.

    Returns whether it is; if not, a message gives the reason. Call it before TensorFlow is
    imported.
    """
    folder = machine_dir(compiled)
    if not folder.is_dir():
        report_others(folder / MACHINE, "machine", machine_facts(), "are not loaded")
        return False
    fault = _fault_in(folder)
    if fault is not None:
        log(f"{folder} is not used: {fault}; --compile_only writes it again")
        return False
    give_to_xla(folder, write=False)
    return True


def write_machine_code(compiled):
    """Makes XLA read and write machine code, for --compile_only, which no other run disturbs. Call
    it before TensorFlow is imported."""
    folder = machine_dir(compiled)
    if _fault_in(folder) is not None:
        shutil.rmtree(folder / "xla", ignore_errors=True)
        (folder / MACHINE).unlink(missing_ok=True)
    (folder / "xla").mkdir(parents=True, exist_ok=True)
    give_to_xla(folder, write=True)


def give_to_xla(folder, write):
    """Sets the flags that TensorFlow reads when it is imported. folder: of `machine_dir`."""
    path = str((folder / "xla").resolve()).replace("\\", r"\\").replace('"', r"\"")
    flags = [
        os.environ.get(FLAGS, ""),
        f'--tf_xla_persistent_cache_directory="{path}"',
        f"--tf_xla_persistent_cache_read_only={str(not write).lower()}",
    ]
    os.environ[FLAGS] = " ".join(flags).strip()
    # Empty for now: a variable that exists can change while other threads read the environment.
    os.environ.setdefault(GRAPH_FOLDER, "")


def keep_machine_code(compiled):
    """Lists what XLA has written with its hashes. Returns the files' size in bytes."""
    folder = machine_dir(compiled)
    files, known = code_files(folder), read_hashes(folder) or {}
    write_hashes(folder, {file.name: known.get(file.name) or sha256(file) for file in files})
    return sum(file.stat().st_size for file in files)


def write_hashes(folder, files):
    """Writes the list of a machine's folder, by which damage is found. files: {name: SHA-256}."""
    content = {"machine": machine_facts(), "files": files}
    write_whole(folder / MACHINE, json.dumps(content, indent=2))


def code_files(folder):
    """Returns the files of XLA. All are complete, as it renames them after writing."""
    return sorted((folder / "xla").glob("*.pb"))


def read_hashes(folder):
    """Returns the list of a folder, {name: SHA-256}; None where it is missing or damaged."""
    return read_dict(folder / MACHINE, "files")


def read_dict(path, key):
    """Returns the dict under a key of a JSON file; None where it is missing or damaged."""
    try:
        return dict(json.loads(path.read_text("utf-8"))[key])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fault_in(folder):
    """Returns what is wrong with the machine code of a folder, as a phrase, or None."""
    listed = read_hashes(folder)
    if listed is None:
        return f"{MACHINE} is missing or damaged"
    changed = (file.name for file in code_files(folder) if sha256(file) != listed.get(file.name))
    try:
        first = next(changed, None)
    except OSError as error:  # unreadable
        return str(error)
    return None if first is None else f"xla/{first} is not what was written"


def report_others(manifest, key, facts, outcome):
    """Prints how the facts in the manifests of the folders beside one, `kind-<hash>`, differ.

    manifest: path, there or not. key: of the facts in it. outcome: "are not loaded", for instance.
    """
    folder = manifest.parent
    kind = folder.name.partition("-")[0]
    for other in sorted(folder.parent.glob(f"{kind}-*/{manifest.name}")):
        if (others := read_dict(other, key)) is not None:
            log(f"The programs in {other.parent} {outcome}: {differences(others, facts)}")


def differences(then, now, limit=3):
    """Returns how two flat dicts differ, as text with at most `limit` keys."""
    texts = [
        f"{key} was {then.get(key)}, is {now.get(key)}"
        for key in sorted({*then, *now})
        if then.get(key) != now.get(key)
    ]
    more = f", and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more


# ---- Which folder a run takes --------------------------------------------------------------------


def compiled_for(run):
    """Chooses the folder of programs for a run on one device, before TensorFlow is imported.

    Returns the Path of the folder, or None; and whether it is the cache, to which the run adds.
    run: RunParams with model_dir.
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

    folder: path-like, created if absent; None: the default. Returns its Path; None where it cannot
    be written to.
    """
    with contextlib.suppress(OSError):
        compiled = Path(folder or cache_dir() / "compiled")
        part = machine_dir(compiled)
        (part / "xla").mkdir(parents=True, exist_ok=True)
        descriptor = os.open(part / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        _locks.append(descriptor)
        is_alone = False
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_alone = True
        if is_alone:
            _make_room(part)
        _delete_damaged(part, is_alone)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        _check_disk(part)
        give_to_xla(part, write=True)
        return compiled
    return None


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
