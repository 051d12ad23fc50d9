# SPDX-License-Identifier: Apache-2.0
"""Folders of compiled programs, which of them a run takes, and the flags by which XLA uses it.

Needs no TensorFlow.

    compiled/machine-<hash>/machine.json    libraries, processor, settings; hashes of xla/
                            xla/            XLA's machine code, one file a fused loop
                            config-<hash>/  the programs of one configuration

There are two: the one in model_dir, which `--compile_only` writes and other runs only read, and the
cache of all runs of a user, by default in ~/.cache/bert_classifier. Before it loads a file, XLA
compares the whole text of the loop; the hash in the folder's name stands for what it does not
compare. The files hold machine code, so both lists are sealed, and the folders writable for this
user alone (`seal.py`).

Runs may use the cache at the same time: each holds a shared lock on its machine's part until its
process ends. A run that finds no other deletes what killed runs have left, and the least recently
used programs. Where the cache cannot be written to, or another user can write to it, a run compiles
as if there were none.
"""

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from pathlib import Path

from common.console import log
from common.errors import UserError
from common.files import cache_dir, delete_leftovers, hash_of, sha256
from common.platform.machine import differences, machine_facts
from common.platform.seal import NotSealed, check_own, make_own, read_sealed, write_sealed
from common.platform.tf_private import GRAPH_FOLDER

MACHINE = "machine.json"
XLA_FLAGS = "XLA_FLAGS"
EXTRA_OPTIONS, YNN_FUSIONS = "xla_backend_extra_options", "xla_cpu_experimental_ynn_fusion_type"
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


def set_xla_flags():
    """Sets how XLA compiles for CPUs, in XLA_FLAGS. Flags that the user has set there stay.

    Call it before TensorFlow, which reads its flags once, is imported.

    - Several results are written in one loop, which XLA's default does on GPUs only. An update by
      Adam then takes two thirds to half of the time (benchmarks/NOTES.md).
    - No sum goes to YNNPACK: two threads that begin the same one at the same time write to one list
      of TensorFlow 2.21 without a lock (`EmitYnnSubgraph`), and about one start in a hundred ended
      with SIGSEGV. Without it, these sums take as long or less.
    """
    flags = os.environ.get(XLA_FLAGS, "")
    ours = {EXTRA_OPTIONS: "xla_cpu_use_multi_output_fusion", YNN_FUSIONS: ""}
    missing = (f"--{name}={value}" for name, value in ours.items() if name not in flags)
    os.environ[XLA_FLAGS] = " ".join(filter(None, [flags, *missing]))


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
    try:
        folder = _make_machine_dir(compiled)
    except NotSealed as error:
        raise UserError(
            f"{compiled} cannot hold compiled programs: {error}; choose another --model_dir"
        ) from None
    if _fault_in(folder) is not None:
        for file in (*code_files(folder), folder / MACHINE):
            file.unlink(missing_ok=True)
    give_to_xla(folder, write=True)


def _make_machine_dir(compiled):
    """Makes this machine's part of a folder, to which nobody else can write. Returns its path.

    Raises NotSealed where another user can, and OSError where it cannot be made.
    """
    folder = machine_dir(compiled)
    for each in (Path(compiled), folder, folder / "xla"):
        make_own(each)
    return folder


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
    for file in files:
        if file.name not in known:
            file.chmod(0o644)  # XLA leaves it to the umask whether others can write to it
    write_hashes(folder, {file.name: known.get(file.name) or sha256(file) for file in files})
    return sum(file.stat().st_size for file in files)


def write_hashes(folder, files):
    """Writes the list of a machine's folder, by which damage is found. files: {name: SHA-256}."""
    write_list(folder / MACHINE, {"machine": machine_facts(), "files": files})


def code_files(folder):
    """Returns the files of XLA. All are complete, as it renames them after writing."""
    return sorted((folder / "xla").glob("*.pb"))


def read_hashes(folder):
    """Returns the list of a folder, {name: SHA-256}; None where it is missing or not sealed."""
    return read_dict(folder / MACHINE, "files")


def write_list(path, content):
    """Writes a sealed JSON file, for the folder that it lies in. content: dict."""
    write_sealed(path, json.dumps(content, indent=2), f"{path.parent.name}/{path.name}")


def read_dict(path, key):
    """Returns the dict under a key of a file of `write_list`; None where it is missing, damaged, or
    another user's."""
    try:
        return json.loads(read_sealed(path, f"{path.parent.name}/{path.name}"))[key]
    except (OSError, NotSealed):
        return None


def _fault_in(folder):
    """Returns what is wrong with the machine code of a folder, as a phrase, or None."""
    listed = read_hashes(folder)
    if listed is None:
        return f"{MACHINE} is missing, damaged, or another user's"
    try:
        for file in (folder.parent, folder, folder / "xla", *code_files(folder)):
            check_own(file)
        for file in code_files(folder):
            if sha256(file) != listed.get(file.name):
                raise NotSealed("it is not what was written")
    except (NotSealed, OSError) as error:
        return f"{file.name}: {error}"
    return None


def report_others(manifest, key, facts, outcome):
    """Prints how the facts in the manifests of the folders beside one, `kind-<hash>`, differ.

    manifest: path, there or not. key: of the facts in it. outcome: "are not loaded", for instance.
    """
    folder = manifest.parent
    kind = folder.name.partition("-")[0]
    for other in sorted(folder.parent.glob(f"{kind}-*/{manifest.name}")):
        if (others := read_dict(other, key)) is not None:
            log(f"The programs in {other.parent} {outcome}: {differences(others, facts)}")


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
    if not takes_cache(run):
        return None, False
    return open_cache(run.compile_cache_dir), True


def takes_cache(run):
    """Whether a run keeps its programs for others, and takes theirs. run: RunParams."""
    is_off = run.compile_cache_dir is False or run.mode == "export"
    return not (is_off or run.is_distributed or _may_use_gpu(run.device))


def cache_path(folder=None):
    """The Path of a cache of programs: that of a user where no folder is given."""
    return Path(folder or cache_dir() / "compiled")


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
        compiled = cache_path(folder)
        try:
            part = _make_machine_dir(compiled)
        except NotSealed as error:
            log(f"{compiled} keeps no programs: {error}")
            return None
        descriptor = os.open(part / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        _locks.append(descriptor)
        is_alone = False
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_alone = True
        if is_alone:
            delete_leftovers(part)
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
    listed = read_hashes(part)
    if listed is None and code_files(part):
        log(f"{part / MACHINE} is damaged, or another user's: its programs are compiled again")
    listed = listed or {}
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
