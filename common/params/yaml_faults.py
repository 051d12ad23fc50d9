# SPDX-License-Identifier: Apache-2.0
"""The faults of a params file in plain words: line, dotted key, value, and what is accepted.

`validate` checks the values that `yaml_file.py` has read, and `describe` lists their faults.
"""

import copy
import difflib
from typing import get_args

from pydantic import ValidationError

from common.params.inputs import INPUTS
from common.params.keys import sections_of
from common.params.params import Params
from common.params.rules import fault_list
from common.params.values import Section, as_yaml, subclasses
from common.params.yaml_file import MAX_FAULTS, Fault


def validate(values, file=Params):
    """Checks the values of a file. file: Params, or VocabularyFile.

    pydantic checks the rules between keys only if every key is valid by itself. To report all
    faults together, faulty keys are removed and the rest is validated again.

    Returns:
        (file, []), or (None, list of Fault).
    """
    try:
        return file.model_validate(values), []
    except ValidationError as error:
        errors, more = error.errors()[:MAX_FAULTS], error.error_count() - MAX_FAULTS
    faults = broken_rules(errors, values)
    if faults:
        return None, faults
    rest = copy.deepcopy(values)
    for error in errors:
        for path in paths_of(error, values):
            text = message_of(error, path, values, sections_of(file))
            if text:
                add_fault(faults, Fault(path, text), shown=f"is {as_yaml(at(path, values))}; ")
            remove(rest, path)
    if more > 0:
        return None, [*faults, Fault((), f"and {more} more")]
    if file is Params:
        try:
            Params.model_validate(with_placeholders(rest))
        except ValidationError as error:
            faults += broken_rules(error.errors(), values)
    # `message_of` leaves some faults to another one, so the list could be empty.
    return None, faults or [Fault((), "this is no params file; see docs/configuration.md")]


def add_fault(faults, fault, shown):
    """Adds a fault; to that of the same key, where a value is of none of several kinds."""
    for i, former in enumerate(faults):
        if former == fault:
            return
        if former.path == fault.path and all(f.text.startswith(shown) for f in (former, fault)):
            other = fault.text.removeprefix(shown).removeprefix("available: ")
            text = f"{former.text}; or {other}"
            faults[i] = former._replace(text=text)
            return
    faults.append(fault)


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
    """Adds valid values for required keys, so that the rules between the others can be checked."""
    names = [name for name in INPUTS[:2] if isinstance(values.get(name), dict)]
    for name in names or ["eval_input"]:
        needed = {"data_processor": "Sst2DataProcessor", "data_dir": "."}
        needed |= {"max_sequence_length": 3, "batch_size": 1}
        section = values.get(name) or {}
        values[name] = needed | {k: v for k, v in section.items() if v is not None}
    return values


def remove(values, path):
    """Removes a key from nested mappings; if it is inside a list, the whole list."""
    for key in path[:-1]:
        if not isinstance(values, dict) or not isinstance(values.get(key), dict):
            break
        values = values[key]
    else:
        key = path[-1] if path else None
    if isinstance(values, dict):
        values.pop(key, None)


def paths_of(error, values):
    """Where the file gives what a pydantic error is about: list of paths."""
    path = origin(location(error["loc"], values, error["type"]), values)
    return [(*path, key) for key in error.get("ctx", {}).get("keys", ())] or [path]


def location(loc, values, kind):
    """The keys and indices in pydantic's location of an error, without the names of unions."""
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
    """Where the file gives a value: an input may take it from the input it is derived from."""
    if path and path[0] == "predict_input":
        section = values.get("predict_input")
        if not isinstance(section, dict) or (len(path) > 1 and path[1] not in section):
            path = ("eval_input", *path[1:])
    if path and path[0] == "eval_input" and values.get("eval_input") is None:
        path = ("train_input", *path[1:])
    return path


def at(path, values, default=None):
    """The value at a path, as the file gives it."""
    for key in path:
        try:
            values = values[key]
        except (KeyError, IndexError, TypeError):
            return default
    return values


def message_of(error, path, values, sections):
    """The message of a pydantic error; "" if another fault covers it. sections: {name: class}."""
    kind, ctx, value = error["type"], error.get("ctx", {}), error["input"]
    if kind == "refused":
        return ctx["text"]
    if kind == "extra_forbidden":
        return unknown_key(path, values, sections)
    if kind == "missing":
        return missing_key(path, values, sections)
    shown = f"is {as_yaml(at(path, values, value))}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"{shown}; keys are wanted below it, indented" if value is not None else "is empty"
    if kind == "union_tag_invalid":
        key = ctx["discriminator"].strip("'")
        tags = sorted(ctx["expected_tags"].replace("'", "").split(", "))
        return f"{key} is {as_yaml(value.get(key))}; available: {', '.join(tags)}"
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


def accepted_keys(path, values, sections):
    """The keys accepted beside the one at a path."""
    if len(path) == 1:
        return list(sections)
    if len(path) == 2:
        return list(sections[path[0]].model_fields)
    parent = at(path[:-1], values)  # a schedule or an initializer
    return next(
        list(section.model_fields)
        for tag in ("scheduler", "name")
        for section in subclasses(Section)
        if tag in section.model_fields
        and parent.get(tag) in get_args(section.model_fields[tag].annotation)
    )


# What other programs call a key -> what to write here.
FOREIGN_NAMES = {
    **dict.fromkeys(("seed", "random_seed"), "runconfig.tf_random_seed"),
    **dict.fromkeys(("epochs", "num_train_epochs", "max_epochs"), "runconfig.num_epochs"),
    **dict.fromkeys(("max_train_steps", "num_train_steps"), "runconfig.max_steps"),
    **dict.fromkeys(
        ("warmup", "warmup_steps", "num_warmup_steps", "warmup_proportion"),
        "optimizer.warmup_ratio, a share of all steps",
    ),
    **dict.fromkeys(
        ("lr_scheduler_type", "lr_schedule", "lr_decay", "decay_type"),
        "optimizer.decay: linear, cosine or constant",
    ),
    "lr": "optimizer.learning_rate",
    "gradient_accumulation_steps": "optimizer.grad_accum_steps",
    **dict.fromkeys(("fp16", "bf16"), "model.mixed_precision"),
    **dict.fromkeys(("num_labels", "num_classes"), "model.num_cls_classes"),
    "output_dir": "runconfig.model_dir",
    "vocabulary": "it into a file of its own, for --mode train_vocab",
    **dict.fromkeys(("model_name_or_path", "init_checkpoint"), "runconfig.checkpoint_path"),
}


def unknown_key(path, values, sections):
    key, text = str(path[-1]), "unknown key"
    others = {name: each.model_fields for name, each in sections.items() if name != path[0]}
    homes = [name for name, keys in others.items() if key in keys]
    if homes:
        return f"{text}; it belongs to {', '.join(homes)}"
    if foreign := FOREIGN_NAMES.get(spelled(key)):
        return f"{text}; write {foreign}"
    accepted = accepted_keys(path, values, sections)
    if near := nearest(key, accepted):
        return f"{text}; did you mean {near}?"
    for name, keys in others.items():
        if near := nearest(key, keys, cutoff=0.8):
            return f"{text}; did you mean {near} of {name}?"
    return f"{text}; accepted: {', '.join(accepted)}"


def spelled(key):
    return key.lower().replace("-", "_")


def nearest(key, accepted, cutoff=0.6):
    near = difflib.get_close_matches(spelled(key), list(accepted), n=1, cutoff=cutoff)
    return near[0] if near else None


def missing_key(path, values, sections):
    """The message for a required key; "" if it is there but misspelt."""
    if path == ("train_input",):
        return "not given; write it, or eval_input where nothing is to be trained"
    if path == ("vocabulary",):
        return "not given; it says the texts, as in configs/vocab_sample.yaml"
    if len(path) > 1 and path[0] not in values:
        return ""  # the whole section is missing, which is another fault
    accepted, siblings = accepted_keys(path, values, sections), at(path[:-1], values)
    for other in siblings if isinstance(siblings, dict) else ():
        if other not in accepted and nearest(str(other), accepted) == path[-1]:
            return ""
    return "not given"


def describe(path, faults, lines):
    """The text of the UserError: faults in the order of the file, then those of flags."""
    placed, reported = [], set()
    for i, fault in enumerate(faults):
        known = fault.path
        while known and known not in lines:
            known = known[:-1]  # a missing key has the line of its section
        line = fault.line or lines.get(known)
        where = f"line {line}" if isinstance(line, int) else line or ""
        if fault.path[:1] and fault.path[0] in INPUTS and isinstance(line, int):
            if (line, fault.path[1:], fault.text) in reported:
                continue  # another input takes its value from the same line
            reported.add((line, fault.path[1:], fault.text))
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
