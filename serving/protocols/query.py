# SPDX-License-Identifier: Apache-2.0
"""Query: what a request asks, whatever its protocol; and the checks that all of them share."""

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# What people call the texts of a pair, besides text_a and text_b.
OTHER_NAMES = {"question": "text_a", "context": "text_b", "premise": "text_a"}
OTHER_NAMES |= {"hypothesis": "text_b", "sentence1": "text_a", "sentence2": "text_b"}
IDS, MASKS, SEGMENTS = "input_ids", "input_mask", "segment_ids"


class Refused(Exception):
    """A request that is not answered. code: of HTTP."""

    def __init__(self, code, sentence, headers=None):
        super().__init__(sentence)
        self.code, self.headers = code, headers or {}


def malformed(sentence):
    return Refused(400, sentence)


def bad_value(sentence):
    return Refused(422, sentence)


@dataclass(frozen=True)
class Query:
    """Texts, list of tuples of one or two str, or rows, list of (ids, number of ids of the first
    segment). form: what the protocol needs for the answer."""

    texts: list = field(default_factory=list)
    rows: list = field(default_factory=list)
    form: Any = None

    def __len__(self):
        return len(self.texts) or len(self.rows)


def as_text(value, what):
    """Returns a str. {"b64": ...} is one in base64."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str):
        try:
            return base64.b64decode(value["b64"], validate=True).decode("utf-8")
        except (binascii.Error, ValueError):
            raise bad_value(f"{what} is no base64 of a text in UTF-8") from None
    raise bad_value(f"{what} is {kind_of(value)}; a text is wanted")


def as_row_texts(value, reader, what):
    """Returns the texts of a row, tuple of str, of a str, a list of them or a dict by name."""
    names = reader.text_names
    if isinstance(value, dict) and "b64" not in value:
        given = {OTHER_NAMES.get(n, n) if len(names) > 1 else n: v for n, v in value.items()}
        if given.keys() != set(names):
            raise bad_value(
                f"{what} has the keys {', '.join(map(repr, value)) or 'none'}; this model takes "
                f"{' and '.join(names)}"
            )
        return tuple(as_text(given[name], f"{name} of {what}") for name in names)
    row = value if isinstance(value, list) else [value]
    if len(row) != len(names):
        wanted = "a text" if len(names) == 1 else "a pair of texts, text_a and text_b"
        raise bad_value(f"{what} is {kind_of(value)}; {wanted} is wanted")
    return tuple(as_text(each, what) for each in row)


def is_ids(value):
    """Whether a value is a list of numbers."""
    return isinstance(value, list) and bool(value) and not isinstance(value[0], str | list | dict)


def as_row_ids(value, reader, what):
    """Returns (ids, number of ids of the first segment) of a list, or of a dict of lists."""
    features = value if isinstance(value, dict) else {IDS: value}
    unknown = features.keys() - {IDS, MASKS, SEGMENTS}
    if unknown or IDS not in features:
        raise bad_value(f"{what} has the keys {', '.join(features)}; wanted is {IDS}")
    ids = whole_numbers(features[IDS], f"{IDS} of {what}", len(reader.vocab.entries))
    length = len(ids)
    if MASKS in features:
        mask = whole_numbers(features[MASKS], f"{MASKS} of {what}", 2, length)
        is_token = 0 if reader.settings["input_mask_is_of_padding"] else 1
        count = mask.count(is_token)
        if any(each != is_token for each in mask[:count]):
            raise bad_value(f"{MASKS} of {what} has padding before a token")
        ids = ids[:count]
    else:
        while ids and ids[-1] == reader.pad:
            ids = ids[:-1]
    first = len(ids)
    if SEGMENTS in features:
        segments = whole_numbers(features[SEGMENTS], f"{SEGMENTS} of {what}", 2, length)[: len(ids)]
        first = segments.count(0)
        if any(segments[:first]):
            raise bad_value(f"{SEGMENTS} of {what} has a 0 behind a 1")
    if not ids:
        raise bad_value(f"{what} has no token")
    if len(ids) > reader.max_positions:
        raise bad_value(
            f"{what} has {len(ids)} tokens; this model takes at most {reader.max_positions}"
        )
    return ids, first


def whole_numbers(values, what, below, length=None):
    """Returns a list of int in [0, below)."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if not isinstance(values, list) or not all(type(each) is int for each in values):
        raise bad_value(f"{what} is {kind_of(values)}; a list of whole numbers is wanted")
    if length is not None and len(values) != length:
        raise bad_value(f"{what} has {len(values)} numbers where {IDS} has {length}")
    if values and not 0 <= min(values) <= max(values) < below:
        raise bad_value(f"{what} has {min(values)} to {max(values)}; wanted are 0 to {below - 1}")
    return values


def kind_of(value):
    """Returns what a value of JSON is, in words, without what it says."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "one text"
    if isinstance(value, dict):
        return "an object"
    kinds = sorted({kind_of(each) for each in value[:100] if not isinstance(each, list)})
    return f"a list of {len(value)}" + (f" ({', '.join(kinds)})" if kinds else "")
