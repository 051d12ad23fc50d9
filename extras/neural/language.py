# SPDX-License-Identifier: Apache-2.0
"""The language of `.neural` files: text -> a Network whose macros are expanded.

    define Block(width) { Dense(units=$width) Add() }
    network Name { input: (512,)  layers: Block(width=8)  loss: "..."  train { epochs: 3 } }

It knows the syntax and no layer; `description.py` says what a Network means here.
"""

from dataclasses import dataclass, replace

from common.errors import UserError
from common.export.onnx_files import require

GRAMMAR = r"""
start: (define | network)*
define: "define" NAME "(" (NAME ("," NAME)* ","?)? ")" "{" call+ "}"
network: "network" NAME "{" (entry | train)* "}"
entry: KEY ":" value | OPTIMIZER ":" call | LAYERS ":" call*
train: TRAIN "{" setting* "}"
setting: NAME ":" value
call: NAME "(" (argument ("," argument)* ","?)? ")"
argument: (NAME "=")? value
?value: NUMBER | STRING | CONSTANT | PARAMETER | list | tuple
list: "[" (value ("," value)* ","?)? "]"
tuple: "(" (value ("," value)* ","?)? ")"

KEY.2: /(input|loss|metrics)\b/
LAYERS: "layers"
OPTIMIZER: "optimizer"
TRAIN: "train"
CONSTANT.2: /(True|False|None)\b/
NAME: /[A-Za-z_]\w*/
PARAMETER: /\$[A-Za-z_]\w*/
NUMBER: /[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?/
STRING: /"[^"\n]*"|'[^'\n]*'/
%ignore /#[^\n]*/
%ignore /\s+/
"""
WORDS = {"NAME": "a name", "PARAMETER": "a $parameter", "NUMBER": "a number", "STRING": "a text"}
WORDS |= {"KEY": "`input`, `loss`, `metrics`", "CONSTANT": "True, False, None"}
WORDS |= {"$END": "the end of the file"}
MAX_LAYERS = 10_000  # after macros are expanded; BERT-large has 220


class Refused(UserError):
    """A text that is not of the language, or no network here. place: a line, or `Call.place`."""

    def __init__(self, place, text):
        super().__init__(f"{f'line {place}' if isinstance(place, int) else place}: {text}")


class Parameter(str):
    """`$name`, of a macro's parameter, which stands for a value."""


@dataclass(frozen=True)
class Argument:
    """A value with its name, None where its place tells it, and its line."""

    name: str | None
    value: object  # str, int, float, bool, None, list, tuple, Parameter; of layers list of Call
    line: int


@dataclass(frozen=True)
class Call:
    """`Dense(units=768)`: a layer, a macro or an optimizer; or `train { epochs: 3 }`."""

    name: str
    arguments: tuple[Argument, ...]
    line: int
    macro: str | None = None  # whose body it stands in
    used: int | None = None  # the line on which the outermost macro is used

    @property
    def place(self):
        return f"line {self.line}" + (f" (used on line {self.used})" if self.used else "")


@dataclass(frozen=True)
class Network:
    """`network Name { ... }`, with the layers that its macros stand for."""

    entries: dict[str, Argument | Call]  # optimizer and train are Calls
    line: int
    end: int  # the line of its last bracket


def read_network(text):
    """Returns the Network of the text of a file. Raises Refused: the first fault, and its line."""
    macros, networks = {}, []
    for node in parse(text).children:
        name, *rest = node.children
        if node.data == "network":
            networks.append(node)
            continue
        if name in macros:
            text = f"{name} is defined on line {macros[name][2]}, too; expected another name"
            raise Refused(name.line, text)
        parameters = [each for each in rest if not hasattr(each, "data")]
        body = [to_call(each) for each in rest if hasattr(each, "data")]
        for each in parameters:
            if parameters.count(each) > 1:
                raise Refused(each.line, f"{name} has the parameter {each} twice; expected it once")
        for each in (each for call in body for each in call.arguments):
            if isinstance(each.value, Parameter) and each.value[1:] not in parameters:
                wanted = " or ".join(["a value", *(f"${other}" for other in parameters)])
                raise Refused(each.line, f"{name} has no {each.value}; expected {wanted}")
        macros[str(name)] = dict.fromkeys(map(str, parameters), "a value"), body, name.line
    if len(networks) != 1:
        line = networks[1].children[0].line if networks else 1
        raise Refused(line, f"{len(networks)} networks; expected one, as `network NAME {{ ... }}`")
    return to_network(networks[0], macros)


def parse(text):
    """Returns the syntax tree of a text."""
    lark = require("lark", "a .neural file")
    parser = lark.Lark(GRAMMAR, parser="lalr", propagate_positions=True)
    try:
        return parser.parse(text)
    except lark.UnexpectedInput as error:
        token = error.token if hasattr(error, "token") else error.char
        before, rest = text[: error.pos_in_stream], text[error.pos_in_stream :].partition("\n")[0]
        if token in ("'", '"'):
            raise Refused(error.line, f"{rest[:40]} has no end; expected {token}") from None
        before = before.rpartition("\n")[2].strip()[-40:]  # of the same line
        found = repr(str(token)[:40]) + f" behind {before!r}" * bool(before)
        found = WORDS["$END"] if getattr(token, "type", "") == "$END" else found
        signs = {each.name: f"`{each.pattern.value}`" for each in parser.terminals} | WORDS
        wanted = getattr(error, "accepts", None) or getattr(error, "allowed", ())
        wanted = " or ".join(sorted(signs[name] for name in wanted))
        raise Refused(error.line, f"found {found}; expected {wanted}") from None


def to_value(node):
    """The value of a token, or of a list of them."""
    if hasattr(node, "data"):
        return (list if node.data == "list" else tuple)(map(to_value, node.children))
    if node.type == "NUMBER":
        return int(node) if node.lstrip("+-").isdigit() and len(node) < 20 else float(node)
    if node.type == "CONSTANT":
        return {"True": True, "False": False, "None": None}[node]
    return str(node)[1:-1] if node.type == "STRING" else Parameter(node)


def to_call(node):
    """The Call of a call, or of train."""
    name, *arguments = node.children
    found = []
    for *names, value in (each.children for each in arguments):
        # Brackets with nothing in them have no line of their own.
        line = getattr(names[0] if names else getattr(value, "meta", value), "line", name.line)
        found.append(Argument(str(names[0]) if names else None, to_value(value), line))
    return Call(str(name), tuple(found), name.line)


def to_network(node, macros):
    """The Network of a network. macros: {name: ({parameter: "a value"}, body, line)}."""
    (name, *nodes), end = node.children, node.meta.end_line
    entries = {}
    for node in nodes:
        key, *values = node.children
        if key in entries:
            raise Refused(key.line, f"{key} is on line {entries[key].line}, too; expected it once")
        if key in ("train", "optimizer"):
            entries[str(key)] = to_call(node if key == "train" else values[0])
        elif key == "layers":
            value = [layer for each in values for layer in expand(to_call(each), macros)]
            entries["layers"] = Argument("layers", value, key.line)
        else:
            entries[str(key)] = Argument(str(key), to_value(values[0]), key.line)
    return Network(entries, name.line, end)


def expand(call, macros, around=()):
    """Returns the layers that a call stands for, list of Call. around: names of macros."""
    if call.name not in macros:
        return [call]
    if call.name in around:
        raise Refused(call.place, f"{call.name} uses itself; expected layers")
    parameters, body, _ = macros[call.name]
    given, layers, used = named_arguments(call, parameters), [], call.used or call.line
    for inner in body:
        arguments = list(inner.arguments)
        for place, each in enumerate(arguments):
            if isinstance(each.value, Parameter):  # whose value has the line of the use
                arguments[place] = replace(given[each.value[1:]], name=each.name)
        inner = replace(inner, arguments=tuple(arguments), macro=call.name, used=used)
        layers += expand(inner, macros, (*around, call.name))
        if len(layers) > MAX_LAYERS:
            raise Refused(used, f"more than {MAX_LAYERS:,} layers; expected fewer")
    return layers


def named_arguments(call, kinds, optional=()):
    """Returns {name: Argument} of a call. kinds: {name: what it is}, in their order."""
    names, given = list(kinds), {}
    for place, argument in enumerate(call.arguments):
        name = argument.name or (names[place] if place < len(names) else f"number {place + 1}")
        if name not in names or name in given:
            what = "is given twice" if name in given else f"is none of {call.name}"
            takes = ", ".join(names) or "nothing"
            raise Refused(argument.line, f"argument {name} {what}; expected {takes}, each once")
        given[name] = replace(argument, name=name)
    for name in names:
        if name not in given and name not in optional:
            raise Refused(call.place, f"{call.name} has no {name}; expected {kinds[name]} for it")
    return given
