# SPDX-License-Identifier: Apache-2.0
"""Kinds of value in a params file, and what a section of it is."""

import dataclasses
import json
import math
import os
from functools import partial
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError


def as_yaml(value):
    """The value as YAML writes it, for a message; at most 60 characters."""
    is_text = isinstance(value, str)
    text = repr(value) if is_text else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def refusal(text, *keys):
    """The exception that a validator raises; the message is the dotted key and this text.

    keys: of the section that is validated, if they and not the section are at fault.
    """
    return PydanticCustomError("refused", "{text}", {"text": text, "keys": keys})


def to_float(value):
    """A finite number, or its text, as a float. True and false are refused."""
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise refusal(f"is {as_yaml(value)}; a number is wanted, such as 0.1 or 1e-6")


def to_int(value):
    """A whole number, or its text (`2e4` is 20000), as an int."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        number = to_float(value)
    except PydanticCustomError:
        number = math.nan
    if number == number // 1:
        return int(number)
    raise refusal(f"is {as_yaml(value)}; a whole number is wanted")


def to_path(value):
    """A path with `~` expanded; a relative path starts in the working directory."""
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise refusal(f"is {as_yaml(value)}; the path of a file or folder is wanted")
    path = os.path.expanduser(value)
    if path == "~" or path.startswith("~/"):
        raise refusal(
            f"is {as_yaml(value)}, and this user has no home folder; write the whole path"
        )
    return path


def to_paths(value):
    """One path, or a list of paths."""
    if not isinstance(value, list | tuple):
        return to_path(value)
    if not value:
        raise refusal("is an empty list; the path of a file or folder is wanted")
    return tuple(map(to_path, value))


def to_path_list(value):
    """One path, or a list of paths, as a list."""
    paths = to_paths(value)
    return (paths,) if isinstance(paths, str) else paths


def to_names(value):
    """One name, or a list of names. A number is a name, too, as of a column."""
    return (value,) if isinstance(value, str | int) else value


def to_character(value):
    """A character that separates columns."""
    if isinstance(value, str) and len(value) == 1 and value not in '"\r\n':
        return value
    raise refusal(f"is {as_yaml(value)}; one character is wanted, such as ';' or \"\\t\" for a tab")


def to_lower(value):
    return value.lower() if isinstance(value, str) else value


def to_name(value):
    """A name as text: `1` is "1". YAML reads an unquoted `no` or `yes` as false or true."""
    if isinstance(value, bool):
        raise refusal(
            f"is {as_yaml(value)}, as YAML reads no, yes, on and off; put the name between quotes"
        )
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str) and value.strip():
        return value
    raise refusal(f"is {as_yaml(value)}; a name is wanted")


def to_text_keys(value):
    """One name, or a list of one or two."""
    value = to_names(value)
    if isinstance(value, list | tuple) and 1 <= len(value) <= 2:
        return tuple(map(to_name, value))
    raise refusal(f"is {as_yaml(value)}; a name is wanted, or a list of two for pairs")


def to_label_names(value):
    """A list of two or more names, all different."""
    if not isinstance(value, list | tuple) or len(value) < 2:
        raise refusal(f"is {as_yaml(value)}; a list of a name for each class is wanted")
    names = tuple(map(to_name, value))
    if len(set(names)) < len(names):
        raise refusal(f"is {as_yaml(value)}; a name stands twice in it, and each is one class")
    return names


def not_a_number(value):
    """Refuses numbers: in Python 1 equals True, so pydantic would accept it."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise refusal(f"is {as_yaml(value)}; true, false or the name of a dtype policy is wanted")
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
Share = Annotated[float, Field(ge=0, le=1), BeforeValidator(to_float)]
# A factor that float32 can still double and halve.
Scale = Annotated[float, Field(ge=2.0**-126, le=2.0**127), BeforeValidator(to_float)]
Switch = Annotated[bool, Field(strict=True)]
Share = Annotated[float, Field(ge=0, le=1), BeforeValidator(to_float)]
# As many epochs of 2^31 rows are fewer steps than MAX_INT.
Epochs = Annotated[float, Field(gt=0, le=1e9), BeforeValidator(to_float)]
Seconds = Annotated[float, Field(gt=0, le=1e9), BeforeValidator(to_float)]
BetweenZeroAndOne = Annotated[float, Field(gt=0, lt=1), BeforeValidator(to_float)]
Path = Annotated[
    str, BeforeValidator(to_path), WithJsonSchema({"type": "string", "format": "path"})
]
Paths = Annotated[Path | tuple[Path, ...], BeforeValidator(to_paths)]
Name = Annotated[str, BeforeValidator(to_name)]
Character = Annotated[str, BeforeValidator(to_character)]
OneOrMore = str | tuple[str, ...]  # what the file may hold
TextKeys = Annotated[
    tuple[str, ...], BeforeValidator(to_text_keys, json_schema_input_type=OneOrMore)
]
Names = Annotated[tuple[Name, ...], BeforeValidator(to_names, json_schema_input_type=OneOrMore)]
PathList = Annotated[
    tuple[Path, ...], BeforeValidator(to_path_list, json_schema_input_type=OneOrMore)
]
LabelNames = Annotated[tuple[str, ...], BeforeValidator(to_label_names)]


# ---- Keys and sections ---------------------------------------------------------------------------

Change = Literal["nothing", "where and how long", "speed", "the trained weights"]
CHANGES = get_args(Change)


@dataclass(frozen=True)
class Properties:
    """What the program needs to know about a key besides its type, range, default and meaning.

    The defaults are the strict ones: a key without properties may not change when a run is resumed,
    and kept programs depend on it. A key inside a schedule or an initializer has the properties of
    the key that holds it.

    Attributes:
        changes: one of CHANGES, what another value affects. A run cannot be resumed with another
            value of a key that changes "the trained weights", which includes evaluation figures.
        changes_in_evaluation: the same for the key in eval_input; None: as in train_input.
        compiled: bool. Kept programs depend on the value.
        flag: bool. run.py has a flag of the same name.
        from_checkpoint: bool. The checkpoint provides the value if the file does not.
        fixed_by_checkpoint: bool. A value in the file must equal the checkpoint's.
        in_config: bool. config.json of our checkpoints records the value, as it does for the two
            properties above.
        from_pretraining: bool. The file of model.pretrain_params_path may provide the value.
        needed: str or None. The message if neither file, checkpoint nor data provides a value.
        same_in_inputs: when the value must be equal in all inputs; None: never.
        is_local: bool. The value belongs to the machine or its network, not to the training. Paths
            are local without saying so.
        names_data: bool. A path whose last part identifies the data.
        task: the only task, or the tasks, that read the key; None: any.
        no_effect: str or None. The key changes nothing here; what replaces it.
        only_with: dict or None. {key of the same section: its values} with which alone this key has
            an effect.
        since: the first version of this project that accepts the key.
    """

    changes: Change = "the trained weights"
    changes_in_evaluation: Change | None = None
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
    task: str | tuple[str, ...] | None = None
    no_effect: str | None = None
    only_with: dict[str, tuple] | None = None
    since: str = "0.1"

    @property
    def tasks(self):
        """The tasks that read the key, tuple of str; empty: all."""
        return (self.task,) if isinstance(self.task, str) else self.task or ()


PROPERTIES = {field.name for field in dataclasses.fields(Properties)}


def Key(default, meaning, **settings):
    """A field of a Section: `name: type = Key(default, meaning, ...)`.

    Args:
        default: `...` if the key is required.
        meaning: str. A sentence for docs/configuration.md.
        settings: attributes of `Properties`, or arguments of pydantic.Field such as min_length.
    """
    properties = {name: settings.pop(name) for name in PROPERTIES & settings.keys()}
    field = Field(default, description=meaning, **settings)
    field.metadata.append(Properties(**properties))
    return field


CourseKey = partial(Key, changes="where and how long", compiled=False)
InertKey = partial(Key, changes="nothing")


def properties_of(field):
    """The Properties of a pydantic field; the strict defaults if `Key` did not make it."""
    return next((item for item in field.metadata if isinstance(item, Properties)), Properties())


def keys_of(section, **wanted):
    """Names of a section's keys with these properties, in the order of the section."""
    return tuple(
        name
        for name, field in section.model_fields.items()
        if wanted.items() <= vars(properties_of(field)).items()
    )


class Section(BaseModel):
    """A mapping in the file. Unknown keys are refused; an instance is immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def leave_out_empty_values(cls, values):
        if not isinstance(values, dict):
            return values
        fields = cls.model_fields
        return {k: v for k, v in values.items() if v is not None or k not in fields}


def subclasses(kind):
    """Yields the classes that derive from another, directly or not, in the order of their code."""
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)
