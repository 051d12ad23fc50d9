# SPDX-License-Identifier: Apache-2.0
"""input/sources/squad.py: questions of files, by hand and of real ones."""

import json

import pytest

from common.errors import UserError
from input.questions import Answer
from input.sources.squad import parse_question_lines, parse_squad

CONTEXT = "The cat sat. The cat ran."


def squad(*entries, context=CONTEXT):
    paragraphs = [{"context": context, "qas": list(entries)}]
    return json.dumps({"version": "1.1", "data": [{"title": "T", "paragraphs": paragraphs}]})


def entry(answer="cat", start=4, **more):
    answers = [{"text": answer, "answer_start": start}]
    return {"id": "q", "question": "Who sat?", "answers": answers, **more}


def test_a_question_with_its_answers():
    parsed = parse_squad(squad(entry()).encode(), "x.json")
    (row,) = parsed.rows
    assert (row.id, row.question, row.context, row.title) == ("q", "Who sat?", CONTEXT, "T")
    assert row.answers == (Answer("cat", 4),)
    assert row.place == "x.json, article T, paragraph 0, question q"
    assert parsed.faults == parsed.misplaced == []


def test_a_question_without_an_answer_in_the_text():
    for more in ({"answers": []}, {"answers": [], "is_impossible": True}, {"is_impossible": True}):
        (row,) = parse_squad(squad(entry() | more).encode(), "x.json").rows
        assert row.answers == ()


def test_an_answer_elsewhere_is_told_and_taken_from_the_nearest_place():
    parsed = parse_squad(squad(entry(start=15)).encode(), "x.json")
    assert parsed.rows[0].answers == (Answer("cat", 17),)
    assert parsed.misplaced == [
        "x.json, article T, paragraph 0, question q: answer 'cat' is not at 15, but stands at 17"
    ]
    parsed = parse_squad(squad(entry("dog", 4)).encode(), "x.json")
    assert parsed.rows[0].answers == (Answer("dog", -1),)
    assert parsed.misplaced[0].endswith("answer 'dog' is not at 4, but is not in the context")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"question": " "}, "paragraph 0, question q: has no question"),
        ({"id": None}, "paragraph 0: has no id"),
        ({"answers": [{"answer_start": 0}]}, "answers has one without a text"),
        ({"answers": 3}, "answers is no list"),
        ({"answers": [" "]}, "answers has one without a text"),
        ({"answers": ["a\ud83d"]}, "an answer is not UTF-8 at character 2"),
        ({"question": "\ud83d?"}, "question q: question is not UTF-8 at character 1"),
        ({"id": "\udc00"}, "its id is not UTF-8 at character 1"),
        ({"id": ["q"]}, "paragraph 0: has an id that is no text or number"),
        ({"is_impossible": "false"}, 'has is_impossible "false"; true or false is wanted'),
        (
            {"answers": [{"text": "cat", "answer_start": 4.5}]},
            "answer 'cat' has answer_start 4.5; a whole number is wanted",
        ),
    ],
)
def test_a_bad_question_is_named_with_its_place(change, reason):
    parsed = parse_squad(squad(entry(), entry(id="r") | change).encode(), "x.json")
    assert len(parsed.rows) == 1
    assert parsed.faults[0].endswith(reason.replace("question q", "question r"))


def test_an_answer_without_a_place_is_looked_for():
    answers = [{"text": "sat", "answer_start": None}]
    (row,) = parse_squad(squad(entry(answers=answers)).encode(), "x.json").rows
    assert row.answers == (Answer("sat", 8),)


@pytest.mark.parametrize(
    ("articles", "place"),
    [
        ([7], "article 1: has no list of paragraphs"),
        ([{"title": "U", "paragraph": []}], "article U: has no list of paragraphs"),
        ([{"title": None, "paragraphs": [None]}], "article 1, paragraph 0: has no list of qas"),
        ([{"paragraphs": [{"context": "x", "questions": []}]}], "paragraph 0: has no list of qas"),
        ([{"paragraphs": [{"context": "x", "qas": [3]}]}], "paragraph 0: is no object"),
    ],
)
def test_what_holds_no_questions_is_named(articles, place):
    content = json.loads(squad(entry()))
    content["data"] += articles
    parsed = parse_squad(json.dumps(content).encode(), "x.json")
    assert len(parsed.rows) == 1
    (fault,) = parsed.faults
    assert fault.endswith(place)


def test_a_question_needs_answers_only_where_they_are_asked_for():
    content = squad({"id": 7, "question": "Who?"}).encode()
    assert "has no answers" in parse_squad(content, "x.json").faults[0]
    (row,) = parse_squad(content, "x.json", has_answers=False).rows
    assert (row.id, row.answers) == ("7", None)
    for answers, found in ((["cat"], (Answer("cat", 4),)), ([], ()), (["dog"], None), (3, None)):
        content = squad(entry(answers=answers)).encode()
        (row,) = parse_squad(content, "x.json", has_answers=False).rows
        assert row.answers == found


def test_two_questions_of_one_id_are_one_too_many():
    parsed = parse_squad(squad(entry(), entry()).encode(), "x.json")
    assert len(parsed.rows) == 1
    assert "has an id that an earlier question has" in parsed.faults[0]
    row = {"id": 2, "question": "Who?", "context": CONTEXT, "answers": ["cat"]}
    lines = "\n".join(map(json.dumps, [row, row | {"id": "2"}, row | {"id": None}])).encode()
    parsed = parse_question_lines(lines, "x.jsonl")
    assert [row.id for row in parsed.rows] == ["2", "3"]
    assert parsed.faults == ["x.jsonl, line 2, question 2: has an id that an earlier question has"]


@pytest.mark.parametrize("content", [b"[]", b'{"data": 1}', b'{"rows": []}'])
def test_another_json_is_refused(content):
    with pytest.raises(UserError, match=r"x\.json is no file of SQuAD"):
        parse_squad(content, "x.json")


def test_broken_json_is_refused():
    with pytest.raises(UserError, match=r"x\.json is not JSON: Expecting"):
        parse_squad(b'{"data": ', "x.json")


def test_json_lines_in_each_of_their_forms():
    rows = [
        {"question": "Who?", "context": CONTEXT, "answers": ["cat", "The cat"]},
        {"question": "Who?", "context": CONTEXT, "answers": "ran", "id": "own"},
        {
            "question": "Who?",
            "context": CONTEXT,
            "answers": {"text": ["cat"], "answer_start": [17]},
        },
        {"question": "Who?", "context": CONTEXT, "answers": []},
        {"question": "Who?", "context": CONTEXT, "answers": ["dog"]},
        {"question": "Who?"},
    ]
    content = "\n".join(map(json.dumps, rows)).encode()
    parsed = parse_question_lines(content, "x.jsonl")
    assert [(row.id, row.answers) for row in parsed.rows] == [
        ("1", (Answer("cat", 4), Answer("The cat", 0))),
        ("own", (Answer("ran", 21),)),
        ("3", (Answer("cat", 17),)),
        ("4", ()),
    ]
    assert parsed.faults == [
        "x.jsonl, line 5: answer 'dog' is not in the context, and has no answer_start",
        "x.jsonl, line 6: has no context",
    ]


def test_every_answer_of_xquad_is_at_its_place(shared_dir):
    for name, number in (("train", 943), ("dev", 247)):
        path = shared_dir / "data" / "qa" / f"xquad_en_{name}.json"
        parsed = parse_squad(path.read_bytes(), path.name)
        assert (len(parsed.rows), parsed.faults, parsed.misplaced) == (number, [], [])
