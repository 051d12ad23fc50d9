# SPDX-License-Identifier: Apache-2.0
"""What a key says of itself on its field reaches those who ask, and saying nothing is strict."""

import json

import pytest
from pydantic import BaseModel, Field

from common.flags import make_parser
from common.params import (
    SECTIONS,
    Params,
    compiled_keys,
    every_key,
    flag_keys,
    keys_of,
    may_change,
    no_effect,
)
from common.params.values import Key, Properties, properties_of


class Example(BaseModel):
    silent: int = Key(1, "A key that says nothing of itself.")
    bare: int = Field(1)
    bounded: int = Key(1, "A key with a property and a bound.", gt=0, changes="speed")


def test_a_key_that_says_nothing_may_not_change_and_is_compiled():
    for name in ("silent", "bare"):
        own = properties_of(Example.model_fields[name])
        assert own.changes == "the trained weights" and own.compiled
        assert not (own.flag or own.from_checkpoint or own.no_effect)


def test_a_key_passes_what_is_no_property_on_to_pydantic():
    with pytest.raises(ValueError, match="greater than 0"):
        Example(bounded=0)
    assert properties_of(Example.model_fields["bounded"]) == Properties(changes="speed")
    assert keys_of(Example, changes="speed") == ("bounded",)


def test_every_key_of_a_section_states_its_properties():
    for name, section in SECTIONS.items():
        for key, field in section.model_fields.items():
            assert any(isinstance(item, Properties) for item in field.metadata), f"{name}.{key}"


@pytest.mark.parametrize("dotted", no_effect())
def test_a_key_without_effect_may_change(dotted):
    assert may_change(dotted)


@pytest.mark.parametrize("key", ["changes", "changes_in_evaluation"])
def test_what_a_key_changes_is_one_of_four(key):
    with pytest.raises(ValueError, match="sped"):
        Key(1, "Misspelt.", **{key: "sped"})


@pytest.mark.parametrize(
    ("dotted", "expected"),
    [
        ("runconfig.max_steps", True),
        ("runconfig.tf_random_seed", False),
        ("runconfig.of_another_version", False),
        ("runconfig", False),
        ("train_input.batch_size", False),
        ("eval_input.batch_size", True),
        ("eval_input.max_sequence_length", False),
        ("predict_input.max_sequence_length", True),
        ("predict_input", True),
        ("csconfig", True),
        ("optimizer.learning_rate.steps", False),
        ("optimizer.log_grads", True),
        ("no_section", False),
        ("train", False),
    ],
)
def test_what_may_change_at_a_resume(dotted, expected):
    assert may_change(dotted) is expected


def test_programs_depend_on_the_network_and_not_on_seeds_lengths_or_the_cluster():
    compiled = set(compiled_keys())
    assert {"model.hidden_size", "runconfig.device", "train_input.task"} <= compiled
    left_out = {"model.dropout_seed", "runconfig.max_steps", "train_input.batch_size"}
    assert not compiled & {
        *left_out,
        *(f"csconfig.{key}" for key in SECTIONS["csconfig"].model_fields),
    }


def test_every_flag_of_a_key_is_one_of_run_py():
    flags = set(vars(make_parser().parse_args([])))
    assert set(flag_keys()) <= flags
    assert flag_keys()["data_dir"] == "*_input.data_dir"
    assert flag_keys()["num_csx"] == "csconfig.num_csx"


def test_every_path_is_local():
    definitions = Params.model_json_schema()["$defs"]
    for dotted, own in every_key().items():
        section, key = dotted.split(".")
        schema = definitions[SECTIONS[section].__name__]["properties"][key]
        if '"path"' in json.dumps(schema):
            assert own.is_local, dotted
    local = [dotted for dotted, own in every_key().items() if own.is_local]
    assert {"runconfig.device", "runconfig.cs_ip", "csconfig.mgmt_address"} <= set(local)


def test_a_key_without_effect_says_what_does_its_work():
    assert no_effect()["runconfig.ir_mode"] == "the compiler is XLA"
    assert "train_input.shuffle" not in no_effect() and "eval_input.shuffle" in no_effect()
