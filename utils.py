# SPDX-License-Identifier: Apache-2.0
"""From a YAML file and the command line to checked `Params`, and back to `model_dir/params.yaml`.

`get_params` reports all faults of a file together, each with its line, dotted key, value, and what
is accepted. It does not import TensorFlow, so it answers at once.
"""

import contextlib
import itertools
import os
import re
from pathlib import Path

import yaml

from common.errors import UserError
from common.files import write_whole
from common.params import (
    FILE_KEYS,
    INPUTS,
    OF_FILES,
    SECTIONS,
    WITHOUT_SECTION,
    ModelParams,
    VocabularyFile,
    as_yaml,
    derive_inputs,
    differences,
    flag_keys,
    keys_of,
    no_effect,
    plain_differences,
)
from common.params.everyday import everyday_values, fill_in
from common.params.yaml_faults import describe, validate
from common.params.yaml_file import MAX_BYTES, NEURAL, Fault, NodeFault, read_value, read_yaml

SAVED = "params.yaml"  # in model_dir
COMMAND_LINE = "command line"  # in messages, where there is no file


def find_file(path):
    """The path, or where the working directory lacks it that of a config of this program.

    So `configs/params_bert_minilm_sst2.yaml` can be named from everywhere.
    """
    shipped = Path(__file__).parent / path
    if str(path).startswith("configs/") and not os.path.exists(path) and shipped.is_file():
        return str(shipped)
    return os.fspath(path)


def get_params(path, overrides=None, on_warning=None, origins=None):
    """Reads and checks a YAML file, or a `.neural` file.

    Args:
        path: str or path-like. The file. None: there is none, and overrides name a file of rows,
            as `*_input.train_file`; `common/params/everyday.py` has the values of other keys.
        overrides: {dotted key: value} or None. Values of the command line, which replace the
            file's: {"runconfig.max_steps": 10}. None removes the file's value.
            `*_input.data_dir` is the key in every input of the file.
        on_warning: callable(str) or None. Called for each key that has no effect here, and for
            what is chosen in place of a file.
        origins: {dotted key: str} or None. What a message names as the place of an override, in
            place of its flag.
    Returns:
        Params, frozen. Values that a checkpoint brings are still None: see `Params.complete`.
    Raises:
        UserError: the file cannot be read, or has faults; the text lists all of them.
    """
    if path is None:
        path, faults = COMMAND_LINE, []
        values, lines, told = values_without_file(overrides or {})
    else:
        path = find_file(path)
        values, lines, faults, told = read_file(path)
        move_origin(path, values)
        told += [f"{path}: {text}" for text in lost_schedules(values, lines, overrides or {})]
        apply_overrides(values, lines, overrides or {}, origins)
    faults += faults_of_length(values, lines)
    faults += move_initializer(values, lines)
    faults += with_pretrain_params(path, values, lines)
    params, more = validate(values)
    faults += more
    if faults:
        raise UserError(describe(path, faults, lines))
    for text in warnings_of(values, lines) if on_warning else ():
        on_warning(f"{path}: {text}")
    for text in told if on_warning else ():
        on_warning(text)
    return params


def read_file(path):
    """Returns values, lines and faults of a file, as `read_yaml` does, and what is told of it."""
    if not path.endswith(NEURAL[1]):
        return *read_yaml(path), []
    from extras.neural.description import read_neural  # here: it needs a package of its own

    values, lines, told = read_neural(path)
    return values, lines, [], told


def place_of(path, key, value=None):
    """Returns "FILE: line N: " of the line that gives a key, for the beginning of a message.

    "" where the file does not give it, or another value than this, as where a flag does.

    path: of a file, as of `get_params`. key: str, as "model.hidden_size".
    """
    section, name = key.split(".")
    try:
        values, lines, *_ = read_file(find_file(path))
        given, line = values[section][name], lines[section, name]
    except (UserError, KeyError, TypeError):  # of no such file, too
        return ""
    is_given = value is None or os.path.expanduser(str(given)) == str(value)
    return f"{path}: line {line}: " if is_given else ""


@contextlib.contextmanager
def placed(path, key, value):
    """A context in which a UserError begins with the line that gives a key this value, if any.

    path, key: as of `place_of`.
    """
    try:
        yield
    except UserError as error:
        if place := place_of(path, key, value):
            raise UserError(f"{place}{error}") from None
        raise


def get_vocabulary_file(path, overrides=None):
    """Reads and checks a YAML file for `--mode train_vocab`. Returns VocabularyFile, frozen.

    path, overrides, and what is raised: as of `get_params`.
    """
    path = find_file(path)
    values, lines, faults = read_yaml(path)
    apply_overrides(values, lines, overrides or {})
    file, more = validate(values, VocabularyFile)
    if faults + more:
        raise UserError(describe(path, faults + more, lines))
    return file


# ---- The command line over the file --------------------------------------------------------------


# A value of the command line -> keys of the file that say the same otherwise, and give way.
GIVE_WAY = {
    "runconfig.max_steps": ("runconfig.num_epochs", "runconfig.max_seconds"),
    "runconfig.num_epochs": ("runconfig.max_steps", "runconfig.steps", "runconfig.max_seconds"),
    "runconfig.max_seconds": ("runconfig.max_steps", "runconfig.steps", "runconfig.num_epochs"),
    "optimizer.learning_rate": (
        "optimizer.warmup_ratio",
        "optimizer.decay",
        "optimizer.decay_end",
    ),
}


def apply_overrides(values, lines, overrides, origins=None):
    """Replaces values of the file by those of the command line; `lines` then has the flag.

    A value for every input comes before those for one. origins: as of `get_params`.
    """
    give_way(values, overrides)
    for_every_input = {k: value for k, value in overrides.items() if k.startswith("*_input.")}
    for dotted, value in (for_every_input | overrides).items():
        section, *keys = dotted.split(".")
        names = inputs_with(keys[0], values) if dotted in for_every_input else [section]
        flag = dotted.rpartition(".")[2]
        flag = flag if flag_keys().get(flag) == dotted else "override"
        for name in names:
            origin = (origins or {}).get(dotted, f"--{flag}")
            set_value(values, lines, (name, *keys), value, origin)


def lost_schedules(values, lines, overrides):
    """Yields what is told where a rate of the command line takes the place of schedules."""
    optimizer, rate = values.get("optimizer"), overrides.get("optimizer.learning_rate")
    former = optimizer.get("learning_rate") if isinstance(optimizer, dict) else None
    is_shaped = {"optimizer.decay", "optimizer.warmup_ratio"} & overrides.keys()
    if rate is None or is_shaped or isinstance(rate, list | dict):
        return
    if isinstance(former, list | dict):
        line = lines.get(("optimizer", "learning_rate"), "of the file")
        yield (
            f"line {line}: the schedules of learning_rate give way to the rate {rate} of the "
            "command line, which is constant; for a warm-up and a decay add --override "
            "optimizer.warmup_ratio=0.1 --override optimizer.decay=linear"
        )


def values_without_file(overrides):
    """What `read_yaml` and `apply_overrides` make of a file, without one; and what is told."""
    from input.sources.columns import find_columns  # here: a params file needs none of its modules

    tasks = (overrides.get(f"{name}.task") for name in ("*_input", "train_input"))
    values, lines = everyday_values(next(filter(None, tasks), None)), {}
    apply_overrides(values, lines, overrides)
    return values, lines, fill_in(values, find_columns)


def inputs_with(key, values):
    """The inputs of a file that a value for every input is for; all, where none has such a key."""
    names = [name for name in INPUTS if isinstance(values.get(name), dict)]
    if key not in FILE_KEYS:
        return names
    derived = derive_inputs(values)
    of_files = [name for name in names if derived[name].get("data_processor") in OF_FILES]
    return of_files or names


def give_way(values, overrides):
    """Removes what the file says otherwise than the command line, as GIVE_WAY lists it."""
    for dotted, others in GIVE_WAY.items():
        value = overrides.get(dotted)
        is_rate = dotted == "optimizer.learning_rate" and not isinstance(value, list | dict)
        for section, key in (other.split(".") for other in others if other not in overrides):
            if value is not None and not is_rate and isinstance(values.get(section), dict):
                values[section].pop(key, None)


def faults_of_length(values, lines):
    """Faults of num_epochs and steps where both stand in the file, or on the command line.

    `--steps` with a file that has num_epochs trains so many steps of them.
    """
    run, paths = values.get("runconfig"), [("runconfig", key) for key in ("num_epochs", "steps")]
    if not isinstance(run, dict) or any(run.get(key) is None for _, key in paths):
        return []
    if len({isinstance(lines.get(path), str) for path in paths}) == 2:
        return []
    text = f"is {run['steps']}, and num_epochs is {run['num_epochs']}; training has one length, so "
    return [Fault(paths[1], f"{text}leave one of the two out")]


def set_value(values, lines, path, value, flag="--override"):
    """Sets one value, and creates the mappings on the path to it. flag: str, what gives it."""
    if path[0] == "optimizer" and len(path) > 1 and values.get("optimizer") is None:
        values["optimizer"] = dict(WITHOUT_SECTION)  # what it has without the section
        give_way(values, {".".join(path): value})
    if path[0] == "eval_input" and len(path) > 1 and values.get("eval_input") is None:
        # Without an eval_input it has the keys of train_input: copy those, then set this one.
        values["eval_input"] = derive_inputs(values).get("eval_input")
        copy_lines(lines, "train_input", ("eval_input",))
    for i, key in enumerate(path[:-1]):
        if values.get(key) is None:
            values[key] = {}
            lines.setdefault(path[: i + 1], flag)
        if isinstance(values[key], list) and i > 0:
            raise UserError(
                f"--override {'.'.join(path)}: {key} is a list, which is set as a whole: "
                f"--override '{'.'.join(path[: i + 1])}=[...]'"
            )
        if not isinstance(values[key], dict) and i > 0:
            raise UserError(
                f"--override {'.'.join(path)}: {key} is {as_yaml(values[key])}, which has no keys "
                f"below it; set it as a whole: --override '{'.'.join(path[: i + 1])}=...'"
            )
        if not isinstance(values[key], dict):
            return  # not a mapping, which `validate` reports
        values = values[key]
    values[path[-1]] = value
    lines[path] = flag


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
