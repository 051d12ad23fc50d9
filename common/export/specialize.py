# SPDX-License-Identifier: Apache-2.0
"""Makes the source of one network of code that runs with any: it decides what the code asks.

The code asks the fields of a dataclass `Geometry`, as `geometry.NAME`, `self.geometry.NAME` or
`Geometry.NAME`. With the values of one network,

    if geometry.is_gated: ...                   is replaced by the branch that is taken
    a if geometry.is_gated else b               likewise
    ACTIVATIONS[geometry.activation](x)         takes the entry of the dict ACTIVATIONS
    Dense(n, use_bias=geometry.use_bias)        loses an argument that is True, which is the default
    is_gated: bool = False                      has the value

and what is then read nowhere is left out: imports, functions, classes, methods, fields, attributes.
All else stays as it is written, comments too. Conditions that ask anything else are the program's.
"""

import ast
import itertools
import re
import sys
from collections import Counter
from types import SimpleNamespace

LINE_LENGTH = 100
ROOTS = ("geometry", "Geometry")
# What a framework or the reader of the file calls, and the file itself perhaps not.
CALLED = re.compile(r"__\w+__|call|forward|build|encode")
IMPORT_OF_TEMPLATE = re.compile(r"(bert_classifier\.)?common\.")  # the former where it is installed


def specialize(sources, values, head):
    """Returns the source of one file.

    Args:
        sources: list of str, modules that import each other's names; the last may be a program.
        values: {field of Geometry: value}.
        head: str, its docstring's content.
    """
    trees = [ast.parse(source) for source in sources]
    code = "\n\n\n".join(map(_body, sources, trees))
    code = _until_same(_decide, _with_values(code, values), values)
    code = _until_same(_joined, _until_same(_without_unread, code))
    head = f'# SPDX-License-Identifier: Apache-2.0\n"""{head}"""'
    return f"{head}\n\n{_imports(trees, code)}\n{code.strip()}\n"


def _until_same(change, code, *arguments):
    while (changed := change(code, *arguments)) != code:
        code = changed
    return code


class _Source:
    """A module's text and tree, and what is to be put in the place of parts of it."""

    def __init__(self, code):
        self.code, self.tree = code, ast.parse(code)
        self.lines = code.split("\n")
        self.starts = [0]  # of each line, in characters; templates are ASCII, as ast counts bytes
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line) + 1)
        self.edits = []

    def place(self, line, column):
        return self.starts[line - 1] + column

    def begin(self, node):
        return self.place(node.lineno, node.col_offset)

    def end(self, node):
        return self.place(node.end_lineno, node.end_col_offset)

    def text(self, node):
        return self.code[self.begin(node) : self.end(node)]

    def edit(self, begin, end, text):
        self.edits.append((begin, end, text))

    def edit_lines(self, first, after, lines):
        """Puts lines in the place of those from number `first` to before `after`, from 0 on."""
        text = "".join(f"{line}\n" for line in lines)
        self.edit(self.starts[first], self.starts[after], text)

    def edited(self):
        code = self.code + "\n"  # the last line's end may be edited
        for begin, end, text in sorted(self.edits, reverse=True):
            code = code[:begin] + text + code[end:]
        return code[:-1]


# ---- The parts of a module -----------------------------------------------------------------------


def _body(source, tree):
    """Returns a module without its licence, docstring and imports."""
    lines = source.split("\n")
    code = (node for node in tree.body[1:] if not isinstance(node, ast.Import | ast.ImportFrom))
    return "\n".join(lines[_first_line(lines, next(code)) :]).strip()


def _imports(trees, code):
    """Returns the imports that code reads, in the order of ruff. trees: of the templates."""
    names = set(_reads(ast.parse(code)))
    lines = set()  # (section, 1 of a "from", module, name)
    for node in (node for tree in trees for node in tree.body):
        for alias in node.names if isinstance(node, ast.Import | ast.ImportFrom) else ():
            module = getattr(node, "module", alias.name)
            section = module.partition(".")[0] not in sys.stdlib_module_names
            if (alias.asname or alias.name) in names and not IMPORT_OF_TEMPLATE.match(module):
                name = alias.name + f" as {alias.asname}" * bool(alias.asname)
                lines.add((section, isinstance(node, ast.ImportFrom), module, name))
    text, before = "", False
    for (section, is_from, module), group in itertools.groupby(sorted(lines), lambda row: row[:3]):
        imported = ", ".join(name for *_, name in group)
        text += "\n" * (section and not before and bool(text))
        text += f"from {module} import {imported}\n" if is_from else f"import {imported}\n"
        before = section
    return text


# ---- Decisions -----------------------------------------------------------------------------------


def _with_values(code, values):
    """Returns the code with the values of the fields."""
    source = _Source(code)
    for node in source.tree.body:
        for field in node.body if getattr(node, "name", None) == "Geometry" else ():
            if isinstance(field, ast.AnnAssign):
                value = _literal(values[field.target.id])
                source.edit(source.begin(field.value), source.end(field.value), value)
    return source.edited()


def _literal(value):
    """Returns a value as ruff formats it."""
    text = repr(value)
    if isinstance(value, str):
        text = '"' + text[1:-1].replace("\\'", "'").replace('"', '\\"') + '"'
    return text


def _decide(code, values):
    """Returns the code with what is decided outside of other such code; the same where all is."""
    source = _Source(code)
    tables = {
        node.targets[0].id: node.value
        for node in source.tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
    }
    waiting = [source.tree]
    while waiting:
        node = waiting.pop()
        if not _edit(source, node, values, tables):
            waiting += ast.iter_child_nodes(node)
    return source.edited()


def _edit(source, node, values, tables):
    """Decides a node. Returns whether it did."""
    if isinstance(node, ast.If):
        return _edit_if(source, node, values)
    if isinstance(node, ast.IfExp) and _is_decided(node.test, values):
        chosen = node.body if _value(node.test, values) else node.orelse
    elif isinstance(node, ast.Subscript) and _is_decided(node.slice, values):
        table = tables.get(getattr(node.value, "id", None))
        if table is None:
            return False
        keys = [key.value for key in table.keys]
        chosen = table.values[keys.index(_value(node.slice, values))]
    elif isinstance(node, ast.Call):
        return _edit_arguments(source, node, values)
    else:
        return False
    source.edit(source.begin(node), source.end(node), source.text(chosen))
    return True


def _edit_arguments(source, call, values):
    """Writes flags among the keyword arguments of a call; True is the default, and left out."""
    arguments, edited = [*call.args, *call.keywords], False
    for before, argument in itertools.pairwise(arguments):
        flag = argument.value if isinstance(argument, ast.keyword) else None
        is_field = isinstance(flag, ast.Attribute) and _is_decided(flag, values)
        value = _value(flag, values) if is_field else None
        if isinstance(value, bool):
            begin = source.end(before) if value else source.begin(flag)
            source.edit(begin, source.end(flag), "" if value else "False")
            edited = True
    return edited


def _edit_if(source, node, values):
    """Puts the branch that is taken in the place of an if statement. Returns whether it did."""
    if _is_decided(node.test, values):
        is_taken = bool(_value(node.test, values))
    else:
        is_and = isinstance(node.test, ast.BoolOp) and isinstance(node.test.op, ast.And)
        parts = node.test.values if is_and else []
        decided = [part for part in parts if _is_decided(part, values)]
        if not decided:
            return False
        is_taken = False
        if all(_value(part, values) for part in decided):
            rest = " and ".join(source.text(part) for part in parts if part not in decided)
            source.edit(source.begin(node.test), source.end(node.test), rest)
            return True
    lines, begin, end = source.lines, node.lineno - 1, node.end_lineno
    after = node.body[-1].end_lineno  # of its body, from 0 on
    if is_taken:
        body = lines[node.test.end_lineno : after]
        source.edit_lines(begin, end, [line.removeprefix("    ") for line in body])
        return True
    indent = lines[begin][: node.col_offset]
    while node.orelse and not re.match(rf"{indent}(else:|elif )", lines[after]):
        after += 1
    if not node.orelse:
        source.edit_lines(begin, end, [])
    elif lines[after].startswith(f"{indent}elif "):
        source.edit_lines(begin, after + 1, [lines[after].replace("elif ", "if ", 1)])
    else:
        other = lines[after + 1 : end]
        source.edit_lines(begin, end, [line.removeprefix("    ") for line in other])
    return True


def _is_decided(node, values):
    """Whether an expression asks the geometry alone."""
    inner = [each for each in ast.walk(node) if not isinstance(each, ast.expr_context)]
    allowed = (ast.BoolOp, ast.UnaryOp, ast.Compare, ast.Constant, ast.Attribute, ast.Name)
    operators = (ast.boolop, ast.unaryop, ast.cmpop)
    names = [each.id for each in inner if isinstance(each, ast.Name)]
    fields = [each for each in inner if isinstance(each, ast.Attribute)]
    return (
        all(isinstance(each, allowed + operators) for each in inner)
        and bool(fields)
        and all(name in ROOTS or name == "self" for name in names)
        and all(_is_field(each, values) or _is_geometry(each) for each in fields)
    )


def _is_geometry(node):
    """Whether a node is `geometry`, `Geometry` or `self.geometry`."""
    if isinstance(node, ast.Attribute):
        return node.attr == "geometry" and getattr(node.value, "id", None) == "self"
    return getattr(node, "id", None) in ROOTS


def _is_field(node, values):
    return _is_geometry(node.value) and node.attr in values


def _value(node, values):
    geometry = SimpleNamespace(**values)
    names = dict.fromkeys(ROOTS, geometry) | {"self": SimpleNamespace(geometry=geometry)}
    # An expression of the templates, of names and constants alone.
    return eval(compile(ast.Expression(node), "<template>", "eval"), {}, names)


def _joined(code):
    """Returns the code with calls in one line that fit there, as ruff formats them."""
    source = _Source(code)
    waiting = [source.tree]
    while waiting:
        node = waiting.pop()
        text = source.text(node) if isinstance(node, ast.Call | ast.GeneratorExp) else ""
        line = re.sub(r",\s*\)", ")", re.sub(r"\(\s+", "(", re.sub(r"\n\s*", " ", text)))
        line = line.replace(" )", ")")
        rest = source.lines[node.end_lineno - 1][node.end_col_offset :] if text else ""
        if "\n" in text and node.col_offset + len(line) + len(rest) <= LINE_LENGTH:
            source.edit(source.begin(node), source.end(node), line)
        else:
            waiting += ast.iter_child_nodes(node)
    return source.edited()


# ---- What is read nowhere ------------------------------------------------------------------------


def _reads(tree):
    """Returns a Counter of the names, and of the attributes with a dot before them, that are read.

    An attribute of self is "self.NAME".
    """
    found = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            found[node.id] += 1
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            owner = "self" if getattr(node.value, "id", None) == "self" else ""
            found[f"{owner}.{node.attr}"] += 1
    return found


def _without_unread(code):
    """Returns the code without what nothing else in it reads."""
    source = _Source(code)
    everywhere = _reads(source.tree)
    unread = [
        node
        for node in source.tree.body
        if (name := _name_of(node))
        and everywhere[name] == _reads(node)[name]
        and not CALLED.fullmatch(name)
    ]
    classes = [node for node in source.tree.body if isinstance(node, ast.ClassDef)]
    for each in classes:
        if each not in unread:
            relatives = [other for other in classes if _are_related(each, other)]
            unread += _unread_of_class(each, relatives, everywhere)
    for node in unread:
        source.edit_lines(_first_line(source.lines, node), node.end_lineno, [])
    return re.sub(r"\n{3,}(?= )", "\n\n", re.sub(r"\n{4,}", "\n\n\n", source.edited()))


def _are_related(node, other):
    """Whether two classes are the same, or one is a base of the other."""
    names = {node.name} | {getattr(base, "id", None) for base in node.bases}
    return other.name in names or node.name in {getattr(base, "id", None) for base in other.bases}


def _unread_of_class(node, relatives, everywhere):
    """Yields the fields, methods and statements `self.NAME = ...` that nothing reads."""
    within = sum((_reads(each) for each in relatives), Counter())
    for member in node.body:
        name, own = _name_of(member), _reads(member)
        is_read = any(everywhere[f"{of}.{name}"] > own[f"{of}.{name}"] for of in ("", "self"))
        if name and not is_read and not CALLED.fullmatch(name):
            yield member
    for statement in ast.walk(node):
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Attribute):
            name, own = statement.targets[0].attr, _reads(statement)
            if not within[f"self.{name}"] and everywhere[f".{name}"] == own[f".{name}"]:
                yield statement


def _name_of(node):
    """Returns what a definition or an assignment defines; "" where it is neither."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return node.name
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
    return getattr(target, "id", "")


def _first_line(lines, node):
    """Returns the number, from 0 on, of a node's first line, of its decorators and comments."""
    begin = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))]) - 1
    while begin and lines[begin - 1].lstrip().startswith("#"):
        begin -= 1
    return begin
