# SPDX-License-Identifier: Apache-2.0
"""From a YAML file and the command line to checked `Params`, and back into `model_dir/params.yaml`.

`get_params` finds every fault of a file before it refuses it, and says for each the line, the
dotted key, what was found and what is accepted. It needs no TensorFlow, so it answers at once.
"""

import difflib
import os
from pathlib import Path
from typing import NamedTuple

import yaml
from pydantic import ValidationError

from common.errors import UserError
from common.files import write_whole
from common.params import (
    INPUTS,
    SECTIONS,
    ModelParams,
    Params,
    Section,
    derive_inputs,
    differences,
    fault_list,
    flag_keys,
    found,
    keys_of,
    no_effect,
    plain_differences,
)

MAX_BYTES = 100_000  # of a file; real ones have 3,000
MAX_VALUES = 300_000  # characters and values, with what aliases repeat
MAX_ALIASES = 100
MAX_DEPTH = 50  # of lists and mappings in one another; real files have 4
MAX_DIGITS = 1_000  # of a whole number; Python itself writes no more than 4,300
MAX_FAULTS = 100  # told at once


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


# ---- YAML text to plain values, with the line of each --------------------------------------------


class NodeFault(UserError):
    """Something in a file that YAML allows and a configuration does not."""


def fault_at(node, text):
    """node: a node or an event of PyYAML, which knows where it starts."""
    return NodeFault(f"line {node.start_mark.line + 1}: {text}")


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader, in which a file cannot name the same thing over and over.

    Nor can it nest deeper than any configuration does, which costs time before Python refuses it.
    """

    num_aliases = 0
    depth = 0

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            self.num_aliases += 1
            if self.num_aliases > MAX_ALIASES:
                raise fault_at(self.peek_event(), f"more than {MAX_ALIASES} aliases (*name)")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise fault_at(self.peek_event(), "brackets or lists nested too deep to read")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def read_yaml(path):
    """Reads a YAML file whose top level is a mapping.

    Returns:
        values: dict. As `yaml.safe_load` gives it.
        lines: dict. Tuple of keys and indices -> line, from 1, on which that key stands.
        faults: list of Fault. What can be reported together with faults of the values.
    Raises:
        UserError: the first thing that hinders reading the file, with its line.
    """
    text = read_text(path)
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        if node is None:
            raise UserError(f"{path}: the file is empty; it needs sections such as train_input")
        if not isinstance(node, yaml.MappingNode):
            kind = "a list" if isinstance(node, yaml.SequenceNode) else found(node.value)
            raise UserError(
                f"{path}: line {node.start_mark.line + 1}: the file holds {kind}; "
                "it needs sections such as `train_input:`, each with keys below it"
            )
        reader = NodeReader(loader)
        return reader.read(node, ()), reader.lines, reader.faults
    except NodeFault as error:
        raise UserError(f"{path}: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: {yaml_sentence(error)}") from None


def read_text(path):
    """The text of a file of at most MAX_BYTES, or a UserError."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file{near_files(path)}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder; give a YAML file, such as those in configs/") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read: {reason}") from None
    if len(data) > MAX_BYTES:
        raise UserError(f"{path}: larger than {MAX_BYTES:,} bytes; this is no configuration file")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: line {line}: not UTF-8 text; save the file as UTF-8") from None


def near_files(path):
    """A hint at the files that the user may have meant."""
    folder, name = os.path.split(path)
    try:
        names = sorted(n for n in os.listdir(folder or ".") if n.endswith((".yaml", ".yml")))
    except OSError:
        return f"; the folder {folder} is not there either"
    near = difflib.get_close_matches(name, names, n=1) or names[:5]
    return f"; there is {', '.join(os.path.join(folder, n) for n in near)}" if near else ""


class Fault(NamedTuple):
    """One thing to correct in a file."""

    path: tuple  # keys and indices that lead to it
    text: str  # what was found, and what is accepted
    line: int | None = None  # where that is not the line of the path's last key


class NodeReader:
    """Turns PyYAML's nodes into plain values and notes the line of each key."""

    def __init__(self, loader):
        self.loader = loader
        self.lines = {}
        self.faults = []
        self.seen = set()
        self.open = set()
        self.num_repeats = 0
        self.num_values = 0

    def read(self, node, path):
        """The value of a node. path: tuple of the keys and indices that lead to it."""
        if id(node) in self.open:
            raise fault_at(node, "a value that contains itself by an alias (*name)")
        self.count(node)
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self.mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                self.check_tag(node, "tag:yaml.org,2002:seq")
                values = []
                for i, item in enumerate(node.value):
                    self.lines[(*path, i)] = item.start_mark.line + 1
                    values.append(self.read(item, (*path, i)))
                return values
            return self.scalar(node)
        finally:
            self.open.discard(id(node))

    def count(self, node):
        """Refuses aliases that make a small file large."""
        self.num_repeats += id(node) in self.seen and not isinstance(node, yaml.ScalarNode)
        self.seen.add(id(node))
        self.num_values += 1 + (len(node.value) if isinstance(node, yaml.ScalarNode) else 0)
        if self.num_repeats > MAX_ALIASES or self.num_values > MAX_VALUES:
            raise fault_at(node, "aliases (*name) repeat this too often; write the values out")

    def mapping(self, node, path):
        self.check_tag(node, "tag:yaml.org,2002:map")
        values, merged, first_line = {}, {}, {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == "tag:yaml.org,2002:merge":
                for name, value in self.merge(value_node, path).items():
                    merged.setdefault(name, value)
                continue
            self.count(key_node)
            key = self.scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                shown = found(key) if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
                raise fault_at(key_node, f"{shown} stands as a key; keys are names")
            if key in first_line:
                text = f"given twice, first on line {first_line[key]}; keep one of the two"
                fault = Fault((*path, key), text, line)
                self.faults += [] if fault in self.faults else [fault]
                if len(self.faults) > MAX_FAULTS:
                    raise fault_at(key_node, f"{key} is given twice, as are {MAX_FAULTS} keys more")
                continue
            first_line[key] = line
            values[key] = self.read(value_node, (*path, key))
        self.lines.update({(*path, key): line for key, line in first_line.items()})
        return merged | values

    def merge(self, node, path):
        """`<<: *name`: the keys of another mapping, or of several, those of the first foremost."""
        if isinstance(node, yaml.MappingNode):
            return self.read(node, path)
        if isinstance(node, yaml.SequenceNode):
            values = {}
            for item in node.value:
                for name, value in self.merge(item, path).items():
                    values.setdefault(name, value)
            return values
        raise fault_at(node, "`<<` needs a mapping, such as *name")

    def scalar(self, node):
        if node.tag == "tag:yaml.org,2002:value":  # a lone `=`
            return node.value
        try:
            if node.tag == "tag:yaml.org,2002:binary":
                raise yaml.constructor.ConstructorError
            value = self.loader.construct_object(node)
            if isinstance(value, str):
                value.encode()  # half of a surrogate pair, as "\ud800", could not be printed
            if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
                raise ValueError
            return value
        except yaml.constructor.ConstructorError:
            raise fault_at(node, f"the tag {node.tag} is not accepted; write the value") from None
        except (ValueError, OverflowError, LookupError, AttributeError):  # as `!!bool 3` raises
            raise fault_at(node, f"{found(node.value)} cannot be read as a value") from None

    def check_tag(self, node, plain):
        if node.tag != plain:
            raise fault_at(node, f"the tag {node.tag} is not accepted; leave it out")


def yaml_sentence(error):
    """What PyYAML found wrong, as one sentence with its line."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    if isinstance(error, yaml.reader.ReaderError):
        return f"position {error.position}: the character #x{error.character:04x} is not allowed"
    line = f"line {mark.line + 1}: " if mark else ""
    if "'\\t'" in problem:
        return f"{line}a tab stands where YAML wants spaces; indent with spaces"
    if "expected a single document" in str(getattr(error, "context", "")):
        return f"{line}a second document begins (---); keep one"
    if problem == "mapping values are not allowed here":
        return f"{line}a colon where no value may begin; check the indentation, or quote the text"
    if "undefined alias" in problem:
        return f"{line}{problem}; write &name before the value that *name repeats"
    context = getattr(error, "context", None)
    return f"{line}no valid YAML: {problem}" + (f" ({context})" if context else "")


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
        loader = Loader(value)
        node = loader.get_single_node()
        reader = NodeReader(loader)
        value = None if node is None else reader.read(node, tuple(keys))
    except NodeFault as error:
        reason = str(error)
    except yaml.YAMLError as error:
        reason = yaml_sentence(error)
    else:
        if not reader.faults:
            return ".".join(keys), value
        fault = reader.faults[0]
        reason = f"{'.'.join(map(str, fault.path))}: {fault.text}"
        value = text.partition("=")[2]
    raise UserError(
        f"--override {found(key)[1:-1]}: {found(value)} cannot be read as YAML: "
        + reason.removeprefix("line 1: ")
    )


# ---- Faults --------------------------------------------------------------------------------------


def validate(values):
    """Checks the values of a file.

    Rules between keys are looked at only where the keys are right by themselves. So that a file
    tells all it has, faulty keys are taken out, and what is left is read a second time.

    Returns:
        (Params, []), or (None, list of Fault).
    """
    try:
        return Params.model_validate(values), []
    except ValidationError as error:
        errors, more = error.errors()[:MAX_FAULTS], error.error_count() - MAX_FAULTS
    faults = broken_rules(errors, values)
    if faults:
        return None, faults
    rest = copy_of(values)
    for error in errors:
        path = origin(trim(error["loc"], values, error["type"]), values)
        text = sentence(error, path, values)
        if text and Fault(path, text) not in faults:
            faults.append(Fault(path, text))
        remove(rest, path)
    if more > 0:
        return None, [*faults, Fault((), f"and {more} more")]
    try:
        Params.model_validate(with_placeholders(rest))
    except ValidationError as error:
        faults += broken_rules(error.errors(), values)
    # Each fault is told once, so one may have left its words to another; all cannot.
    return None, faults or [Fault((), "this is no params file; see docs/configuration.md")]


def broken_rules(errors, values):
    """The faults in pydantic's errors that `rule_faults` found."""
    faults = []
    for error in errors:
        if error["type"] == "rules":
            for dotted, text in error["ctx"]["faults"]:
                path = tuple(int(key) if key.isdigit() else key for key in dotted.split("."))
                fault = Fault(origin(path, values), text)
                faults += [] if fault in faults else [fault]
    return faults


def with_placeholders(values):
    """Harmless values for what has to be given, so that the rest can be looked at."""
    values.setdefault("model", {})
    names = [name for name in INPUTS[:2] if isinstance(values.get(name), dict)]
    for name in names or ["eval_input"]:
        needed = {"data_processor": "Sst2DataProcessor", "data_dir": "."}
        needed |= {"max_sequence_length": 3, "batch_size": 1}
        own = {key: value for key, value in (values.get(name) or {}).items() if value is not None}
        values[name] = needed | own
    return values


def copy_of(values):
    if isinstance(values, dict):
        return {key: copy_of(value) for key, value in values.items()}
    return [copy_of(value) for value in values] if isinstance(values, list) else values


def remove(values, path):
    """Takes a key out of nested mappings; in a list, the whole list."""
    for key in path[:-1]:
        if not isinstance(values, dict) or not isinstance(values.get(key), dict):
            break
        values = values[key]
    else:
        key = path[-1] if path else None
    if isinstance(values, dict):
        values.pop(key, None)


def trim(loc, values, kind):
    """Pydantic's place of an error, without the names of its unions: keys and indices."""
    path = []
    for i, key in enumerate(loc):
        is_key = isinstance(values, dict) and key in values
        is_index = isinstance(values, list | tuple) and isinstance(key, int) and key < len(values)
        if is_key or is_index:
            path.append(key)
            values = values[key]
        elif i == len(loc) - 1 and kind == "missing":
            path.append(key)
        elif i < 2 and path == list(loc[:i]) and loc[0] in INPUTS:
            path.append(key)  # a key of an input that is derived from another
    return tuple(path)


def origin(path, values):
    """The place in the file of a key that an input takes from the one it is derived from."""
    if path and path[0] == "predict_input":
        own = values.get("predict_input")
        if not isinstance(own, dict) or (len(path) > 1 and path[1] not in own):
            path = ("eval_input", *path[1:])
    if path and path[0] == "eval_input" and values.get("eval_input") is None:
        path = ("train_input", *path[1:])
    return path


def at(path, values, default):
    """The value at a path of the file, as it was before conversion."""
    for key in path:
        try:
            values = values[key]
        except (KeyError, IndexError, TypeError):
            return default
    return values


def section_of(path):
    """The Section that the key at a path belongs to: its class, or None inside schedules."""
    return SECTIONS.get(path[0]) if len(path) == 2 else None


def sentence(error, path, values):
    """One fault in plain words; "" where another fault of the file already says it."""
    kind, ctx, value = error["type"], error.get("ctx", {}), error["input"]
    if kind == "refused":
        return ctx["text"]
    if kind == "extra_forbidden":
        return unknown_key(path, values)
    if kind == "missing":
        return missing_key(path, values)
    shown = f"is {found(at(path, values, value))}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"{shown}; keys are wanted below it, indented" if value is not None else "is empty"
    if kind == "union_tag_invalid":
        key = ctx["discriminator"].strip("'")
        tags = ctx["expected_tags"].replace("'", "")
        return f"{key} is {found(value.get(key))}; available: {', '.join(sorted(tags.split(', ')))}"
    if kind == "union_tag_not_found":
        key = ctx["discriminator"].strip("'")
        return f"{shown}; a mapping with `{key}` is wanted"
    if kind == "literal_error":
        expected = ctx["expected"].replace(" or ", ", ").replace("'", "")
        return f"{shown}; available: {expected.replace('True', 'true').replace('False', 'false')}"
    bounds = {"greater_than": "above", "less_than": "below"}
    bounds |= {"greater_than_equal": "of at least", "less_than_equal": "of at most"}
    if kind in bounds:
        limit = next(iter(ctx.values()))
        limit = limit if isinstance(limit, int) else f"{limit:.12g}"
        return f"{shown}; a number {bounds[kind]} {limit} is wanted"
    wanted = {
        "bool_type": "true or false is wanted",
        "bool_parsing": "true or false is wanted",
        "string_type": "text is wanted; put it between quotes",
        "string_too_short": "it is empty; write a name, or leave the key out",
        "tuple_type": "a list is wanted",
        "list_type": "a list is wanted",
        "too_short": "the list is empty",
    }
    return f"{shown}; {wanted.get(kind, error['msg'])}"


def known_keys(path):
    """The keys accepted where a path ends; None in a mapping whose kind is told by a key in it."""
    if len(path) == 1:
        return list(SECTIONS)
    section = section_of(path)
    return None if section is None else list(section.model_fields)


def unknown_key(path, values):
    key, text = str(path[-1]), "unknown key"
    homes = [name for name, section in SECTIONS.items() if key in section.model_fields]
    homes = [name for name in homes if name != path[0]]
    if homes:
        return f"{text}; it belongs to {', '.join(homes)}"
    accepted = known_keys(path)
    if accepted is None:
        accepted = nested_keys(path, values)
    near = nearest(key, accepted)
    if near:
        return f"{text}; did you mean {near}?"
    elsewhere = {
        name: match
        for name, section in SECTIONS.items()
        if name != path[0] and (match := nearest(key, section.model_fields, cutoff=0.8))
    }
    if elsewhere:
        name, match = next(iter(elsewhere.items()))
        return f"{text}; did you mean {match} of {name}?"
    return f"{text}; accepted: {', '.join(accepted)}"


def nested_keys(path, values):
    """Keys accepted in a schedule or an initializer, by its `scheduler` or `name`."""
    for key in path[:-1]:
        values = values[key]
    for tag in ("scheduler", "name"):
        for section in all_sections():
            field = section.model_fields.get(tag)
            if field is not None and values.get(tag) in getattr(field.annotation, "__args__", ()):
                return list(section.model_fields)
    return ["scheduler", "name"]


def all_sections(section=Section):
    for each in section.__subclasses__():
        yield each
        yield from all_sections(each)


def nearest(key, accepted, cutoff=0.6):
    spelled = key.lower().replace("-", "_")
    near = difflib.get_close_matches(spelled, list(accepted), n=1, cutoff=cutoff)
    return near[0] if near else None


def missing_key(path, values):
    """A key that has to be given; "" where it is there, but misspelt."""
    if path == ("train_input",):
        return "not given; write it, or eval_input where nothing is to be trained"
    if len(path) > 1 and path[0] not in values:
        return ""  # the section is missing, which is said once
    accepted = known_keys(path) or nested_keys(path, values)
    for key in path[:-1]:
        values = values.get(key) if isinstance(values, dict) else values[key]
    if isinstance(values, dict):
        for other in values:
            if other not in accepted and nearest(str(other), accepted) == path[-1]:
                return ""
    return "not given"


def describe(path, faults, lines):
    """The text of the UserError: faults in the order of the file, those of flags behind them."""
    placed, said = [], set()
    for i, fault in enumerate(faults):
        known = fault.path
        while known and known not in lines:
            known = known[:-1]  # a key that is missing stands at its section
        line = fault.line or lines.get(known)
        where = f"line {line}" if isinstance(line, int) else line or ""
        if fault.path[:1] and fault.path[0] in INPUTS and isinstance(line, int):
            if (line, fault.path[1:], fault.text) in said:
                continue  # of an input that takes this line from another
            said.add((line, fault.path[1:], fault.text))
        is_last = isinstance(line, str) or not fault.path
        order = (is_last, line if isinstance(line, int) else 0, i)
        dotted = ".".join(map(str, fault.path))
        placed.append(
            (order, (where, dotted if dotted.isprintable() else repr(dotted), fault.text))
        )
    listed = [fault for _, fault in sorted(placed)]
    if all(where.startswith("--") for where, _, _ in listed):
        path = "command line"
    return fault_list(path, listed)


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
