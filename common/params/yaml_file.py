# SPDX-License-Identifier: Apache-2.0
"""Reads YAML into plain values and notes the line of each key; PyYAML parses.

`yaml.safe_load` silently keeps the last of two keys with the same name, and a small file can expand
without limit through aliases. `read_yaml` reports the former and refuses the latter. The faults of
the values are found in `yaml_faults.py`.
"""

import difflib
import os
from typing import NamedTuple

import yaml

from common.errors import UserError
from common.params.values import as_yaml

MAX_BYTES = 100_000  # of a file; real ones have 3,000
MAX_VALUES = 300_000  # characters and values, after aliases are expanded
MAX_ALIASES = 100
MAX_DEPTH = 50  # of lists and mappings in one another; real files have 4
MAX_DIGITS = 1_000  # of a whole number; Python itself writes no more than 4,300
MAX_FAULTS = 100  # reported together

# The tags that lists and mappings have where none is written.
PLAIN_TAGS = {
    yaml.MappingNode: "tag:yaml.org,2002:map",
    yaml.SequenceNode: "tag:yaml.org,2002:seq",
}


class Fault(NamedTuple):
    """One thing to correct in a file."""

    path: tuple  # keys and indices that lead to it
    text: str  # what was found, and what is accepted
    line: int | str | None = None  # if it is not the line of the path's last key


class NodeFault(UserError):
    """The text is no YAML, or YAML that a params file may not contain."""


def fault_at(node, text):
    """A NodeFault with the line of a PyYAML node or event."""
    return NodeFault(f"line {node.start_mark.line + 1}: {text}")


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader with limits on aliases and on nesting.

    Nesting costs time long before Python's recursion limit would refuse it.
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
        values: dict, as `yaml.safe_load` returns it.
        lines: {tuple of keys and indices: line of that key, counted from 1}.
        faults: list of Fault, to be reported together with the faults of the values.
    Raises:
        UserError: the file cannot be read; the first reason, with its line.
    """
    text = read_text(path)
    try:
        reader = NodeReader(text)
        node = reader.node
        if node is None:
            raise NodeFault("the file is empty; it needs sections such as train_input")
        if not isinstance(node, yaml.MappingNode):
            kind = "a list" if isinstance(node, yaml.SequenceNode) else as_yaml(node.value)
            wanted = "it needs sections such as `train_input:`, each with keys below it"
            raise fault_at(node, f"the file holds {kind}; {wanted}")
        return reader.read(node, ()), reader.lines, reader.faults
    except NodeFault as error:
        raise UserError(f"{path}: {error}") from None


NEVER_PLAIN = "~\"'[]{}"  # null, quoted text, lists and mappings


def read_value(text, path):
    """The value of a YAML text from the command line. path: tuple, the keys it belongs to.

    Raises:
        NodeFault: it cannot be read, with its line.
    """
    is_sign = text.isprintable() and not any(c.isalnum() or c in NEVER_PLAIN for c in text)
    if is_sign and text.strip():
        return text.strip()  # a separator such as | or , which YAML would take for an indicator
    reader = NodeReader(text)
    node = reader.node
    # What YAML takes for a comment: on the command line ` #` is part of a name.
    rest = text.strip() if node is None else text[node.end_mark.index :].strip()
    if rest and (node is None or getattr(node, "style", "") is None):
        return text.strip()
    if rest:
        raise NodeFault(f"line 1: {as_yaml(rest)} stands behind the value; leave it out")
    value = None if node is None else reader.read(node, path)
    if reader.faults:
        fault = reader.faults[0]
        raise NodeFault(f"{'.'.join(map(str, fault.path))}: {fault.text}")
    return value


# What a file should be, for a message, and the endings of the names of such files.
YAML = ("a YAML file, such as those in configs/", (".yaml", ".yml"))
NEURAL = ("a .neural file, such as those in extras/neural/samples/", (".neural",))


def read_text(path, kind=YAML):
    """The text of a file of at most MAX_BYTES; else a UserError.

    kind: YAML or NEURAL.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file{near_files(path, kind[1])}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder; give {kind[0]}") from None
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


def near_files(path, endings):
    """A hint: files with a similar name in the same folder. endings: tuple, of their names."""
    folder, name = os.path.split(path)
    try:
        names = sorted(n for n in os.listdir(folder or ".") if n.endswith(endings))
    except OSError:
        return f"; the folder {folder} is not there either"
    near = difflib.get_close_matches(name, names, n=1) or names[:5]
    return f"; there is {', '.join(os.path.join(folder, n) for n in near)}" if near else ""


class NodeReader:
    """Turns PyYAML's nodes into plain values and notes the line of each key.

    Attributes:
        node: the root node; None if the text is empty.
        lines, faults: see `read_yaml`; complete after `read`.
    """

    def __init__(self, text):
        try:
            self.loader = Loader(text)
            self.node = self.loader.get_single_node()
        except yaml.YAMLError as error:
            raise NodeFault(yaml_sentence(error)) from None
        self.lines = {}
        self.faults = []
        self.seen = set()  # ids of nodes
        self.ancestors = set()  # of the node that is being read
        self.num_repeats = 0
        self.num_values = 0

    def read(self, node, path):
        """The value of a node. path: tuple of the keys and indices that lead to it."""
        if id(node) in self.ancestors:
            raise fault_at(node, "a value that contains itself by an alias (*name)")
        self.count(node)
        if node.tag != PLAIN_TAGS.get(type(node), node.tag):
            raise fault_at(node, f"the tag {node.tag} is not accepted; leave it out")
        self.ancestors.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self.mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                values = []
                for i, item in enumerate(node.value):
                    self.lines[(*path, i)] = item.start_mark.line + 1
                    values.append(self.read(item, (*path, i)))
                return values
            return self.scalar(node)
        finally:
            self.ancestors.discard(id(node))

    def count(self, node):
        """Refuses a file that aliases expand beyond the limits."""
        self.num_repeats += id(node) in self.seen and not isinstance(node, yaml.ScalarNode)
        self.seen.add(id(node))
        self.num_values += 1 + (len(node.value) if isinstance(node, yaml.ScalarNode) else 0)
        if self.num_repeats > MAX_ALIASES or self.num_values > MAX_VALUES:
            raise fault_at(node, "aliases (*name) repeat this too often; write the values out")

    def mapping(self, node, path):
        values, merged, first_line = {}, {}, {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == "tag:yaml.org,2002:merge":
                merged = self.merge(value_node, path) | merged
                continue
            self.count(key_node)
            is_scalar = isinstance(key_node, yaml.ScalarNode)
            key = self.scalar(key_node) if is_scalar else None
            if not isinstance(key, str):
                shown = as_yaml(key) if is_scalar else "a list or mapping"
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
        """`<<: *name`: the keys of a mapping, or of several, of which the first has priority."""
        if isinstance(node, yaml.MappingNode):
            return self.read(node, path)
        if isinstance(node, yaml.SequenceNode):
            values = {}
            for item in node.value:
                values = self.merge(item, path) | values
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
                value.encode()  # half of a surrogate pair ("\ud800") cannot be printed
            if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
                raise ValueError
            return value
        except yaml.constructor.ConstructorError:
            raise fault_at(node, f"the tag {node.tag} is not accepted; write the value") from None
        except (ValueError, OverflowError, LookupError, AttributeError):  # such as `!!bool 3`
            raise fault_at(node, f"{as_yaml(node.value)} cannot be read as a value") from None


def yaml_sentence(error):
    """An error of PyYAML as one sentence with its line."""
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


def flattened(values, prefix=""):
    """Returns {dotted key: value} of nested mappings, without those that are empty."""
    flat = {}
    for key, value in (values or {}).items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{key}.")
        elif value is not None:
            flat[f"{prefix}{key}"] = value
    return flat
