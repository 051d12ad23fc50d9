# SPDX-License-Identifier: Apache-2.0
"""input/sources/conll.py: tagged sentences, by hand and against the counts of real files."""

import json

import pytest

from common.errors import UserError
from common.metrics.entities import TagSet, scheme_of
from input.sources.conll import (
    advice_on_scheme,
    has_tags,
    parse_conll,
    parse_json_lines,
    tag_faults,
)
from input.tokenizers.offsets import split_text

CONLL_2003 = b"""-DOCSTART- -X- -X- O

EU NNP I-NP I-ORG
rejects VBZ I-VP O

Peter NNP I-NP I-PER
Blackburn NNP I-NP I-PER
-DOCSTART- -X- -X- O
BRUSSELS NNP I-NP I-LOC
"""


def words_and_labels(sentences):
    return [list(zip(row.words, row.labels, strict=True)) for row in sentences.rows]


def test_a_file_of_four_columns_and_its_documents():
    parsed = parse_conll(CONLL_2003, "train.txt")
    assert words_and_labels(parsed) == [
        [("EU", "I-ORG"), ("rejects", "O")],
        [("Peter", "I-PER"), ("Blackburn", "I-PER")],
        [("BRUSSELS", "I-LOC")],
    ]
    assert [row.line for row in parsed.rows] == [3, 6, 9]
    tags = parse_conll(CONLL_2003, "train.txt", label_column=1)
    assert tags.rows[0].labels == ("NNP", "VBZ")
    assert (has_tags({"NNP"}), has_tags({"I-ORG"}), has_tags({"O"})) == (False, True, True)


def test_a_sentence_ends_at_a_line_of_tabs_and_at_the_end_of_the_file():
    parsed = parse_conll(b"\xef\xbb\xbfthe cat\tO\r\nsat\tO\r\n\t\r\n\r\nup\tO", "x.tsv")
    # The tab of the first line parts columns, so a word may hold a blank.
    assert words_and_labels(parsed) == [[("the cat", "O"), ("sat", "O")], [("up", "O")]]
    row = parsed.rows[0]
    assert [row.text[a:b] for a, b in row.spans] == ["the cat", "sat"]


def test_words_that_look_like_blanks_keep_their_place():
    parsed = parse_conll("a\tO\n\u00a0\tO\n\ufeff\tB-x\n".encode(), "x.tsv")
    assert parsed.rows[0].words == ("a", "\u00a0", "\ufeff")


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        (b"a O\nb\nc O\n\nd O\n", 2, "has 1 column, the first line 2"),
        (b"a\tO\n\tO\n\nd\tO\n", 2, "has no word"),
        (b"a\tO\nb\t\n\nd\tO\n", 2, "has no label"),
    ],
)
def test_a_bad_line_costs_its_sentence_and_is_named(content, line, reason):
    parsed = parse_conll(content, "x.conll")
    assert parsed.faults == [(line, reason)]
    assert [row.words for row in parsed.rows] == [("d",)]


def test_words_alone_can_be_predicted_and_not_trained_on():
    assert parse_conll(b"a\nb\n\nc\n", "x.txt", has_labels=False).rows[0].labels is None
    assert parse_conll(b"a\nb\n\nc\n", "x.txt").rows[0].labels is None


def test_what_is_no_text_is_refused_with_its_line():
    with pytest.raises(UserError, match=r"x\.txt, line 3 is not UTF-8"):
        parse_conll(b"a O\nb O\n\xe9 O\n", "x.txt")
    with pytest.raises(UserError, match=r"x\.txt holds no words"):
        parse_conll(b"\n-DOCSTART- O\n\n", "x.txt")
    with pytest.raises(UserError, match="UTF-16"):
        parse_conll("a O".encode("utf-16"), "x.txt")


def test_labels_that_break_their_scheme_are_named_with_their_line_and_what_they_fit():
    parsed = parse_conll(CONLL_2003, "train.txt")
    assert tag_faults(parsed.rows, "IOB1") == []
    assert tag_faults(parsed.rows, "IOB2") == [
        (3, "I-ORG follows O, without a B-"),
        (6, "I-PER follows O, without a B-"),
        (9, "I-LOC follows O, without a B-"),
    ]
    assert advice_on_scheme(parsed.rows, "IOB2") == (
        "; all labels fit IOB1: write tag_scheme: IOB1"
    )
    odd = parse_conll(b"a B-x\nb I-x\nc B_x\n", "x.txt")
    assert tag_faults(odd.rows, "IOB2") == [(3, "B_x is no label of IOB2")]
    assert advice_on_scheme(odd.rows, "IOB2") == ""


def lines_of(*objects):
    return "".join(json.dumps(each) + "\n" for each in objects).encode()


def parse_lines(content, words="tokens", labels="tags", **kwargs):
    def split(text):
        return split_text(text, True).spans.tolist()

    return parse_json_lines(content, "x.jsonl", words, labels, split, **kwargs)


def test_json_lines_of_words():
    parsed = parse_lines(lines_of({"tokens": ["a", "b c"], "tags": ["O", "B-x"]}))
    assert words_and_labels(parsed) == [[("a", "O"), ("b c", "B-x")]]
    assert parsed.rows[0].text == "a b c"


def test_json_lines_of_texts_and_spans():
    text = "Ms. Ada  Lovelace-King met\u00a0Babbage."
    spans = [[4, 17, "per"], {"start": 27, "end": 34, "label": "per"}]
    for scheme, labels in {
        "IOB2": "O O B-per I-per O O O B-per O",
        "IOB1": "O O I-per I-per O O O I-per O",
        "IOBES": "O O B-per E-per O O O S-per O",
    }.items():
        parsed = parse_lines(lines_of({"text": text, "ents": spans}), "text", "ents", scheme=scheme)
        (row,) = parsed.rows
        assert " ".join(row.labels) == labels
        assert row.text == text
        assert [text[a:b] for a, b in row.spans][2:4] == ["Ada", "Lovelace"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "tags has 1 label for 2 words"),
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, "tokens has a word that is no text, or empty"),
        ({"tokens": []}, "has no tokens, a list of words or a text"),
        ({"tokens": " \u200b"}, "tokens has no words"),
        ({"tokens": "ab c", "tags": [[1, 2, "x"]]}, "span 1 to 2, 'b', that cuts the word 'ab'"),
        ({"tokens": "ab c", "tags": [[0, 1, "x"]]}, "span 0 to 1, 'a', that cuts the word 'ab'"),
        ({"tokens": "ab c", "tags": [[0, 9, "x"]]}, "span 0 to 9 in 4 characters"),
        ({"tokens": "ab c", "tags": [[2, 3, "x"]]}, "span 2 to 3 without a word"),
        ({"tokens": "ab c", "tags": [[0, 4, "x"], [3, 4, "y"]]}, "spans that overlap at 'c'"),
        ({"tokens": "ab c", "tags": [{"start": 0}]}, "a span that is no start, end and label"),
        (["a"], 'is ["a"]; an object is wanted'),
    ],
)
def test_a_bad_object_is_named_with_its_line(value, reason):
    parsed = parse_lines(lines_of({"tokens": ["a"], "tags": ["O"]}, value))
    ((line, text),) = parsed.faults
    assert line == 2
    assert reason in text


@pytest.mark.parametrize(
    ("file", "sentences", "tokens", "entities"),
    [
        ("wnut17/train.conll", 3394, 62730, 1975),
        ("wnut17/dev.conll", 1009, 15733, 836),
        ("wnut17/test.conll", 1287, 23394, 1079),
        ("bc5cdr_chem/train.tsv", 4560, 118170, 5203),
    ],
)
def test_real_files_have_the_counts_of_their_readme(shared_dir, file, sentences, tokens, entities):
    content = (shared_dir / "data" / "ner" / file).read_bytes()
    parsed = parse_conll(content, file)
    labels = [label for row in parsed.rows for label in row.labels]
    assert parsed.faults == tag_faults(parsed.rows, "IOB2") == []
    assert (len(parsed.rows), len(labels)) == (sentences, tokens)
    assert scheme_of(row.labels for row in parsed.rows) == "IOB2"
    assert sum(label.startswith("B-") for label in labels) == entities
    assert TagSet(tuple(sorted(set(labels)))).scheme == "IOB2"
