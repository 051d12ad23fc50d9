# SPDX-License-Identifier: Apache-2.0
"""Programs on disk: a step is traced once, and later runs bind it to their own variables.

Tracing a step of BERT takes Python some seconds for each shape. The traced graph is kept with the
names of the variables that it reads and writes. A later run of the same configuration calls it: the
same operations in the same order, so the same bits.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path

import tensorflow as tf

from common.console import counted, log
from common.errors import RunError
from common.files import hash_of, sha256, write_whole
from common.params import compiled_keys
from common.platform.machine_code import (
    keep_machine_code,
    machine_dir,
    read_dict,
    report_others,
    write_list,
)
from common.platform.program_bytes import (
    NotKept,
    bind,
    keep_optimized_graph,
    one_at_a_time,
    to_bytes,
    trace,
)

MANIFEST = "programs.json"
PROJECT = Path(__file__).resolve().parents[2]


def config_facts(params):
    """Returns all that programs of complete Params depend on but shapes: {dotted key: str}."""
    sections = params.model_dump(mode="json")
    files = [PROJECT / "model.py", PROJECT / "BertClassifierModel.py"]
    files += sorted((PROJECT / "common").rglob("*.py"))
    source = {str(file.relative_to(PROJECT)): sha256(file) for file in files}
    facts = {"source": hash_of(source)[:16]}
    for dotted in compiled_keys():
        section, key = dotted.split(".")
        facts[dotted] = json.dumps((sections[section] or {}).get(key), sort_keys=True)
    if params.teacher is not None:
        facts["teacher"] = json.dumps(params.teacher.model.model_dump(mode="json"), sort_keys=True)
    return facts


def config_dir(compiled, params):
    """Returns the path of the programs for complete Params on this machine, which may not exist.

    compiled: a folder as `machine_code.py` describes it.
    """
    return machine_dir(compiled) / f"config-{hash_of(config_facts(params))[:12]}"


def shape_name(kind, features):
    """("train", features of [32, 72]) -> "train-32x72"; of 64 rows packed: "train-32x72-of-64"."""
    name = "-".join([kind, "x".join(map(str, features["input_ids"].shape))])
    return f"{name}-of-{features['starts'].shape[0]}" if "starts" in features else name


def variables_of(model, optimizer=None, sums=()):
    """Returns {name: tf.Variable} of every variable that a step can read or write.

    model, optimizer: BaseModel, Optimizer or None. sums: {name: variable} of a `Replica`.
    """
    variables = {f"model/{name}": weight.value for name, weight in model.weights_by_name().items()}
    variables |= {f"sums/{name}": variable for name, variable in dict(sums).items()}
    variables["clock/seed"] = model.clock.seed.value
    variables["clock/step"] = model.clock.step.value
    variables |= {f"loss/{name}": each.value for name, each in model.loss_variables().items()}
    if optimizer is not None:
        _collect(vars(optimizer), "optimizer", variables)
        _collect(vars(optimizer.loss_scale), "loss_scale", variables)
    return variables


def _collect(values, path, variables):
    """Adds the variables in a dict, and in dicts within it, to `variables`."""
    for name, value in values.items():
        if isinstance(value, tf.Variable):
            variables[f"{path}/{name}"] = value
        elif isinstance(value, dict):
            _collect(value, f"{path}/{name}", variables)


class ProgramLibrary:
    """The programs of one configuration, which `--compile_only` made. Each is loaded at its first
    use.

    Args:
        folder: path-like.
    Attributes:
        entries: {name: entry} of its programs.json; None where that is missing, damaged or another
            user's.
        loaded: list of str, the names of the programs so far.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.entries = read_dict(self.folder / MANIFEST, "programs")
        self.loaded = []

    def maker(self, kind, variables):
        """Returns make(step, *arguments) -> a program of the step for such arguments.

        kind: "train", "add" (a batch of several to one update) or "predict".
        """

        def make(step, *arguments):
            name = shape_name(kind, arguments[0])
            program = self._load(name, variables, arguments)
            if program is None:
                return self._compile(name, step, variables, arguments)
            self.loaded.append(name)
            return program

        return make

    def _load(self, name, variables, arguments):
        """Returns the program, or None where there is none for these variables and arguments."""
        entry = self.entries.get(name)
        if entry is None:
            return None
        try:
            content = (self.folder / f"{name}.pb").read_bytes()
        except OSError:
            content = b""
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            log(f"{self.folder / name}.pb is not what was written: it is compiled again")
            return None
        return bind(content, entry, variables, arguments)

    def _compile(self, name, step, variables, arguments):
        if name not in self.entries:
            log(f"Program {name} is not among those in {self.folder}: it is compiled now")
        return trace(step, arguments)


class ProgramCache(ProgramLibrary):
    """The programs of one configuration that runs have kept. This run adds those that it compiles,
    at their first call.

    compiled: path-like, of `open_cache`. params: complete Params.
    """

    def __init__(self, compiled, params):
        super().__init__(config_dir(compiled, params))
        self.compiled, self.params = Path(compiled), params
        manifest = self.folder / MANIFEST
        if self.entries is None and manifest.exists():
            log(f"{manifest} is damaged, or another user's: its programs are compiled again")
        self.entries = self.entries or {}
        with contextlib.suppress(OSError):
            os.utime(self.folder)  # for the deletion of the least recently used

    def maker(self, kind, variables):
        make = super().maker(kind, variables)
        return lambda step, *arguments: self._explained(make(step, *arguments))

    def _explained(self, program):
        """Returns the program; where XLA cannot write machine code, it raises RunError."""

        def run(*arguments):
            try:
                return program(*arguments)
            except tf.errors.OpError as error:
                if str(self.compiled.resolve()) not in error.message:
                    raise
                reason = error.message.splitlines()[0].rpartition("}} ")[2]
                raise RunError(
                    f"compiled programs cannot be kept: {reason}\n"
                    "Make room there, name another folder (--override runconfig.compile_cache_dir="
                    "PATH), or keep none (--override runconfig.compile_cache_dir=false); then "
                    "start the run again"
                ) from error

        return run

    def _compile(self, name, step, variables, arguments):
        concrete = trace(step, arguments)
        try:
            content, entry = to_bytes(concrete, variables, f"{self.folder.name}_{name}_")
        except NotKept:
            return concrete
        program = bind(content, entry, variables, arguments)
        is_kept = False

        def run(*arguments):
            nonlocal is_kept
            if not is_kept:
                with one_at_a_time:  # so that the collected graphs are those of this program
                    if not is_kept:
                        result, *whole = keep_optimized_graph(content, entry, program, arguments)
                        self._keep(name, *whole)
                        is_kept = True
                        return result
            return program(*arguments)

        return run

    def _keep(self, name, content, entry):
        try:
            entry = write_program(self.folder, name, content, entry)
            others = read_dict(self.folder / MANIFEST, "programs") or {}  # of this and other runs
            self.entries = others | {name: entry}
            write_manifest(self.folder, self.params, self.entries)
            keep_machine_code(self.compiled)
        except OSError as error:  # the run goes on
            log(f"Compiled program {name} is not kept: {error}")


def open_programs(compiled, params, is_cache, tell=log):
    """Returns the ProgramLibrary for complete Params, or None; tells which.

    compiled: path-like, a folder as `machine_code.py` describes it. is_cache: bool. Whether it is
    that of `open_cache`, or else that of `--compile_only`.
    """
    folder = config_dir(compiled, params)
    if is_cache:
        programs = ProgramCache(compiled, params)
        if programs.entries:
            number = counted(len(programs.entries), "program")
            tell(f"Loading {number} that an earlier run kept in {folder}")
        return programs
    programs = ProgramLibrary(folder)
    if programs.entries is not None:
        number = counted(len(programs.entries), "program")
        tell(f"Loading {number} compiled ahead from {folder}, as they are used")
        return programs
    manifest = folder / MANIFEST
    if manifest.exists():
        log(f"{folder} is not used: {MANIFEST} is damaged, or another user's")
    else:
        report_others(manifest, "config", config_facts(params), "are of another configuration")
    return None


def read_entries(folder):
    """Returns {name: entry} of the intact programs in a folder."""
    entries = read_dict(Path(folder) / MANIFEST, "programs") or {}
    try:
        return {
            name: entry
            for name, entry in entries.items()
            if sha256(Path(folder) / f"{name}.pb") == entry["sha256"]
        }
    except OSError:
        return {}


def write_program(folder, name, content, entry):
    """Writes a program as of `keep_optimized_graph`. Returns its entry of the manifest."""
    write_whole(Path(folder) / f"{name}.pb", content)
    return entry | {"sha256": hashlib.sha256(content).hexdigest()}


def write_manifest(folder, params, entries):
    """Writes a folder's manifest, after the programs: a folder without it holds none."""
    content = {"config": config_facts(params), "programs": entries}
    write_list(Path(folder) / MANIFEST, content)
