# SPDX-License-Identifier: Apache-2.0
"""input/characters.py: scripts are told apart, and odd characters are found and no others."""

import pytest

from input.characters import examine, named


@pytest.mark.parametrize(
    "text,kinds",
    [
        ("plain text, caf\u00e9: \u201cquoted\u201d \u2013 1\u00bd \u20ac\u2026\t\n", []),
        ("S\u00e3o Paulo, \u00c5ngstr\u00f6m, \u00c2ge", []),
        ("\u041f\u0440\u0438\u0432\u0435\u0442 \u65e5\u672c \u0926\u0947\u0935", []),
        ("x < y & z > 1 &co;mpany", ["markup"]),
        ("fine &amp; <br /> dandy", ["markup"]),
        ("a < b and c > d", []),
        ("bell \x07", ["control"]),
        ("zero\u200bwidth", ["invisible"]),
        ("lost \ufffd", ["replacement"]),
        ("own \ue000", ["private"]),
        ("no\u00a0break", ["blank"]),
        ("cafe\u0301", ["decomposed"]),
        ("\uff26ull", ["form"]),
        ("caf\u00c3\u00a9", ["mojibake"]),
        ("don\u00e2\u20ac\u2122t", ["mojibake"]),
    ],
)
def test_each_kind_of_odd_character_is_found_alone(text, kinds):
    found = examine([("before",), (text,), ("after",)])
    assert found.odd == {kind: [1] for kind in kinds}


def test_letters_are_counted_by_script_and_characters_in_all():
    found = examine([("ab", "\u03b1 1"), ("\u65e5\u672c\u304b",), ("\uff21",)])
    assert found.num_characters == 2 + 3 + 3 + 1
    assert found.scripts == {"LATIN": 3, "GREEK": 1, "CJK": 2, "HIRAGANA": 1}
    assert next(iter(found.scripts)) == "LATIN"


def test_the_characters_are_named_most_frequent_first():
    found = examine([("\u00a0\u2003\u2003",)])
    assert [(named(c), count) for c, count in found.examples["blank"]] == [
        ("U+2003 EM SPACE", 2),
        ("U+00A0 NO-BREAK SPACE", 1),
    ]
    assert named("\x07") == "U+0007"
