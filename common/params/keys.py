# SPDX-License-Identifier: Apache-2.0
"""What the program asks about keys, derived from the properties on their fields.

A dotted key is `section.key`. A property on a section's own field in `Params` holds for all of the
section's keys.
"""

import dataclasses
from functools import cache
from typing import get_args, get_origin

from common.params.inputs import INPUTS
from common.params.params import Params
from common.params.values import Path, Properties, properties_of


def sections_of(file):
    """Returns {name: class} of the sections of a file, optional ones too. file: Params."""
    return {
        name: next(iter(get_args(field.annotation)), field.annotation)
        for name, field in file.model_fields.items()
    }


SECTIONS = sections_of(Params)


@cache
def every_key():
    """Returns {dotted key: Properties} of all sections."""
    strict, keys = vars(Properties()).items(), {}
    for section, of_section in Params.model_fields.items():
        shared = dict(vars(properties_of(of_section)).items() - strict)
        for key, field in SECTIONS[section].model_fields.items():
            own = properties_of(field)
            if section == "eval_input" and own.changes_in_evaluation is not None:
                own = dataclasses.replace(own, changes=own.changes_in_evaluation)
            if contains(field.annotation, Path):
                own = dataclasses.replace(own, is_local=True)
            if own.no_effect is not None:
                own = dataclasses.replace(own, changes="nothing")
            keys[f"{section}.{key}"] = dataclasses.replace(own, **shared)
    return keys


def contains(annotation, kind):
    """Whether a type, or a part of it, is of this kind."""
    if annotation == kind or get_origin(annotation) is kind:
        return True
    return any(contains(part, kind) for part in get_args(annotation))


def field_of(dotted):
    """The field of a dotted key; of `*_input.key` that of train_input."""
    section, key = dotted.split(".")
    return SECTIONS["train_input" if section == "*_input" else section].model_fields[key]


def may_change(dotted):
    """Whether a run may be resumed with another value of this key.

    dotted: a key; a place inside a key ("optimizer.learning_rate.steps") counts as the key, and a
    section as all of its keys. Keys that this version does not know may not change.
    """
    name = ".".join(dotted.split(".")[:2])
    changes = {
        properties.changes
        for key, properties in every_key().items()
        if key == name or key.startswith(f"{name}.")
    }
    return bool(changes) and "the trained weights" not in changes


def has_effect(dotted, params):
    """Whether a key of Params has an effect beside the others, or may have; see `only_with`.

    dotted: as of `may_change`.
    """
    section, _, key = dotted.partition(".")
    own = every_key().get(f"{section}.{key.partition('.')[0]}", Properties())
    values = getattr(params, section, None)
    return all(
        getattr(values, name) in accepted for name, accepted in (own.only_with or {}).items()
    )


def compiled_keys():
    """The dotted keys that kept programs depend on, besides the shapes of batches."""
    return [key for key, own in every_key().items() if own.compiled]


def flag_keys():
    """Returns {flag of run.py: dotted key}; `*_input.data_dir` is the key in every input."""
    flags = {}
    for dotted, own in every_key().items():
        section, key = dotted.split(".")
        if own.flag:
            flags[key] = f"*_input.{key}" if section in INPUTS else dotted
    return flags


def no_effect():
    """Returns {dotted key without effect here: what replaces it}."""
    return {key: own.no_effect for key, own in every_key().items() if own.no_effect}
