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
from input.sources.tagged_files import LABEL_KEYS, WORD_KEYS
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
        (b"a O\nb\nc O\n\nd O\n", 2, "has 1 column, other lines 2"),
        (b"# 1 of 2\na O\n\nd O\n", 1, "has 4 columns, other lines 2"),
        (b"a\tO\n\tO\n\nd\tO\n", 2, "has no word"),
        (b"a\tO\nb\t\n\nd\tO\n", 2, "has no label"),
        (b"a\tO\nb\tB-x\rc\tO\n\nd\tO\n", 2, "has 3 columns, other lines 2"),
        (b"a\tO\nb\rc\tO\n\nd\tO\n", 2, "has a carriage return inside; end lines with \\n, or"),
    ],
)
def test_a_bad_line_costs_its_sentence_and_is_named(content, line, reason):
    parsed = parse_conll(content, "x.conll")
    ((found, text),) = parsed.faults
    assert (found, text[: len(reason)]) == (line, reason)
    assert [row.words for row in parsed.rows] == [("d",)]


def test_the_first_word_says_what_parts_the_columns_and_not_the_line_of_a_document():
    parsed = parse_conll(b"-DOCSTART- -X- O\n\nNew York\tB-place\nis\tO\n", "x.conll")
    assert words_and_labels(parsed) == [[("New York", "B-place"), ("is", "O")]]
    parsed = parse_conll(b"-DOCSTART-\t-X-\tO\n\nYork B-place\n", "x.conll")
    assert words_and_labels(parsed) == [[("York", "B-place")]]


def test_blanks_of_another_kind_part_no_columns():
    parsed = parse_conll("10\u00a0km B-length\n\u3000 O\n".encode(), "x.conll")
    assert words_and_labels(parsed) == [[("10\u00a0km", "B-length"), ("\u3000", "O")]]


def test_a_column_that_is_not_there_is_named():
    parsed = parse_conll(b"a O\n\nb O\n", "x.conll", label_column=3)
    assert parsed.faults[0] == (1, "has 2 columns, and no column 3 for the label")
    parsed = parse_conll(b"a O\n\nb O\n", "x.conll", word_column=-3)
    assert parsed.faults[1] == (3, "has 2 columns, and no column -3 for the word")


def test_words_alone_can_be_predicted_and_not_trained_on():
    assert parse_conll(b"a\nb\n\nc\n", "x.txt", has_labels=False).rows[0].labels is None
    assert parse_conll(b"a\nb\n\nc\n", "x.txt").rows[0].labels is None
    parsed = parse_conll(b"a\tO\nb\t\n\nc\tO\n", "x.txt", has_labels=False)
    assert [row.words for row in parsed.rows] == [("a", "b"), ("c",)]
    assert [row.labels for row in parsed.rows] == [None, ("O",)]
    assert parsed.faults == []


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
    ended = parse_conll(b"a B-x\nb E-x\nc S-y\n", "x.txt")
    assert tag_faults(ended.rows, "IOB2") == [(2, "E-x is no label of IOB2")]
    assert advice_on_scheme(ended.rows, "IOB2") == (
        "; all labels fit IOBES: write tag_scheme: IOBES"
    )


def lines_of(*objects):
    return "".join(json.dumps(each) + "\n" for each in objects).encode()


def parse_lines(content, words="tokens", labels="tags", **kwargs):
    def split(text):
        return split_text(text, True).spans.tolist()

    return parse_json_lines(content, "x.jsonl", (words,), (labels,), split, **kwargs)


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
        ({"tokens": ["a"], "tags": [3]}, "tags has the label 3; write the names of labels"),
        ({"tokens": ["a"], "tags": [" "]}, "tags has no label"),
        ({"tokens": ["a"], "tags": [None]}, "tags has a label that is no name"),
        ({"tokens": ["a"], "tags": ["x" * 201]}, "tags has a label that is no name"),
        (
            {"tokens": ["a"], "tags": ["\ud83d"]},
            "tags has a label that is not UTF-8 at character 1",
        ),
        (
            {"tokens": ["a\ud83d"], "tags": ["O"]},
            "tokens has a word that is not UTF-8 at character 2",
        ),
        ({"tokens": "a \ud83d", "tags": []}, "tokens is not UTF-8 at character 3"),
    ],
)
def test_a_bad_object_is_named_with_its_line(value, reason):
    parsed = parse_lines(lines_of({"tokens": ["a"], "tags": ["O"]}, value))
    ((line, text),) = parsed.faults
    assert line == 2
    assert reason in text


def test_labels_of_rows_to_predict_may_be_anything():
    rows = [{"tokens": ["a", "b"], "tags": tags} for tags in ([1, 2], ["O"], None, "O", ["", "O"])]
    rows += [{"tokens": "a b", "tags": [[0, 9, "x"]]}]
    parsed = parse_lines(lines_of(*rows), has_labels=False)
    assert [(row.words, row.labels) for row in parsed.rows] == [(("a", "b"), None)] * 6
    assert parsed.faults == []


def test_each_object_may_have_its_own_of_the_usual_keys():
    def split(text):
        return split_text(text, True).spans.tolist()

    span = {"start": 2, "end": 3, "label": "x"}
    rows = [
        {"tokens": ["a", "b"]},
        {"text": "a b", "spans": [span]},
        {"tokens": ["a", "b"], "ner_tags": ["O", "B-x"]},
        # As a program for annotations writes it.
        {"text": "a b", "tokens": [{"text": "a"}, {"text": "b"}], "spans": [span]},
        {"text": "a b", "label": [[2, 3, "x"]]},
    ]
    content = b"\n" + lines_of(*rows)
    parsed = parse_json_lines(content, "x.jsonl", WORD_KEYS, LABEL_KEYS, split)
    assert parsed.faults == []
    assert [(row.words, row.labels) for row in parsed.rows] == [
        (("a", "b"), None if n == 0 else ("O", "B-x")) for n in range(5)
    ]


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
