# SPDX-License-Identifier: Apache-2.0
"""Which words of a text moved its label: for the page.

Our own checkpoint has gradients (`common/training/attribution.py`). Of any other engine the text is
asked again without each of its words.
"""

import re

import numpy as np

WORD = re.compile(r"\S+")
MAX_WORDS = 96  # that are left out, each a row of its own
GRADIENTS, LEFT_OUT = "integrated gradients", "leaving out each word"


def words_of(text):
    """Returns [(number of the text, first character, the one after the last)] of a row's words."""
    return [(n, *found.span()) for n, each in enumerate(text) for found in WORD.finditer(each)]


def without(text, word):
    """The same row without a word."""
    number, start, end = word
    rest = text[number][:start] + text[number][end:]
    return (*text[:number], rest, *text[number + 1 :])


def target_of(reader, answer):
    """Returns which output is explained, what it is called, and its value."""
    if reader.is_scored:
        target = int(np.argmax(answer["probabilities"]))
        return target, reader.label_names[target], float(answer["probabilities"][target])
    return 0, "value", float(answer["value"])


def value_of(reader, answer, target):
    return float(answer["probabilities"][target] if reader.is_scored else answer["value"])


def by_gradients(attribution, reader, text, target):
    """Returns the weight of each word, list of float. attribution: Attribution."""
    prepared = reader.prepare(text)
    places = reader.places(text)  # of the row's tokens
    features = reader.features(prepared.rows)
    is_text = np.array([[place is not None for place in places]])
    shares, _, _ = attribution(features, is_text, target)
    words = words_of(text)
    weights = [0.0] * len(words)
    for place, share in zip(places, shares.tolist(), strict=True):
        if place is None:
            continue
        number, start, end = place
        for n, (of_text, first, last) in enumerate(words):
            if of_text == number and first <= start < max(end, start + 1) <= last:
                weights[n] += share
    return weights
