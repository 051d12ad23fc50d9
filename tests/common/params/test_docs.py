# SPDX-License-Identifier: Apache-2.0
"""The page and the JSON Schema made from the schema are current, and say what the schema does."""

import dataclasses
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from common.params import SECTIONS, docs, every_key
from common.params.docs import PAGE, SCHEMA, VOCABULARY_SCHEMA, page
from common.params.vocabulary import VocabularyParams
from tests.reference.small_params import VALID
from utils import get_params

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = sorted((ROOT / "configs").glob("*.y*ml"))
VOCABULARIES = [path for path in CONFIGS if path.name.startswith("vocab_")]
PARAMS = [path for path in CONFIGS if path not in VOCABULARIES]


class EditorLoader(yaml.SafeLoader):
    """YAML 1.2, as editors read it: there 1e-6 is a number, for PyYAML a text."""


EditorLoader.yaml_implicit_resolvers = {
    **yaml.SafeLoader.yaml_implicit_resolvers,
}
for first in "-+.0123456789":
    EditorLoader.yaml_implicit_resolvers[first] = [
        ("tag:yaml.org,2002:float", re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)$")),
        *EditorLoader.yaml_implicit_resolvers.get(first, []),
    ]


@pytest.fixture(scope="module")
def faults():
    """Messages of a JSON Schema on a file's text: none where an editor underlines nothing."""

    def faults(text, schema=SCHEMA):
        validator = jsonschema.Draft7Validator(json.loads(schema.read_text("utf-8")))
        values = yaml.load(text, EditorLoader)
        return [error.message for error in validator.iter_errors(values)]

    return faults


# ---- The page ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", docs.contents(), ids=lambda path: path.name)
def test_what_is_written_is_current(path):
    assert path.read_text("utf-8") == docs.contents()[path], "run `make docs`"


def test_every_key_of_a_vocabulary_has_one_row_on_its_page():
    rows = re.findall(r"^\| `(\w+)` \|", docs.VOCABULARY_PAGE.read_text("utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(VocabularyParams.model_fields)


def test_every_key_of_every_section_has_one_row_on_the_page():
    text = PAGE.read_text("utf-8")
    for name, section in SECTIONS.items():
        if name == "predict_input":  # as eval_input
            continue
        table = re.search(rf"<!-- table: {name} -->(.*?)<!-- end", text, re.DOTALL)[1]
        rows = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
        assert len(rows) == len(set(rows))
        if name == "eval_input":  # what differs from train_input
            assert set(rows) < set(section.model_fields)
        else:
            assert set(rows) == set(section.model_fields)


def test_a_changed_key_changes_the_page(monkeypatch):
    text = PAGE.read_text("utf-8")
    key = every_key()["runconfig.max_steps"]
    monkeypatch.setitem(every_key(), "runconfig.max_steps", dataclasses.replace(key, since="9.9"))
    (old,) = [line for line in text.splitlines() if line.startswith("| `max_steps` |")]
    (new,) = [line for line in page(text).splitlines() if line.startswith("| `max_steps` |")]
    assert new == old.replace("| 0.1 |", "| 9.9 |") != old


def test_keys_of_the_original_on_the_page_are_keys_that_exist():
    text = PAGE.read_text("utf-8")
    assert docs.originals_of(text)["train_input"]["shuffle_buffer"] == "`1500`"
    with pytest.raises(ValueError, match="shuffle_bufer of train_input is not accepted"):
        page(text.replace("| `shuffle_buffer` |", "| `shuffle_bufer` |"))


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "exclusiveMinimum": 0, "maximum": 2**63 - 1}, "whole number > 0"),
        ({"type": "number", "minimum": 0, "exclusiveMaximum": 1}, "number in [0, 1)"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1.0}, "number in (0, 1]"),
        ({"type": "boolean"}, "`true`, `false`"),
        ({"const": True}, "`true`"),
        ({"enum": ["a", False]}, "`a`, `false`"),
        ({"type": "string", "format": "path"}, "path"),
        ({"type": "array", "items": {"type": "string"}}, "list of texts"),
        (
            {"type": "array", "items": {"type": "integer", "minimum": 1}},
            "list of whole numbers >= 1",
        ),
        ({"anyOf": [{"type": "number"}, {"const": "auto"}, {"type": "null"}]}, "number or `auto`"),
    ],
)
def test_a_type_is_told_in_words(schema, words):
    assert docs.type_of(schema) == words


# ---- The JSON Schema -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", [SCHEMA, VOCABULARY_SCHEMA], ids=lambda path: path.name)
def test_a_json_schema_is_one(path):
    jsonschema.Draft7Validator.check_schema(json.loads(path.read_text("utf-8")))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_names_its_schema_and_validates_against_it(path, faults):
    text, schema = path.read_text("utf-8"), VOCABULARY_SCHEMA if path in VOCABULARIES else SCHEMA
    assert f"# yaml-language-server: $schema={schema.name}" in text.splitlines()[:2]
    assert faults(text, schema) == []


@pytest.mark.parametrize("path", PARAMS, ids=lambda path: path.name)
def test_what_a_run_saves_validates_too(path, faults):
    assert faults(get_params(path).to_yaml()) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("max_steps", "max_step"),
        ("train_input", "train_inputs"),
        ("batch_size: 7", "batch_size: 0"),
        ("batch_size: 7", "batch_size: 7.5"),
        ("  batch_size: 7\n", ""),
        ("Sst2DataProcessor", "SST2"),
        ("hidden_size: 12", "dropout_rate: 1.0"),
        ("hidden_size: 12", "use_pre_normalization: 1"),
        ("hidden_size: 12", "initializer: xavier"),
        ("hidden_size: 12", "initializer: {name: normal, stdev: 1}"),
        ("learning_rate: 1e-4", "learning_rate: {scheduler: Constant}"),
        ("learning_rate: 1e-4", "learning_rate: {scheduler: linear, learning_rate: 1}"),
        ("learning_rate: 1e-4", "optimizer_type: adagrad"),
        (VALID[: VALID.index("model:")], ""),
    ],
)
def test_an_editor_underlines_what_is_refused(old, new, faults, tmp_path):
    assert VALID.count(old) == 1
    text = VALID.replace(old, new)
    assert faults(text)
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="to correct"):
        get_params(path)


@pytest.mark.parametrize(
    "text",
    [
        VALID,
        VALID + "initializer: normal\n",
        VALID + "initializer: {name: truncated_normal, stddev: 0.02}\n",
        VALID + "predict_input: {batch_size: 1}\n",
        VALID + "eval_input:\n",
        VALID.replace("hidden_size: 12", "dropout_rate:"),
        VALID.replace("max_steps: 11", "max_steps: 2e4"),
        VALID.replace("train_input", "eval_input"),
        VALID[: VALID.index("model:")],
        VALID.replace("1e-4", "[{scheduler: Constant, learning_rate: 1, steps: 2}]"),
    ],
)
def test_an_editor_leaves_what_is_accepted_alone(text, faults, tmp_path):
    assert faults(text) == []
    path = tmp_path / "x.yaml"
    path.write_text(text)
    get_params(path)
