# SPDX-License-Identifier: Apache-2.0
"""Questions about keys that the rest of the program asks, answered from the fields of the schema.

A key of Params is named as `section.key`; a section inherits its own properties to its keys.
"""

import dataclasses
from functools import cache
from typing import get_args

from common.params.inputs import INPUTS
from common.params.params import Params
from common.params.values import Path, Properties, properties_of


def section_class(field):
    """The Section of a field of Params, which may be optional."""
    return next(iter(get_args(field.annotation)), field.annotation)


SECTIONS = {name: section_class(field) for name, field in Params.model_fields.items()}


@cache
def every_key():
    """{"section.key": Properties} of all sections, what holds for the whole section included."""
    strict, keys = vars(Properties()), {}
    for section, of_section in Params.model_fields.items():
        shared = {
            name: value
            for name, value in vars(properties_of(of_section)).items()
            if value != strict[name]
        }
        for key, field in SECTIONS[section].model_fields.items():
            own = properties_of(field)
            if section == "eval_input" and own.changes_in_evaluation is not None:
                own = dataclasses.replace(own, changes=own.changes_in_evaluation)
            if names_a_path(field.annotation):
                own = dataclasses.replace(own, is_local=True)
            keys[f"{section}.{key}"] = dataclasses.replace(own, **shared)
    return keys


def names_a_path(annotation):
    return annotation == Path or any(map(names_a_path, get_args(annotation)))


def may_change(dotted):
    """Whether a checkpoint is resumed though this key has another value.

    dotted: "section.key"; what is inside a key ("optimizer.learning_rate.steps") counts as the key,
    a section as all of its keys. What is no key of this version may not change.
    """
    name = ".".join(dotted.split(".")[:2])
    named = [own for key, own in every_key().items() if key == name or key.startswith(f"{name}.")]
    return bool(named) and all(own.changes != "the trained weights" for own in named)


def compiled_keys():
    """The keys that the programs of a step depend on, other than by the shapes of batches."""
    return [key for key, own in every_key().items() if own.compiled]


def flag_keys():
    """{flag of run.py: key that it sets}; "*_input.data_dir" is that key in each input."""
    flags = {}
    for dotted, own in every_key().items():
        section, key = dotted.split(".")
        if own.flag:
            flags[key] = f"*_input.{key}" if section in INPUTS else dotted
    return flags


def no_effect():
    """{key that changes nothing here: what does its work instead}."""
    return {key: own.no_effect for key, own in every_key().items() if own.no_effect}
