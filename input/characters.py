# SPDX-License-Identifier: Apache-2.0
"""What texts are written in: scripts, and characters that a text seldom has on purpose.

A text with one of them looks right to a reader, and is another text to a tokenizer.
"""

import functools
import itertools
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

TEXTS_AT_ONCE = 16384
# UTF-8 that was read as Latin-1 or Windows-1252: the first byte of a character of two or three
# bytes, then one of those that follow it.
MOJIBAKE = re.compile(
    "[\u00c2\u00c3][\u0080-\u00bf\u0152-\u0178\u2018-\u203a\u20ac\u2122]"
    "|\u00e2[\u0080\u20ac][\u0080-\u00bf\u0152-\u0178\u02c6\u02dc\u2018-\u203a\u20ac\u2122]"
)
MARKUP = re.compile(r"&(?:[a-zA-Z]{2,8}|#[0-9]{1,6});|</?(?:[a-zA-Z]{1,10})(?: [^<>]{0,200})?/?>")
# {kind: what it is}, those of single characters first.
KINDS = {
    "control": "control characters",
    "invisible": "characters without a width, such as U+200B or a soft hyphen",
    "replacement": "U+FFFD, which stands for what could not be read",
    "private": "characters of private use, or that Unicode has not assigned",
    "blank": "blanks other than the space, such as U+00A0",
    "decomposed": "accents apart from their letters, which composed text (NFC) has as one",
    "form": "full-width, circled or joined forms of other characters",
    "mojibake": "UTF-8 that was read in another encoding, such as \u00c3\u00a9 for \u00e9",
    "markup": "HTML tags or entities",
}
# Signs and letters with a compatibility form that texts do have on purpose.
PLAIN_FORMS = set("\u2026\u00bd\u00bc\u00be\u00b2\u00b3\u00b9\u00b5\u00aa\u00ba\u2122\u00b4\u00a8")
ALSO_WHITE = set("\t\n\r")


@dataclass
class Characters:
    """The characters of texts."""

    num_characters: int = 0
    scripts: dict[str, int] = field(default_factory=dict)  # letters of each, most first
    odd: dict[str, list[int]] = field(default_factory=dict)  # {kind: rows that have it, in order}
    examples: dict[str, list[tuple[str, int]]] = field(default_factory=dict)  # {kind: characters}


def examine(rows):
    """Examines the texts of rows, tuples of str. Returns Characters."""
    counts, odd = Counter(), {kind: [] for kind in KINDS}
    for start in range(0, len(rows), TEXTS_AT_ONCE):
        texts = ["\0".join(row) for row in rows[start : start + TEXTS_AT_ONCE]]
        for character, count in _counted("".join(texts)).items():
            counts[character] += count
        counts["\0"] -= sum(len(row) - 1 for row in rows[start : start + TEXTS_AT_ONCE])
        for number, row in enumerate(rows[start : start + TEXTS_AT_ONCE], start):
            for kind in _kinds_in(row):
                odd[kind].append(number)
    counts = +counts
    scripts, examples = Counter(), {}
    for character, count in counts.items():
        if character.isalpha():
            scripts[script_of(character)] += count
        for kind in _kinds_of(character):
            examples.setdefault(kind, []).append((character, count))
    return Characters(
        sum(counts.values()),
        dict(scripts.most_common()),
        {kind: numbers for kind, numbers in odd.items() if numbers},
        {kind: sorted(found, key=lambda pair: -pair[1]) for kind, found in examples.items()},
    )


def named(character):
    """A character by its code and its name."""
    name = unicodedata.name(character, "")
    return f"U+{ord(character):04X}{f' {name}' if name else ''}"


@functools.cache
def script_of(letter):
    """Returns the script of a letter, as the first word of its name in Unicode: LATIN, CYRILLIC."""
    words = unicodedata.name(letter, "UNNAMED").split()
    if words[0] in ("FULLWIDTH", "HALFWIDTH", "MODIFIER", "MATHEMATICAL") and len(words) > 1:
        return words[1]
    return words[0]


def _counted(text):
    """Returns how often each character is there: {str: int}."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    numbers = np.bincount(codes, minlength=1) if len(codes) else np.zeros(1, int)
    return {chr(code): int(numbers[code]) for code in np.flatnonzero(numbers).tolist()}


@functools.cache
def _kinds_of(character):
    """Returns the kinds of a single character: tuple of str."""
    category = unicodedata.category(character)
    if character == "\ufffd":
        return ("replacement",)
    if category == "Cc":
        return () if character in ALSO_WHITE else ("control",)
    if category == "Cf":
        return ("invisible",)
    if category in ("Co", "Cn", "Cs"):
        return ("private",)
    if category in ("Zs", "Zl", "Zp"):
        return () if character == " " else ("blank",)
    if category == "Mn" and character in _composing():
        return ("decomposed",)
    form = unicodedata.decomposition(character).startswith("<")
    return ("form",) if form and character not in PLAIN_FORMS else ()


@functools.cache
def _composing():
    """The marks that compose with a Latin, Greek or Cyrillic letter before them: frozenset."""
    marks = set()
    for code in itertools.chain(range(0xC0, 0x250), range(0x370, 0x530), range(0x1E00, 0x2000)):
        parts = unicodedata.normalize("NFD", chr(code))
        marks.update(parts[1:])
    return frozenset(marks)


def _kinds_in(texts):
    """Returns the kinds of odd characters in the texts of a row: set of str."""
    found = set()
    for text in texts:
        if not text.isascii() or not text.isprintable():
            kinds = set(itertools.chain.from_iterable(map(_kinds_of, set(text))))
            if "decomposed" in kinds and unicodedata.is_normalized("NFC", text):
                kinds.discard("decomposed")  # of a letter without a form that has the mark
            found |= kinds
            if MOJIBAKE.search(text):
                found.add("mojibake")
        if ("&" in text or "<" in text) and MARKUP.search(text):
            found.add("markup")
    return found
