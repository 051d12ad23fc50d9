# SPDX-License-Identifier: Apache-2.0
"""input/tokenizers/words.py: the words that the tokenizers of the package tokenizers split."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers

from input.tokenizers import words
from input.tokenizers.words import count_byte_words, count_words

AWKWARD_LINES = [
    json.loads(line)
    for line in Path(__file__).with_name("awkward_lines.txt").read_text("utf-8").split("\n")
    if line and not line.startswith("#")
]
# Where Python and BERT differ about white space, and what joins or parts words.
AWKWARD = "aB1 .'\t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u2028\u3000\u200b\u0301é中ß-İ"
TEXTS = st.text(st.sampled_from(AWKWARD) | st.characters(codec="utf-8"), max_size=40)


def words_of_package(text, do_lower):
    normalizer = normalizers.BertNormalizer(lowercase=do_lower)
    normal = normalizer.normalize_str(text)
    return [word for word, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(normal)]


@given(st.lists(TEXTS, max_size=4), st.booleans())
@settings(max_examples=300)
def test_words_are_those_of_berts_tokenizer(texts, do_lower):
    expected = Counter(word for text in texts for word in words_of_package(text, do_lower))
    assert count_words(texts, do_lower) == expected


@pytest.mark.parametrize("do_lower", [True, False])
def test_words_of_awkward_lines_are_those_of_berts_tokenizer(do_lower):
    expected = Counter(word for text in AWKWARD_LINES for word in words_of_package(text, do_lower))
    kept = {word: count for word, count in expected.items() if len(word) <= 100}
    assert count_words(["\n".join(AWKWARD_LINES)], do_lower) == kept


CONTRACTIONS = "it's WE'LL they've 'd don't 's x' r'e 2's I'm\tit'Ses"


@given(st.lists(TEXTS, max_size=4), st.booleans())
@example(AWKWARD_LINES, False)
@example([CONTRACTIONS], False)
@example([CONTRACTIONS], True)
@settings(max_examples=300)
def test_byte_words_are_those_of_gpt2s_pattern_line_by_line(texts, do_lower):
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    expected = Counter()
    for line in "\n".join(texts).split("\n"):
        line = normalizers.Lowercase().normalize_str(line) if do_lower else line
        expected.update(word for word, _ in splitter.pre_tokenize_str(line))
    assert count_byte_words(["\n".join(texts)], do_lower) == expected


def test_a_word_of_more_than_100_characters_is_left_out_as_it_becomes_unk():
    assert count_words(["a" * 100 + " " + "a" * 101], do_lower=True) == {"a" * 100: 1}


def test_counts_do_not_depend_on_how_many_strings_wait(monkeypatch):
    blocks = ["one two three", "two three. three"]
    whole = count_words(blocks, True)
    monkeypatch.setattr(words, "MAX_STRINGS", 1)
    assert count_words(blocks, True) == whole == {"one": 1, "two": 2, "three": 3, ".": 1}
