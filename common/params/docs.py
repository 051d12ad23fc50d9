# SPDX-License-Identifier: Apache-2.0
"""Writes the schema of `common/params/` for readers and for editors.

    python -m common.params.docs        (or `make docs`)

rewrites the tables of docs/configuration.md and docs/vocabulary.md between their markers, and
configs/params.schema.json and vocabulary.schema.json, JSON Schemas with which an editor completes
the keys of a file and underlines mistakes. Run it after a change of `common/params/`;
tests/common/params/test_docs.py fails until then.

The column "original", the defaults of the original (Model Zoo R_1.7.1), is kept as the page has it:
it does not change any more, and stands nowhere else.
"""

import functools
import inspect
import json
import re
from pathlib import Path
from typing import get_args

from common.params import (
    INPUTS,
    SECTIONS,
    Params,
    Schedule,
    Section,
    every_key,
    may_change,
    no_effect,
)
from common.params.values import CHANGES, subclasses
from common.params.vocabulary import VocabularyFile, VocabularyParams

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "configuration.md"
SCHEMA = ROOT / "configs" / "params.schema.json"
VOCABULARY_PAGE = ROOT / "docs" / "vocabulary.md"
VOCABULARY_SCHEMA = ROOT / "configs" / "vocabulary.schema.json"
TABLE = re.compile(r"<!-- table: ([\w ]+) -->\n(.*?)<!-- end of table -->", re.DOTALL)


# ---- The page ------------------------------------------------------------------------------------


def literal(value):
    """A value as a params file writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if value == 2**32:
        return "2^32"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, Section):
        value = value.model_dump()
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {literal(item)}' for key, item in value.items())}}}"
    return "null" if value is None else str(value)


def range_of(schema):
    """The range of a number in words, after a space; "" if it has none."""
    least, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    most, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    # The bounds of number formats do not interest a reader.
    if most is not None and most >= 2**63 - 1:
        most = None
    if least is not None and 0 < least < 1e-30:
        least, above = None, 0
    if (least is None and above is None) or (most is None and below is None):
        parts = [("> ", above), (">= ", least), ("< ", below), ("<= ", most)]
        return "".join(f" {sign}{literal(bound)}" for sign, bound in parts if bound is not None)
    low = f"[{literal(least)}" if above is None else f"({literal(above)}"
    return f" in {low}, " + (f"{literal(most)}]" if below is None else f"{literal(below)})")


def type_of(schema):
    """The type of a JSON Schema in words."""
    if "const" in schema:
        return f"`{literal(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{literal(value)}`" for value in schema["enum"])
    if "discriminator" in schema:
        key = schema["discriminator"]["propertyName"]
        return {"scheduler": "schedule", "name": "name or mapping"}[key]
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        texts = [type_of(choice) for choice in choices if choice.get("type") != "null"]
        return " or ".join(dict.fromkeys(texts))
    if schema.get("type") == "array":
        if "prefixItems" in schema:
            return f"({', '.join(map(type_of, schema['prefixItems']))})"
        items = type_of(schema["items"]) if schema["items"] else "value"
        return "list of " + re.sub(r"^(whole number|\w+)", r"\1s", items)  # but for `choices`
    names = {"integer": "whole number", "number": "number", "boolean": "`true`, `false`"}
    names |= {"string": "path" if schema.get("format") == "path" else "text", "object": "mapping"}
    return names[schema["type"]] + range_of(schema)


def default_of(field):
    if field.is_required():
        return "required"
    default = field.get_default()
    return "not given" if default is None else f"`{literal(default)}`"


def groups_of(section):
    """Returns {first key of a group of fields: title of the group}.

    A title is a comment without a full stop on the line above a field.
    """
    parents = [each for each in section.__mro__ if issubclass(each, Section)]
    source = "".join(inspect.getsource(each) for each in reversed(parents))
    return {name: title for title, name in re.findall(r"\n    # (.*[^.\n])\n    (\w+):", source)}


def originals_of(text):
    """Returns {section: {key: the original's default}} of the page; "-": it has no such key.

    Raises:
        ValueError: a key of the original has left the schema.
    """
    originals = {}
    for name, body in TABLE.findall(text):
        if name in SECTIONS:
            rows = re.findall(r"^\| `(\w+)` \| .+? \| .+? \| (.+?) \| ", body, re.MULTILINE)
            originals[name] = dict(rows)
            for key, default in rows:
                if default != "-" and key not in SECTIONS[name].model_fields:
                    raise ValueError(f"the original's key {key} of {name} is not accepted")
    # The page lists the keys of eval_input that differ.
    return originals | {"eval_input": originals["train_input"] | originals["eval_input"]}


HEAD = ("key", "type", "default", "original", "since", "meaning")


def rows_of(name, originals):
    """Returns {key: the cells of HEAD} of a section."""
    rows, schema = {}, SECTIONS[name].model_json_schema()["properties"]
    for key, field in SECTIONS[name].model_fields.items():
        properties = every_key()[f"{name}.{key}"]
        note = " No effect here, with a warning." if properties.no_effect else ""
        note += f" Flag: `--{key}`." if properties.flag else ""
        rows[key] = (
            f"`{key}`",
            type_of(schema[key]),
            default_of(field),
            originals[name].get(key, "-"),
            properties.since,
            field.description + note,
        )
    return rows


def table(head, rows):
    cells = [head, ("---",) * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]


def section_lines(name, originals):
    """Tables of a section, one for each of its groups."""
    rows = rows_of(name, originals)
    if name == "eval_input":  # only the rows that differ from train_input
        same = rows_of("train_input", originals).values()
        return table(HEAD, [row for row in rows.values() if row not in same])
    titles, lines, group = groups_of(SECTIONS[name]), [], []
    for key, row in rows.items():
        if key in titles:
            lines += [*(table(HEAD, group) if group else []), "", f"### {titles[key]}", ""]
            group = []
        group.append(row)
    return [*lines, *table(HEAD, group)]


def vocabulary_lines():
    """A table for each group of the keys of a vocabulary."""
    properties = VocabularyParams.model_json_schema()["properties"]
    titles, lines, group = groups_of(VocabularyParams), [], []
    head = ("key", "type", "default", "meaning")
    for key, field in VocabularyParams.model_fields.items():
        if key in titles:
            lines += [*table(head, group), "", f"### {titles[key]}", ""]
            group = []
        group.append((f"`{key}`", type_of(properties[key]), default_of(field), field.description))
    return [*lines, *table(head, group)]


def schedule_lines():
    """A line and a table for each schedule."""
    lines = []
    for section in subclasses(Schedule):
        (kind,) = get_args(section.model_fields["scheduler"].annotation)
        properties = section.model_json_schema()["properties"]
        rows = [
            (f"`{key}`", type_of(properties[key]), default_of(field), field.description)
            for key, field in section.model_fields.items()
            if key != "scheduler"
        ]
        lines += [f"#### {kind}", "", inspect.getdoc(section), ""]
        lines += [*table(("key", "type", "default", "meaning"), rows), ""]
    return lines[:-1]


def initializer_lines():
    rows = []
    for section in Section.__subclasses__():
        name = section.model_fields.get("name")
        if name is not None:
            (kind,) = get_args(name.annotation)
            keys = [
                f"`{key}` ({literal(field.default)})"
                for key, field in section.model_fields.items()
                if field is not name
            ]
            rows.append((f"`{kind}`", ", ".join(keys), inspect.getdoc(section)))
    return table(("`name`", "keys (default)", "meaning"), rows)


def without_effect_lines():
    """A row for each key without effect; `*_input` if it has none in any input."""
    reasons = no_effect()
    rows = {}
    for dotted, instead in reasons.items():
        section, key = dotted.split(".")
        if section in INPUTS and all(f"{name}.{key}" in reasons for name in INPUTS):
            dotted = f"*_input.{key}"
        rows[f"`{dotted}`"] = f"{instead}."
    return table(("key", "what does its work here"), rows.items())


def changes_lines():
    """A row for each kind of change that does not prevent a resume; `section.*` is all its keys."""
    rows = {change: [] for change in CHANGES[:-1]}
    for section, of_section in SECTIONS.items():
        keys = {name: every_key()[f"{section}.{name}"].changes for name in of_section.model_fields}
        kinds = set(keys.values())
        if len(kinds) == 1 and may_change(section):
            rows[kinds.pop()].append(f"`{section}.*`")
            continue
        for name, change in keys.items():
            if change in rows:
                rows[change].append(f"`{section}.{name}`")
    return table(("changes", "keys"), ((change, ", ".join(keys)) for change, keys in rows.items()))


def vocabulary_page(text):
    """The text of docs/vocabulary.md with new tables."""
    return with_tables(text, {"vocabulary": vocabulary_lines})


def page(text):
    """The text of docs/configuration.md with new tables."""
    originals = originals_of(text)
    writers = {name: functools.partial(section_lines, name, originals) for name in SECTIONS} | {
        "schedules": schedule_lines,
        "initializers": initializer_lines,
        "without effect": without_effect_lines,
        "may change": changes_lines,
    }
    return with_tables(text, writers)


def with_tables(text, writers):
    """The text of a page with new tables. writers: {name of a table: callable -> lines}."""

    def replace(match):
        body = "\n".join(writers[match[1]]()).strip("\n")
        return f"<!-- table: {match[1]} -->\n\n{body}\n\n<!-- end of table -->"

    return TABLE.sub(replace, text)


# ---- The JSON Schema -----------------------------------------------------------------------------


def editor_schema():
    """The JSON Schema of a params file (draft 7), for editors."""
    schema = Params.model_json_schema(ref_template="#/definitions/{model}")
    definitions = schema.pop("$defs")
    partial = json.loads(json.dumps(definitions["EvalInputParams"]))
    del partial["required"]  # keys that it does not give come from eval_input
    definitions["PredictInputParams"] = partial
    schema["properties"]["predict_input"]["$ref"] = "#/definitions/PredictInputParams"
    initializer = definitions["ModelParams"]["properties"]["initializer"]
    described = {"description": "model.initializer, where the original has it."}
    schema["properties"]["initializer"] = initializer | described
    for name in ("model", "optimizer", "runconfig", "csconfig"):
        del schema["properties"][name]["default"]  # every key has a default
    del schema["required"]  # an input alone, which `anyOf` says
    return completed(
        schema,
        definitions,
        title="Params file of the BERT classifier",
        anyOf=[{"required": ["train_input"]}, {"required": ["eval_input"]}],
    )


def vocabulary_schema():
    """The JSON Schema of a file for `--mode train_vocab`, for editors."""
    schema = VocabularyFile.model_json_schema(ref_template="#/definitions/{model}")
    del schema["properties"]["runconfig"]["default"]
    title = "File of a vocabulary of the BERT classifier"
    return completed(schema, schema.pop("$defs"), title=title, required=["vocabulary"])


def completed(schema, definitions, **facts):
    """A JSON Schema of pydantic's as editors want it. facts: more of the schema."""
    schema |= {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **facts,
        "definitions": definitions,
    }
    for section in (schema, *definitions.values()):
        for key, value in section["properties"].items():
            value.pop("title", None)
            accept_names_and_null(value, key in section.get("required", ()))
    return without(schema, "discriminator")


def accept_names_and_null(schema, required):
    """Lets a property with a default be null, and an initializer be a name."""
    kinds = schema.get("discriminator", {}).get("mapping")
    if "oneOf" in schema:
        schema["anyOf"] = schema.pop("oneOf")  # some editors complete more of it
    if schema.get("discriminator", {}).get("propertyName") == "name":
        schema["anyOf"] = [{"type": "string", "enum": list(kinds)}, *schema["anyOf"]]
    if required:
        return
    if "const" in schema:
        schema["enum"] = [schema.pop("const")]
    if "anyOf" in schema:
        if {"type": "null"} not in schema["anyOf"]:
            schema["anyOf"].append({"type": "null"})
    elif "enum" in schema:
        schema["enum"] = [*schema["enum"], None]
        schema.pop("type", None)
    elif "$ref" in schema:
        schema["anyOf"] = [{"$ref": schema.pop("$ref")}, {"type": "null"}]
    elif "type" in schema:
        schema["type"] = [schema["type"], "null"]


def without(schema, key):
    """A copy of nested mappings and lists without this key."""
    if isinstance(schema, dict):
        return {name: without(value, key) for name, value in schema.items() if name != key}
    return [without(value, key) for value in schema] if isinstance(schema, list) else schema


def contents():
    """{path: text} of all that is written."""
    schemas = {SCHEMA: editor_schema(), VOCABULARY_SCHEMA: vocabulary_schema()}
    return {
        PAGE: page(PAGE.read_text("utf-8")),
        VOCABULARY_PAGE: vocabulary_page(VOCABULARY_PAGE.read_text("utf-8")),
        **{path: schema_text(schema) for path, schema in schemas.items()},
    }


def schema_text(schema):
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def main():
    for path, text in contents().items():
        path.write_text(text, "utf-8")
        print(f"{path.relative_to(ROOT)} is written")


if __name__ == "__main__":
    main()
