# SPDX-License-Identifier: Apache-2.0
"""Kinds of value in a params file, and what a section of it is."""

import dataclasses
import json
import math
import os
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError


def found(value):
    """The value as YAML would write it, for a message; cut when it is long."""
    text = (
        repr(value)
        if isinstance(value, str)
        else json.dumps(value, default=str, ensure_ascii=False)
    )
    return text if len(text) <= 60 else text[:57] + "..."


def refusal(text):
    """The exception of a validator whose text stands behind the dotted key, as it is."""
    return PydanticCustomError("refused", "{text}", {"text": text})


def to_float(value):
    """A finite number, or the text of one, as a float. True and false are no numbers."""
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise refusal(f"is {found(value)}; a number is wanted, such as 0.1 or 1e-6")


def to_int(value):
    """A whole number, or the text of one (`2e4` is 20000), as an int."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        number = to_float(value)
    except PydanticCustomError:
        number = math.nan
    if number == number // 1:
        return int(number)
    raise refusal(f"is {found(value)}; a whole number is wanted")


def to_path(value):
    """The name of a file or folder, `~` expanded; a relative one starts where the command runs."""
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise refusal(f"is {found(value)}; the path of a file or folder is wanted")
    return os.path.expanduser(value)


def to_names(value):
    """One name, or a list of names."""
    return (value,) if isinstance(value, str) else value


def to_lower(value):
    return value.lower() if isinstance(value, str) else value


def to_name(value):
    """A name as text: `1` is "1". YAML reads an unquoted `no` or `yes` as false or true."""
    if isinstance(value, bool):
        raise refusal(
            f"is {found(value)}, as YAML reads no, yes, on and off; put the name between quotes"
        )
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str) and value.strip():
        return value
    raise refusal(f"is {found(value)}; a name is wanted")


def to_text_keys(value):
    """One name, or a list of one or two."""
    value = to_names(value)
    if isinstance(value, list | tuple) and 1 <= len(value) <= 2:
        return tuple(map(to_name, value))
    raise refusal(f"is {found(value)}; a name is wanted, or a list of two for pairs")


def to_label_names(value):
    """A list of two or more names, all different."""
    if not isinstance(value, list | tuple) or len(value) < 2:
        raise refusal(f"is {found(value)}; a list of a name for each class is wanted")
    names = tuple(map(to_name, value))
    if len(set(names)) < len(names):
        raise refusal(f"is {found(value)}; a name stands twice in it, and each is one class")
    return names


def not_a_number(value):
    """1 would pass for true, which it equals in Python."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise refusal(f"is {found(value)}; true, false or the name of a dtype policy is wanted")
    return value


MAX_INT = 2**63 - 1  # what TensorFlow's int64 holds

Count = Annotated[int, Field(gt=0, le=MAX_INT), BeforeValidator(to_int)]
Whole = Annotated[int, Field(ge=0, le=MAX_INT), BeforeValidator(to_int)]
PadId = Annotated[int, Field(ge=-1, le=MAX_INT), BeforeValidator(to_int)]
Seed = Annotated[int, Field(ge=0, lt=2**32), BeforeValidator(to_int)]  # NumPy's bound
Number = Annotated[float, BeforeValidator(to_float)]
Positive = Annotated[float, Field(gt=0), BeforeValidator(to_float)]
NonNegative = Annotated[float, Field(ge=0), BeforeValidator(to_float)]
Probability = Annotated[float, Field(ge=0, lt=1), BeforeValidator(to_float)]
# A factor whose multiples and fractions float32 holds.
Scale = Annotated[float, Field(ge=2.0**-126, le=2.0**127), BeforeValidator(to_float)]
Switch = Annotated[bool, Field(strict=True)]
BetweenZeroAndOne = Annotated[float, Field(gt=0, lt=1), BeforeValidator(to_float)]
Path = Annotated[
    str, BeforeValidator(to_path), WithJsonSchema({"type": "string", "format": "path"})
]
Name = Annotated[str, BeforeValidator(to_name)]
OneOrMore = str | tuple[str, ...]  # what the file may hold
TextKeys = Annotated[
    tuple[str, ...], BeforeValidator(to_text_keys, json_schema_input_type=OneOrMore)
]
LabelNames = Annotated[tuple[str, ...], BeforeValidator(to_label_names)]


# ---- Keys and sections ---------------------------------------------------------------------------


CHANGES = ("nothing", "where and how long", "speed", "the trained weights")


@dataclass(frozen=True)
class Properties:
    """What the program has to know of a key besides its type, range and default.

    The defaults are the strict ones, so that a key that says nothing is neither changed at a resume
    nor left out of what a kept program depends on. A key inside a schedule or an initializer has
    the properties of the key that holds it.

    Attributes:
        changes: one of CHANGES, what another value changes. A checkpoint is not resumed with
            another value of a key that changes "the trained weights"; the figures of an evaluation
            count among these.
        changes_in_evaluation: the same, of the key in eval_input; None: as in train_input.
        compiled: bool. A kept program depends on its value.
        flag: bool. run.py has a flag of its name.
        from_checkpoint: bool. A checkpoint says it where the file does not.
        fixed_by_checkpoint: bool. The file may say nothing else than the checkpoint.
        in_config: bool. The config of our checkpoints says it, as it says every key of the two
            properties above.
        from_pretraining: bool. The file of model.pretrain_params_path may give it.
        needed: str or None. What to tell where file, checkpoint and data leave it open.
        same_in_inputs: when all inputs must have the same value, or None.
        is_local: bool. It belongs to the machine or its network and does not describe the training;
            so does every path, without saying it.
        names_data: bool. A path whose last part tells which data it is.
        no_effect: str or None. The key changes nothing here; what does its work instead.
        since: the first version of this project that knows the key.
    """

    changes: str = "the trained weights"
    changes_in_evaluation: str | None = None
    compiled: bool = True
    flag: bool = False
    from_checkpoint: bool = False
    fixed_by_checkpoint: bool = False
    in_config: bool = False
    from_pretraining: bool = True
    needed: str | None = None
    same_in_inputs: Literal["always", "with eval_fraction"] | None = None
    is_local: bool = False
    names_data: bool = False
    no_effect: str | None = None
    since: str = "0.1"

    def __post_init__(self):
        for value in (self.changes, self.changes_in_evaluation or self.changes):
            if value not in CHANGES:
                raise ValueError(f"a key changes {value!r}; it can be one of {CHANGES}")


PROPERTIES = {field.name for field in dataclasses.fields(Properties)}


def Key(default, meaning, **settings):
    """A field of a section: `name: type = Key(default, meaning, ...)`.

    default: `...` where the key has to be given. meaning: a sentence for docs/configuration.md.
    settings: of `Properties`; the others are pydantic's, such as min_length.
    """
    own = {name: settings.pop(name) for name in PROPERTIES & settings.keys()}
    field = Field(default, description=meaning, **settings)
    field.metadata.append(Properties(**own))
    return field


def properties_of(field):
    """The Properties of a field of pydantic, the strict ones where it is no `Key`."""
    return next((item for item in field.metadata if isinstance(item, Properties)), Properties())


def keys_of(section, **wanted):
    """Names of the keys of a Section whose properties have these values, in the section's order."""
    return tuple(
        name
        for name, field in section.model_fields.items()
        if wanted.items() <= vars(properties_of(field)).items()
    )


class Section(BaseModel):
    """A mapping of the file. Unknown keys are refused, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def leave_out_empty_values(cls, values):
        if not isinstance(values, dict):
            return values
        fields = cls.model_fields
        return {k: v for k, v in values.items() if v is not None or k not in fields}
