# SPDX-License-Identifier: Apache-2.0
"""Folders of compiled programs, and the flags by which XLA uses them. Needs no TensorFlow.

    compiled/machine-<hash>/machine.json    libraries, processor, settings; hashes of xla/
                            xla/            XLA's machine code, one file a fused loop
                            config-<hash>/  the programs of one configuration

There are two: the one in model_dir, which `--compile_only` writes and other runs only read, and the
cache of all runs (`program_cache.py`). Before it loads a file, XLA compares the whole text of the
loop; the hash in the folder's name stands for what it does not compare. The files hold machine
code: as with any program, use only those that you or your site has made.
"""

import json
import os
import shutil
from pathlib import Path

from common.console import log
from common.files import hash_of, sha256, write_whole
from common.platform.machine import machine_facts
from common.platform.tf_private import GRAPH_FOLDER

MACHINE = "machine.json"
XLA_FLAGS, EXTRA_OPTIONS = "XLA_FLAGS", "xla_backend_extra_options"
FLAGS = "TF_XLA_FLAGS"


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

    If it is not, a message gives the reason. Call it before TensorFlow is imported.

    Returns:
        bool. Whether XLA reads it.
    """
    folder = machine_dir(compiled)
    if not folder.is_dir():
        _report_other_machines(folder)
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
    flags = [
        os.environ.get(FLAGS, ""),
        f"--tf_xla_persistent_cache_directory={(folder / 'xla').resolve()}",
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
    try:
        return dict(json.loads((folder / MACHINE).read_text("utf-8"))["files"])
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


def _report_other_machines(folder):
    """Prints how the machines of the other folders differ from this one."""
    for other in sorted(folder.parent.glob(f"machine-*/{MACHINE}")):
        try:
            facts = json.loads(other.read_text("utf-8"))["machine"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        log(f"The programs in {other.parent} are not loaded: {differences(facts, machine_facts())}")


def differences(then, now, limit=3):
    """Returns how two flat dicts differ, as text with at most `limit` keys."""
    texts = [
        f"{key} was {then.get(key)}, is {now.get(key)}"
        for key in sorted({*then, *now})
        if then.get(key) != now.get(key)
    ]
    more = f", and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more
