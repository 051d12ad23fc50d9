# SPDX-License-Identifier: Apache-2.0
"""Programs on disk: a step is traced once, and later runs bind it to their own variables.

Tracing a step of BERT takes Python some seconds for each shape. The traced graph is kept with the
names of the variables that it reads and writes. A later run of the same configuration calls it: the
same operations in the same order, so the same bits.
"""

import base64
import contextlib
import copy
import hashlib
import json
import os
import sys
import tempfile
import threading
from pathlib import Path

import tensorflow as tf

from common.console import log
from common.errors import RunError
from common.files import hash_of, sha256, write_whole
from common.params import compiled_keys
from common.platform.machine_code import (
    differences,
    keep_machine_code,
    machine_dir,
)
from common.platform.optimized_graphs import device_names, keep_optimized_graph, optimized_graph
from common.platform.tf_private import function_runtime

MANIFEST = "programs.json"
PROJECT = Path(__file__).resolve().parents[2]
# Files of TensorFlow's sources whose log lines `without_false_alarms` drops.
FALSE_ALARMS = (b"cpu_aot_loader.cc", b"XlaSerializedCacheEntry")


def config_facts(params):
    """Returns all that programs of complete Params depend on but shapes: {dotted key: str}."""
    sections = params.model_dump(mode="json")
    facts = {"source": source_hash()}
    for dotted in compiled_keys():
        section, key = dotted.split(".")
        facts[dotted] = json.dumps((sections[section] or {}).get(key), sort_keys=True)
    return facts


def source_hash():
    """Returns a hash of the project's source files that define programs."""
    files = [PROJECT / "model.py", PROJECT / "BertClassifierModel.py"]
    files += sorted((PROJECT / "common").rglob("*.py"))
    return hash_of({str(file.relative_to(PROJECT)): sha256(file) for file in files})[:16]


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
    """Returns {name: tf.Variable} of all that a step can read and write.

    model, optimizer: BaseModel, Optimizer or None. sums: {name: variable} of a `Replica`.
    """
    found = {f"model/{name}": weight.value for name, weight in model.weights_by_name().items()}
    found |= {f"sums/{name}": variable for name, variable in dict(sums).items()}
    found["clock/seed"] = model.clock.seed.value
    found["clock/step"] = model.clock.step.value
    found |= {f"loss/{name}": each.value for name, each in model.loss_variables().items()}
    if optimizer is not None:
        _collect(vars(optimizer), "optimizer", found)
        _collect(vars(optimizer.loss_scale), "loss_scale", found)
    return found


def _collect(values, path, found):
    """Adds the variables in a dict, and in dicts within it, to `found`."""
    for name, value in values.items():
        if isinstance(value, tf.Variable):
            found[f"{path}/{name}"] = value
        elif isinstance(value, dict):
            _collect(value, f"{path}/{name}", found)


class ProgramLibrary:
    """The programs of one configuration, which `--compile_only` made. Each is loaded at its first
    use.

    Args:
        folder: path-like, with programs.json.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.entries = json.loads((self.folder / MANIFEST).read_text("utf-8"))["programs"]
        self.loaded = []

    def maker(self, kind, variables):
        """Returns make(step, *arguments) -> a program of the step for such arguments.

        Args:
            kind: "train", "add" (a batch of several to one update) or "predict".
            variables: of `variables_of`.
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

    Args:
        compiled: path-like, of `open_cache`.
        params: complete Params.
    """

    def __init__(self, compiled, params):
        self.compiled, self.params = Path(compiled), params
        self.folder = config_dir(compiled, params)
        self.entries = _entries(self.folder)
        self.loaded = []
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
            content, entry = to_bytes(concrete, variables, prefix_of(self.folder, name))
        except NotKept:
            return concrete
        program = bind(content, entry, variables, arguments)
        is_kept = False

        def run(*arguments):
            nonlocal is_kept
            if not is_kept:
                with _one_at_a_time:  # so that the collected graphs are those of this program
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
            self.entries = _entries(self.folder) | {name: entry}  # with those of other runs
            write_manifest(self.folder, self.params, self.entries)
            keep_machine_code(self.compiled)
        except OSError as error:  # the run goes on
            log(f"Compiled program {name} is not kept: {error}")


def open_programs(compiled, params, is_cache):
    """Returns the ProgramLibrary for complete Params, or None; prints which.

    Args:
        compiled: path-like, a folder as `machine_code.py` describes it.
        params: complete Params.
        is_cache: bool. Whether it is that of `open_cache`, or else that of `--compile_only`.
    """
    folder = config_dir(compiled, params)
    if is_cache:
        programs = ProgramCache(compiled, params)
        if programs.entries:
            log(f"Loading {len(programs.entries)} programs that an earlier run kept in {folder}")
        return programs
    try:
        programs = ProgramLibrary(folder)
    except FileNotFoundError:
        _report_other_configurations(folder, params)
        return None
    except (OSError, ValueError, KeyError, TypeError):
        log(f"{folder} is not used: {MANIFEST} is damaged; --compile_only writes it again")
        return None
    log(f"Loading {len(programs.entries)} programs compiled ahead from {folder}, as they are used")
    return programs


def _report_other_configurations(folder, params):
    for other in sorted(folder.parent.glob(f"config-*/{MANIFEST}")):
        try:
            facts = json.loads(other.read_text("utf-8"))["config"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        changed = differences(facts, config_facts(params))
        log(f"The programs in {other.parent} are of another configuration: {changed}")


def read_entries(folder):
    """Returns {name: entry} of the intact programs in a folder."""
    try:
        return {
            name: entry
            for name, entry in _entries(folder).items()
            if sha256(Path(folder) / f"{name}.pb") == entry["sha256"]
        }
    except (OSError, KeyError, TypeError):
        return {}


def _entries(folder):
    """Returns {name: entry} of a folder's manifest, without reading the programs."""
    try:
        return dict(json.loads((Path(folder) / MANIFEST).read_text("utf-8"))["programs"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def write_program(folder, name, content, entry):
    """Writes a program as of `keep_optimized_graph`. Returns its entry of the manifest."""
    write_whole(Path(folder) / f"{name}.pb", content)
    return entry | {"sha256": hashlib.sha256(content).hexdigest()}


def write_manifest(folder, params, entries):
    """Writes a folder's manifest, after the programs: a folder without it holds none."""
    content = {"config": config_facts(params), "programs": entries}
    write_whole(Path(folder) / MANIFEST, json.dumps(content, indent=2))


# ---- One program as bytes ------------------------------------------------------------------------


def trace(step, arguments):
    """Returns a ConcreteFunction of step(*arguments)."""
    return tf.function(step, autograph=False).get_concrete_function(*arguments)


def prefix_of(folder, name):
    """Returns the prefix of a program's function names, for `to_bytes`."""
    return f"{folder.name}_{name}_"


class NotKept(Exception):
    """A later run could not call this program."""


def to_bytes(concrete, variables, prefix):
    """Returns a traced function as bytes, and a JSON value with what `bind` needs besides.

    The bytes are an OptimizedFunctionGraph; the function is the last one of its library.

    Args:
        concrete: tf.types.experimental.ConcreteFunction.
        variables: {name: tf.Variable} that it may use.
        prefix: str, for its name and those of its inner functions, which are unique in a process.
    Raises:
        NotKept: it uses another variable, or TensorFlow runs no functions by name.
    """
    runtime = function_runtime()
    if runtime is None:
        raise NotKept(f"TensorFlow {tf.__version__} has no interface that runs it")
    names = {id(variable.handle): name for name, variable in variables.items()}
    outer_of = {placeholder.name: outer for outer, placeholder in concrete.graph.captures}
    inputs = []
    for tensor in concrete.graph.inputs:
        outer = outer_of.get(tensor.name)
        if outer is None:
            inputs.append(["argument", tensor.dtype.name, tensor.shape.as_list()])
        elif id(outer) in names:
            inputs.append(["variable", names[id(outer)]])
        elif outer.dtype == tf.resource:
            raise NotKept(f"it uses a variable that has no name here ({tensor.name})")
        else:
            value = base64.b64encode(tf.io.serialize_tensor(outer).numpy()).decode()
            inputs.append(["constant", outer.dtype.name, value])
    graph = runtime.graph()
    library = graph.function_graph.library
    library.CopyFrom(concrete.graph.as_graph_def().library)
    library.function.append(concrete.function_def)
    _rename_functions(library, prefix)
    return graph.SerializeToString(deterministic=True), {
        "function": library.function[-1].signature.name,
        "inputs": inputs,
        "num_outputs": len(concrete.graph.outputs),
        "structure": _structure_of(concrete.structured_outputs),
        "devices": None,
    }


def bind(content, entry, variables, arguments):
    """Returns a program of `to_bytes` that uses the variables of this run.

    Args:
        content, entry: of `to_bytes` or `keep_optimized_graph`.
        variables: {name: tf.Variable}.
        arguments: tensors or TensorSpecs as those that it was traced with.
    Returns:
        function of such arguments; None where variables or arguments differ from those that it was
        traced with, or TensorFlow runs no functions by name.
    """
    runtime = function_runtime()
    if runtime is None:
        return None
    signature = [[each.dtype.name, each.shape.as_list()] for each in tf.nest.flatten(arguments)]
    if signature != [values for kind, *values in entry["inputs"] if kind == "argument"]:
        return None
    if any(kind == "variable" and values[0] not in variables for kind, *values in entry["inputs"]):
        return None
    # The runtime calls the function by its name. Importing it as a graph would take a second.
    functions = runtime.graph.FromString(content).function_graph.library.function
    for function in functions:
        runtime.add(function)
    inputs = [_bound(variables, *each) for each in entry["inputs"]]
    name, num_outputs = entry["function"].encode(), entry["num_outputs"]

    @contextlib.contextmanager
    def first_call():
        # A graph that was placed on other devices cannot run in this process.
        is_optimized = entry["devices"] == device_names()
        with (
            without_false_alarms(),
            optimized_graph(content, functions[-1]) if is_optimized else contextlib.nullcontext(),
        ):
            yield

    within = first_call

    def run(*arguments):
        nonlocal within
        left = iter(tf.nest.flatten(arguments))
        tensors = [next(left) if each is None else each for each in inputs]
        with within():
            outputs = runtime.call(name, tensors, num_outputs)
        within = contextlib.nullcontext
        return _pack(entry["structure"], iter(outputs or ()))

    return run


def _bound(variables, kind, *values):
    """Returns the tensor of a variable or a constant; None for an argument."""
    if kind == "variable":
        return variables[values[0]].handle
    if kind == "constant":
        dtype, text = values
        return tf.io.parse_tensor(base64.b64decode(text), tf.as_dtype(dtype))
    return None


_one_at_a_time = threading.RLock()


@contextlib.contextmanager
def without_false_alarms():
    """Drops the lines that XLA logs for each file of machine code that it loads.

    They say, in 4,000 characters, that the processor lacks the feature "prefer-no-gather", which is
    a setting of XLA itself, and that a binary file is no text. TF_CPP_MIN_LOG_LEVEL does not stop
    them.
    """
    # One thread at a time: a second one would restore the first one's file as stderr.
    with _one_at_a_time, tempfile.TemporaryFile() as log:
        sys.stderr.flush()
        stderr = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            log.seek(0)
            for line in log:
                if not any(source in line for source in FALSE_ALARMS):
                    os.write(2, line)


def _structure_of(value):
    """Returns a nest of dicts, lists and tensors as JSON, with "*" for each tensor."""
    if isinstance(value, dict):
        return {key: _structure_of(value[key]) for key in sorted(value)}
    if isinstance(value, tuple | list):
        return [_structure_of(item) for item in value]
    return None if value is None else "*"


def _pack(structure, outputs):
    """Returns tensors, in the order of tf.nest.flatten, as a nest of the given structure."""
    if isinstance(structure, dict):
        return {key: _pack(structure[key], outputs) for key in sorted(structure)}
    if isinstance(structure, list):
        return [_pack(item, outputs) for item in structure]
    return None if structure is None else next(outputs)


def _rename_functions(library, prefix):
    """Renames the functions of a library, and all references to them.

    Functions that XLA compiles are named by a hash of their content, by which XLA finds their
    machine code, so that programs of other configurations share it. The others get the prefix.
    """
    names = {}
    for function in library.function:
        name = function.signature.name
        names[name] = _content_name(function) if "_XlaMustCompile" in function.attr else None
        names[name] = names[name] or prefix + name

    def rename_attributes(attributes):
        for attribute in attributes.values():
            functions = [attribute.func] if attribute.HasField("func") else attribute.list.func
            for function in functions:
                function.name = names.get(function.name, function.name)
                rename_attributes(function.attr)

    for function in library.function:
        function.signature.name = names[function.signature.name]
        rename_attributes(function.attr)
        for node in function.node_def:
            node.op = names.get(node.op, node.op)
            rename_attributes(node.attr)
    for gradient in library.gradient:
        gradient.function_name = names.get(gradient.function_name, gradient.function_name)
        gradient.gradient_func = names.get(gradient.gradient_func, gradient.gradient_func)


def _content_name(function):
    """Returns a name that equal functions share; None where a function refers to others by name."""
    attributes = [attribute for node in function.node_def for attribute in node.attr.values()]
    if any(each.HasField("func") or each.list.func for each in attributes):
        return None
    nameless = copy.deepcopy(function)
    nameless.signature.name = ""
    digest = hashlib.sha256(nameless.SerializeToString(deterministic=True)).hexdigest()
    return f"compiled_{digest[:24]}"
