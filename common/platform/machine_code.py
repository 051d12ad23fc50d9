# SPDX-License-Identifier: Apache-2.0
"""Where compiled programs lie, and for which machine; needs no TensorFlow.

    compiled/machine-<hash>/machine.json    libraries, processor, settings; hashes of xla/
                            xla/            XLA's machine code, one file a fused loop
                            config-<hash>/  the programs of one configuration

In model_dir `--compile_only` writes it, and other runs only read; another one is the cache of all
runs (`program_cache.py`). XLA compares the whole text of a loop with that of the file before it
takes the file; what it does not compare is in the name of the machine's folder. The files hold
machine code: as with any program, use only those that you or your site has made.
"""

import json
import os
import shutil
import sys
from pathlib import Path

from common.files import hash_of, sha256, write_whole
from common.platform.machine import machine_facts
from common.platform.tf_private import GRAPH_FOLDER

MACHINE = "machine.json"
XLA_FLAGS, EXTRA_OPTIONS = "XLA_FLAGS", "xla_backend_extra_options"
FLAGS = "TF_XLA_FLAGS"


def say(text):
    print(text, file=sys.stderr, flush=True)


def own_dir(model_dir):
    """Path of the programs that --compile_only makes for a model_dir."""
    return Path(model_dir) / "compiled"


def machine_dir(compiled):
    """Path of this machine's part of a folder of compiled programs, there or not."""
    return Path(compiled) / f"machine-{hash_of(machine_facts())[:12]}"


def use_multi_output_fusion():
    """Lets XLA write several results in one loop on a CPU, which by itself it does on GPUs only.

    An update by Adam then takes two thirds to half of its time (benchmarks/NOTES.md). To be called
    before TensorFlow is imported: it reads its flags once. Whoever sets such options in XLA_FLAGS
    has chosen already.
    """
    given = os.environ.get(XLA_FLAGS, "")
    if EXTRA_OPTIONS not in given:
        option = f"--{EXTRA_OPTIONS}=xla_cpu_use_multi_output_fusion"
        os.environ[XLA_FLAGS] = " ".join(filter(None, [given, option]))


def use_machine_code(compiled):
    """Lets XLA read the machine code of --compile_only, where there is some for this machine that
    is whole; says so where there is another. To be called before TensorFlow is imported.

    Returns:
        bool. Whether it will.
    """
    folder = machine_dir(compiled)
    if not folder.is_dir():
        _tell_of_other_machine(folder)
        return False
    fault = _fault_in(folder)
    if fault is not None:
        say(f"{folder} is not used: {fault}; --compile_only writes it anew")
        return False
    give_to_xla(folder, write=False)
    return True


def write_machine_code(compiled):
    """Lets XLA read and write machine code, for --compile_only, which has the folder to itself. To
    be called before TensorFlow is imported."""
    folder = machine_dir(compiled)
    if _fault_in(folder) is not None:
        shutil.rmtree(folder / "xla", ignore_errors=True)
        (folder / MACHINE).unlink(missing_ok=True)
    (folder / "xla").mkdir(parents=True, exist_ok=True)
    give_to_xla(folder, write=True)


def give_to_xla(folder, write):
    """Sets the flags that TensorFlow reads once, when it is imported. folder: of a machine."""
    flags = [
        os.environ.get(FLAGS, ""),
        f"--tf_xla_persistent_cache_directory={(folder / 'xla').resolve()}",
        f"--tf_xla_persistent_cache_read_only={str(not write).lower()}",
    ]
    os.environ[FLAGS] = " ".join(flags).strip()
    # None yet. A variable that is there is changed without moving those that threads are reading.
    os.environ.setdefault(GRAPH_FOLDER, "")


def keep_machine_code(compiled):
    """Notes what XLA has written, so that a damaged file is seen. Returns bytes of the files."""
    folder = machine_dir(compiled)
    files, known = machine_code(folder), hashes(folder) or {}
    note_hashes(folder, {file.name: known.get(file.name) or sha256(file) for file in files})
    return sum(file.stat().st_size for file in files)


def note_hashes(folder, files):
    """Writes the list of a machine's folder. files: {file name: SHA-256}."""
    content = {"machine": machine_facts(), "files": files}
    write_whole(folder / MACHINE, json.dumps(content, indent=2))


def machine_code(folder):
    """The files that XLA has written, whole: it renames what it writes."""
    return sorted((folder / "xla").glob("*.pb"))


def hashes(folder):
    """What `keep_machine_code` noted: {file name: SHA-256}; None where it is missing or damaged."""
    try:
        return dict(json.loads((folder / MACHINE).read_text("utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fault_in(folder):
    """What is wrong with the machine code of a folder, as a phrase, or None."""
    noted = hashes(folder)
    if noted is None:
        return f"{MACHINE} is missing or damaged"
    changed = (file.name for file in machine_code(folder) if sha256(file) != noted.get(file.name))
    try:
        first = next(changed, None)
    except OSError as error:  # it cannot be read
        return str(error)
    return None if first is None else f"xla/{first} is not what was written"


def _tell_of_other_machine(folder):
    """Says why nothing is loaded where programs were compiled for something else."""
    for other in sorted(folder.parent.glob(f"machine-*/{MACHINE}")):
        try:
            facts = json.loads(other.read_text("utf-8"))["machine"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        say(f"The programs in {other.parent} are not loaded: {differences(facts, machine_facts())}")


def differences(then, now, most=3):
    """What two flat dicts differ in, as text."""
    texts = [
        f"{key} was {then.get(key)}, is {now.get(key)}"
        for key in sorted({*then, *now})
        if then.get(key) != now.get(key)
    ]
    more = f", and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
