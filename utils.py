# SPDX-License-Identifier: Apache-2.0
"""From a YAML file and the command line to checked `Params`, and back to `model_dir/params.yaml`.

`get_params` reports all faults of a file together, each with its line, dotted key, value, and what
is accepted. It does not import TensorFlow, so it answers at once.
"""

import itertools
import os
import re
from pathlib import Path

import yaml

from common.errors import UserError
from common.files import write_whole
from common.params import (
    INPUTS,
    SECTIONS,
    ModelParams,
    as_yaml,
    derive_inputs,
    differences,
    flag_keys,
    keys_of,
    no_effect,
    plain_differences,
)
from common.params.yaml_faults import describe, validate
from common.params.yaml_file import MAX_BYTES, Fault, NodeFault, read_value, read_yaml

SAVED = "params.yaml"  # in model_dir


def get_params(path, overrides=None, on_warning=None):
    """Reads and checks a YAML file.

    Args:
        path: str or path-like. The file.
        overrides: {dotted key: value} or None. Values of the command line, which replace the
            file's: {"runconfig.max_steps": 10}. None removes the file's value.
            `*_input.data_dir` is the key in every input of the file.
        on_warning: callable(str) or None. Called for each key that has no effect here.
    Returns:
        Params, frozen. Values that a checkpoint brings are still None: see `Params.complete`.
    Raises:
        UserError: the file cannot be read, or has faults; the text lists all of them.
    """
    path = os.fspath(path)
    values, lines, faults = read_yaml(path)
    move_origin(path, values)
    apply_overrides(values, lines, overrides or {})
    faults += move_initializer(values, lines)
    faults += with_pretrain_params(path, values, lines)
    params, more = validate(values)
    faults += more
    if faults:
        raise UserError(describe(path, faults, lines))
    for text in warnings_of(values, lines) if on_warning else ():
        on_warning(f"{path}: {text}")
    return params


# ---- The command line over the file --------------------------------------------------------------


def apply_overrides(values, lines, overrides):
    """Replaces values of the file by those of the command line; `lines` then has the flag."""
    for dotted, value in overrides.items():
        section, *keys = dotted.split(".")
        if section == "*_input":
            names = [name for name in INPUTS if isinstance(values.get(name), dict)]
        else:
            names = [section]
        for name in names:
            set_value(values, lines, (name, *keys), value)


def set_value(values, lines, path, value):
    """Sets one value, and creates the mappings on the path to it."""
    if path[0] == "eval_input" and len(path) > 1 and values.get("eval_input") is None:
        # Without an eval_input it has the keys of train_input: copy those, then set this one.
        values["eval_input"] = derive_inputs(values).get("eval_input")
        copy_lines(lines, "train_input", ("eval_input",))
    for i, key in enumerate(path[:-1]):
        if values.get(key) is None:
            values[key] = {}
            lines.setdefault(path[: i + 1], "--override")
        if isinstance(values[key], list) and i > 0:
            raise UserError(
                f"--override {'.'.join(path)}: {key} is a list, which is set as a whole: "
                f"--override '{'.'.join(path[: i + 1])}=[...]'"
            )
        if not isinstance(values[key], dict):
            return  # not a mapping, which `validate` reports
        values = values[key]
    values[path[-1]] = value
    lines[path] = f"--{path[-1]}" if path[-1] in flag_keys() else "--override"


def copy_lines(lines, section, new):
    """Gives the keys of a section their lines at another path, too."""
    lines.update({(*new, *path[1:]): n for path, n in lines.items() if path[0] == section})


# What `save_params` has always written, and nobody writes in full.
SAVED_KEYS = {"mode", "model_dir", "tf_random_seed", "deterministic", "allow_changed_params"}


def move_origin(path, values):
    """Reads checkpoint_path as started_from in params that a version without that key has saved.

    There it is what a training was started from; what the training made lies beside the file.
    """
    run, name = values.get("runconfig"), os.path.basename(path)
    if not isinstance(run, dict) or not re.fullmatch(r"params(\.\d+)?\.yaml", name):
        return
    if run.keys() >= SAVED_KEYS and "started_from" not in run:
        run["started_from"] = run.pop("checkpoint_path", None) or False


def move_initializer(values, lines):
    """Moves the original's top-level `initializer` into model, and its lines with it."""
    if "initializer" not in values or not isinstance(values.get("model", ()), dict | None):
        return []
    values["model"] = model = values["model"] or {}
    top = values.pop("initializer")
    if model.get("initializer") not in (None, top):
        text = "is given here and, otherwise, under model; keep one of the two"
        return [Fault(("initializer",), text)]
    model["initializer"] = top
    copy_lines(lines, "initializer", ("model", "initializer"))
    return []


def with_pretrain_params(path, values, lines):
    """Adds the model keys of the pre-training's file that this file does not give. Returns faults.

    Removes `model.pretrain_params_path`, so that the saved params do not depend on another file. A
    relative one starts in the folder of `path` or, as in the original, in the folder above. In
    `lines`, a key from the other file has that file's name before its line.
    """
    key = ("model", "pretrain_params_path")
    model = values.get("model")
    other = model.get(key[1]) if isinstance(model, dict) else None
    if not isinstance(other, str) or not other.strip():
        return []  # not given, or refused by `validate`
    folder, other = os.path.dirname(path), os.path.expanduser(other)
    above = os.path.join(folder, os.pardir, other)
    other = os.path.join(folder, other)
    if os.path.exists(above) and not os.path.exists(other):
        other = above
    try:
        if os.path.exists(other) and not (os.path.isfile(other) or os.path.isdir(other)):
            raise UserError(f"{other}: a device or a pipe; name a file")
        pretraining, other_lines, faults = read_yaml(other)
        if not isinstance(pretraining.get("model"), dict):
            raise UserError(f"{other}: model: not given; name the file of the pre-training run")
    except UserError as error:
        del model[key[1]]
        return [Fault(key, str(error))]
    excluded = {name for name, value in model.items() if value is not None}
    excluded |= {*keys_of(ModelParams, from_pretraining=False)}
    excluded |= {dotted.removeprefix("model.") for dotted in no_effect()}
    added = {name: value for name, value in pretraining["model"].items() if name not in excluded}
    del model[key[1]]
    model.update(added)
    for place, line in other_lines.items():
        if len(place) > 1 and place[0] == "model" and place[1] in added:
            lines[place] = f"{other}: line {line}"
    return [
        fault._replace(line=f"{other}: line {fault.line}")
        for fault in faults
        if fault.path[0] == "model"
    ]


def parse_override(text):
    """Returns (dotted key, value) of `KEY=VALUE`; the value is YAML.

    Raises:
        UserError: there is no `=`, or the value cannot be read.
    """
    key, equals, value = text.partition("=")
    keys = key.strip().split(".")
    if not equals or not all(keys):
        shown = as_yaml(text)[1:-1]
        raise UserError(f"--override {shown}: write KEY=VALUE, as optimizer.learning_rate=1e-4")
    try:
        return ".".join(keys), read_value(value, tuple(keys))
    except NodeFault as error:
        reason = str(error).removeprefix("line 1: ")
        shown = f"--override {as_yaml(key)[1:-1]}: {as_yaml(value)}"
        raise UserError(f"{shown} cannot be read as YAML: {reason}") from None


# ---- Keys of the original that change nothing here -----------------------------------------------


def warnings_of(values, lines):
    """Warnings of the keys in a file that have no effect here, in the order of the file.

    A key at its default is left out: it changed nothing in the original either.
    """
    warnings = []
    for dotted, instead in no_effect().items():
        section, key = dotted.split(".")
        value = (values.get(section) or {}).get(key)
        if value is None or value == SECTIONS[section].model_fields[key].default:
            continue
        line = lines.get((section, key), "")
        where = f"line {line}" if isinstance(line, int) else line
        order = line if isinstance(line, int) else MAX_BYTES
        warnings.append((order, f"{where}: {dotted} has no effect here; {instead}"))
    return [text for _, text in sorted(warnings)]


# ---- model_dir/params.yaml -----------------------------------------------------------------------


def save_params(params, model_dir):
    """Writes the effective params to model_dir/params.yaml.

    An existing file with other values is renamed to params.1.yaml, params.2.yaml, ...

    Args:
        model_dir: str or path-like. Created if it does not exist.
    Returns:
        List of (dotted key, old value, new value): the changes since the previous run. Empty if
        there are none, or no previous run.
    """
    model_dir = Path(model_dir)
    path = model_dir / SAVED
    changes = []
    try:
        if path.exists():
            changes = changes_from(path, params)
            if not changes:
                return []
            keep_former(path.read_bytes(), model_dir)
        write_whole(path, params.to_yaml())
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written: {error.strerror}; choose another --model_dir"
        ) from None
    return changes


def changes_from(path, params):
    """The changes from a saved file to params, as `save_params` returns them."""
    try:
        return differences(get_params(path), params)
    except UserError:
        pass  # of another version, or edited by hand: compare plain values
    try:
        values = read_yaml(path)[0]
    except UserError:
        return [(path.name, "no readable YAML", "written anew")]
    return plain_differences(values, yaml.safe_load(params.to_yaml()))


def keep_former(content, model_dir):
    """Writes a former params.yaml under the first free number, unless one has the same content."""
    numbered = (model_dir / f"params.{n}.yaml" for n in itertools.count(1))
    path = next(path for path in numbered if not path.exists() or path.read_bytes() == content)
    if not path.exists():
        write_whole(path, content)
