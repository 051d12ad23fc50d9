# SPDX-License-Identifier: Apache-2.0
"""From a YAML file and the command line to checked `Params`, and back into `model_dir/params.yaml`.

`get_params` finds every fault of a file before it refuses it, and says for each the line, the
dotted key, what was found and what is accepted. It needs no TensorFlow, so it answers at once.
"""

import os
from pathlib import Path

import yaml

from common.errors import UserError
from common.files import write_whole
from common.params import (
    INPUTS,
    SECTIONS,
    ModelParams,
    derive_inputs,
    differences,
    flag_keys,
    found,
    keys_of,
    no_effect,
    plain_differences,
)
from common.params.yaml_faults import describe, validate
from common.params.yaml_file import MAX_BYTES, Fault, NodeFault, read_value, read_yaml


def get_params(path, overrides=None, on_warning=None):
    """Reads and checks a YAML file.

    Args:
        path: str or path-like. The file.
        overrides: dict or None. Dotted key to value, from the command line, in place of the file's:
            {"runconfig.max_steps": 10}. None makes the key one that is not given.
            `*_input.data_dir` stands for that key in each input of the file.
        on_warning: callable(str) or None. Told of each key that changes nothing here.
    Returns:
        Params, frozen. What a checkpoint brings is still None: see `Params.complete`.
    Raises:
        UserError: the file cannot be read, or has faults; the text lists all of them.
    """
    path = os.fspath(path)
    values, lines, faults = read_yaml(path)
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
    """Puts the command line's values into those of the file, and notes in `lines` the flag."""
    for dotted, value in overrides.items():
        section, *keys = dotted.split(".")
        if section == "*_input":
            names = [name for name in INPUTS if isinstance(values.get(name), dict)]
        else:
            names = [section]
        for name in names:
            set_value(values, lines, (name, *keys), value)


def set_value(values, lines, path, value):
    """Sets one value, making the mappings that lead to it."""
    if path[0] == "eval_input" and len(path) > 1 and values.get("eval_input") is None:
        # The file leaves it out, so it is train_input's keys: those first, then this one.
        values["eval_input"] = derive_inputs(values).get("eval_input")
        copy_lines(lines, "train_input", "eval_input")
    for i, key in enumerate(path[:-1]):
        if values.get(key) is None:
            values[key] = {}
            lines.setdefault(path[: i + 1], "--override")
        if isinstance(values[key], list) and i > 0:
            raise UserError(
                f"--override {'.'.join(map(str, path))}: {key} is a list, which is set as a "
                f"whole: --override '{'.'.join(map(str, path[: path.index(key) + 1]))}=[...]'"
            )
        if not isinstance(values[key], dict):
            return  # not a mapping: a fault of the file, which is found below
        values = values[key]
    values[path[-1]] = value
    lines[path] = f"--{path[-1]}" if path[-1] in flag_keys() else "--override"


def copy_lines(lines, old, new):
    for path, line in list(lines.items()):
        if path[0] == old:
            lines[(new, *path[1:])] = line


def move_initializer(values, lines):
    """Puts the original's top-level `initializer` under model, with the lines it stands on."""
    if "initializer" not in values or not isinstance(values.get("model", ()), dict | None):
        return []
    values["model"] = model = values["model"] or {}
    top = values.pop("initializer")
    if model.get("initializer") not in (None, top):
        text = "is given here and, otherwise, under model; keep one of the two"
        return [Fault(("initializer",), text)]
    model["initializer"] = top
    for path, line in list(lines.items()):
        if path[0] == "initializer":
            lines[("model", *path)] = line
    return []


def with_pretrain_params(path, values, lines):
    """Puts under model what the file of the pre-training says there and this one does not.

    `model.pretrain_params_path` itself is taken out, so that what is saved stands by itself.

    Args:
        path: str, the params file; a relative pretrain_params_path starts in its folder, or, as the
            original's do, in the one above it.
        values, lines: see `read_yaml`. A key from the other file has its name before the line.
    Returns:
        List of Fault: the other file cannot be read, or has faults of its own under model.
    """
    key = ("model", "pretrain_params_path")
    model = values.get("model")
    other = model.get(key[1]) if isinstance(model, dict) else None
    if not isinstance(other, str) or not other.strip():
        return []  # not given, or refused below
    folder, other = os.path.dirname(path), os.path.expanduser(other)
    above = os.path.join(folder, os.pardir, other)
    other = os.path.join(folder, other)
    if os.path.exists(above) and not os.path.exists(other):
        other = above
    try:
        if os.path.exists(other) and not (os.path.isfile(other) or os.path.isdir(other)):
            raise UserError(f"{other}: a device or a pipe, from which nothing may ever come")
        theirs, their_lines, their_faults = read_yaml(other)
        if not isinstance(theirs.get("model"), dict):
            raise UserError(f"{other}: model: not given; name the file of the pre-training run")
    except UserError as error:
        del model[key[1]]
        return [Fault(key, str(error))]
    own = {name for name, value in model.items() if value is not None}
    left_out = {*own, *keys_of(ModelParams, from_pretraining=False)}
    left_out |= {dotted.removeprefix("model.") for dotted in no_effect()}
    taken = {name: value for name, value in theirs["model"].items() if name not in left_out}
    del model[key[1]]
    model.update(taken)
    for place, line in their_lines.items():
        if len(place) > 1 and place[0] == "model" and place[1] in taken:
            lines[place] = f"{other}: line {line}"
    return [
        fault._replace(line=f"{other}: line {fault.line}")
        for fault in their_faults
        if fault.path[0] == "model"
    ]


def parse_override(text):
    """Returns (dotted key, value) of `KEY=VALUE`; the value is read as YAML, as in the file.

    Raises:
        UserError: there is no `=`, or the value is no YAML.
    """
    key, equals, value = text.partition("=")
    keys = key.strip().split(".")
    if not equals or not all(keys):
        shown = found(text)[1:-1]
        raise UserError(f"--override {shown}: write KEY=VALUE, as optimizer.learning_rate=1e-4")
    try:
        return ".".join(keys), read_value(value, tuple(keys))
    except NodeFault as error:
        reason = str(error).removeprefix("line 1: ")
    shown = f"--override {found(key)[1:-1]}: {found(value)}"
    raise UserError(f"{shown} cannot be read as YAML: {reason}")


# ---- Keys of the original that change nothing here -----------------------------------------------


def warnings_of(values, lines):
    """What to tell of the keys without effect that a file gives, in the order of the file.

    A value that is the key's default changed nothing in the original either.

    Returns:
        List of "line 3: runconfig.ir_mode has no effect here; ...".
    """
    told = []
    for dotted, instead in no_effect().items():
        section, key = dotted.split(".")
        given = (values.get(section) or {}).get(key)
        if given is None or given == SECTIONS[section].model_fields[key].default:
            continue
        line = lines.get((section, key), "")
        where = f"line {line}" if isinstance(line, int) else line
        order = line if isinstance(line, int) else MAX_BYTES
        told.append((order, f"{where}: {dotted} has no effect here; {instead}"))
    return [text for _, text in sorted(told)]


# ---- model_dir/params.yaml -----------------------------------------------------------------------


def save_params(params, model_dir):
    """Writes the effective params to model_dir/params.yaml.

    A file with other values that is there already is kept as params.1.yaml, params.2.yaml, ...

    Args:
        params: Params.
        model_dir: str or path-like. Made if it is not there.
    Returns:
        List of (dotted key, old value, new value): what differs from the run before. Empty where
        nothing does, or where this is the first.
    """
    model_dir = Path(model_dir)
    path = model_dir / "params.yaml"
    changes = []
    try:
        model_dir.mkdir(parents=True, exist_ok=True)
        if path.exists():
            changes = changes_from(path, params)
            if not changes:
                return []
            keep(path.read_bytes(), model_dir)
        write_whole(path, params.to_yaml())
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written: {error.strerror}; choose another --model_dir"
        ) from None
    return changes


def changes_from(path, params):
    """What differs between a saved file and params."""
    try:
        return differences(get_params(path), params)
    except UserError:
        pass  # written by another version, or changed by hand: compared as plain values
    try:
        values = read_yaml(path)[0]
    except UserError:
        return [(path.name, "no readable YAML", "written anew")]
    return plain_differences(values, yaml.safe_load(params.to_yaml()))


def keep(old, model_dir):
    """Keeps a former params.yaml under the first free number, unless one holds the same."""
    n = 1
    while True:
        path = model_dir / f"params.{n}.yaml"
        try:
            with open(path, "xb") as file:
                file.write(old)
            return
        except FileExistsError:
            if path.read_bytes() == old:
                return
            n += 1
