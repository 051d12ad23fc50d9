# SPDX-License-Identifier: Apache-2.0
"""What is decided in the templates of source exports, and what is left out."""

import ast

import pytest

from common.export.source import TEMPLATES
from common.export.specialize import specialize

GEOMETRY = '''# SPDX-License-Identifier: Apache-2.0
"""A docstring."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Geometry:
    """Sizes."""

    size: int = 1  # its comment
    is_gated: bool = True
    has_bias: bool = True
    kind: str = "a"
'''
VALUES = {"size": 7, "is_gated": False, "has_bias": True, "kind": 'the "b"'}
HEAD = '# SPDX-License-Identifier: Apache-2.0\n"""Two\n"""\n\n'


def made(code, **values):
    """The code behind the head and Geometry, of a template's code."""
    template = f'# SPDX\n"""A docstring."""\n\nfrom common.x import Geometry\n\n{code}'
    text = specialize([GEOMETRY, template], VALUES | values, "Two\n")
    assert text.startswith(HEAD)
    ast.parse(text)
    return text.partition("\n\n\n")[2]


@pytest.mark.parametrize(
    "values, line",
    [
        ({"is_gated": True}, "x = 1  # gated"),
        ({"kind": "c"}, "x = 2"),
        ({"size": 0}, "x = 3"),
        ({}, "x = 4  # else"),
    ],
)
def test_the_branch_that_is_taken_stands_in_the_place_of_the_statement(values, line):
    code = """
def main(geometry):
    if geometry.is_gated:
        x = 1  # gated
    elif geometry.kind == "c":
        x = 2
    elif not geometry.size:
        x = 3
    else:
        x = 4  # else
    # before the end
    return x


if __name__ == "__main__":
    main(Geometry())
"""
    expected = f"""def main(geometry):
    {line}
    # before the end
    return x


if __name__ == "__main__":
    main(Geometry())
"""
    assert made(code, **values) == expected


def test_a_condition_that_asks_something_else_too_asks_that_alone():
    code = """
def main(geometry, n):
    if geometry.has_bias and n == 0 and not geometry.is_gated:
        n = 1
    else:
        n = 2
    if geometry.is_gated and n == 0:
        n = 3
    if n or geometry.is_gated:
        n = 4
    return n


main(Geometry(), 0)
"""
    text = made(code)
    assert "    if n == 0:\n        n = 1\n    else:\n        n = 2\n    if n or geometry" in text
    assert "n = 3" not in text and "n = 4" in text


def test_an_entry_of_a_table_stands_in_the_place_of_its_look_up_and_the_others_go():
    code = """
def first(x):
    return x


def second(x):
    return first(x)


def third(x):
    return x


TABLE = {"a": third, "b": second}


def main(self):
    return TABLE[self.geometry.kind](3 if self.geometry.is_gated else 4)


main(Geometry)
"""
    text = made(code, kind="b")
    assert "return second(4)" in text and "def first(x)" in text
    assert "TABLE" not in text and "third" not in text


def test_flags_among_arguments_are_written_and_the_default_is_left_out():
    code = """
def main(geometry):
    return print(
        geometry.size, use_bias=geometry.has_bias, center=geometry.is_gated, size=geometry.size
    )


main(Geometry())
"""
    assert "    return print(geometry.size, center=False, size=geometry.size)\n" in made(code)


def test_what_nothing_reads_is_left_out_with_its_comments():
    code = """
# of the first
FIRST = 1


class Layer:
    \"\"\"A layer.\"\"\"

    def __init__(self, geometry):
        self.geometry = geometry
        self.size = geometry.size
        self.kind = geometry.kind

    def call(self):
        return self.size

    # of the helper
    def helper(self):
        return self.helper()


def encode():
    return Layer(Geometry()).call()
"""
    expected = """class Layer:
    \"\"\"A layer.\"\"\"

    def __init__(self, geometry):
        self.size = geometry.size

    def call(self):
        return self.size


def encode():
    return Layer(Geometry()).call()
"""
    assert made(code) == expected


def test_fields_have_the_values_of_the_network_and_imports_are_those_that_are_read():
    code = "import os\n\nimport numpy as np\nfrom keras import ops\n\n\nnp.zeros(Geometry.size)\n"
    template = f'# SPDX\n"""A docstring."""\n\n{code}\nops.abs(Geometry.kind)\n'
    assert specialize([GEOMETRY, template], VALUES, "Two\n") == (
        HEAD
        + '''from dataclasses import dataclass

import numpy as np
from keras import ops

@dataclass(frozen=True)
class Geometry:
    """Sizes."""

    size: int = 7  # its comment
    kind: str = "the \\"b\\""


np.zeros(Geometry.size)

ops.abs(Geometry.kind)
'''
    )


def test_the_templates_are_ascii_whose_places_are_counted_in_bytes():
    for path in TEMPLATES.glob("*.py"):
        assert path.read_bytes().isascii(), path
