# SPDX-License-Identifier: Apache-2.0
"""common/metrics/squad.py, against the official scorers (../shared/fixtures/squad_eval) and by
hand."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.metrics.squad import (
    QuestionScores,
    best_threshold,
    exact_match,
    f1,
    normalized,
    scores_v1,
    scores_v2,
)

PREDICTIONS = (
    "exact",
    "articles_punctuation",
    "partial",
    "empty",
    "unicode",
    "first_answer_always",
    "mixed",
    "missing_ids",
)
WITH_SCORES = ("exact", "partial", "first_answer_always", "mixed")  # of no answer, four files


@pytest.fixture(scope="module")
def folder(shared_dir):
    return shared_dir / "fixtures" / "squad_eval"


def read(path):
    return json.loads(path.read_text("utf-8"))


def golds_of(data):
    return {
        question["id"]: [answer["text"] for answer in question["answers"]]
        for article in data["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    }


@pytest.mark.parametrize("name", PREDICTIONS)
def test_figures_of_1_1_equal_those_of_the_official_scorer(folder, name):
    predictions = read(folder / f"predictions_{name}.json")
    expected = read(folder / "expected_v1.json")["predictions"][name]
    assert scores_v1(golds_of(read(folder / "v1.json")), predictions) == expected


@pytest.mark.parametrize("name", PREDICTIONS[:-1])
def test_figures_of_2_0_and_best_thresholds_equal_those_of_the_official_scorer(folder, name):
    golds = golds_of(read(folder / "v2.json"))
    predictions = read(folder / f"predictions_{name}.json")
    compared = 0
    for how, figures in read(folder / "expected_v2.json")["predictions"][name].items():
        file, _, what = how.partition(", ")
        if what == "average precision":  # of curves, which this project does not draw
            continue
        threshold = float(what.removeprefix("threshold "))
        no_answer = None if file == "without no-answer file" else read(folder / file)
        assert scores_v2(golds, predictions, no_answer, threshold) == figures, how
        compared += 1
    assert compared == (9 if name in WITH_SCORES else 1)


def test_questions_without_a_prediction_are_left_out_of_2_0_and_counted(folder):
    golds = golds_of(read(folder / "v2.json"))
    scores = QuestionScores.of(golds, read(folder / "predictions_missing_ids.json"))
    expected = read(folder / "expected_v2.json")["predictions"]["missing_ids"]
    expected = expected["its functions on the scored questions only"]
    named = {"overall": "", "HasAns": "HasAns_", "NoAns": "NoAns_"}
    flat = {f"{named[key]}{name}": v for key, row in expected.items() for name, v in row.items()}
    assert scores.figures() == flat
    assert scores.missing == len(golds) - expected["overall"]["total"]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_single_questions(folder, version):
    golds = golds_of(read(folder / f"{version}.json"))
    predictions = read(folder / "predictions_mixed.json")
    expected = read(folder / f"expected_{version}.json")
    key = "per_question_mixed" if version == "v1" else "per_question_mixed_before_threshold"
    for question, figures in expected[key].items():
        one = {question: golds[question]}
        if version == "v1":
            ours = {name: v / 100 for name, v in scores_v1(one, predictions).items()}
            ours = {"exact": ours["exact_match"], "f1": ours["f1"]}
        else:
            scores = QuestionScores.of(one, predictions)
            ours = {"exact": scores.exact[question], "f1": scores.f1[question]}
        assert ours == pytest.approx(figures, abs=1e-12), question


def test_normalisation_by_hand():
    assert normalized(
        "The  Saxon-Garden,\n a.k.a. “AN” Ogród"
    ) == "saxongarden aka “an” ogród".replace("“an”", "“ ”")
    assert exact_match("the twenty-one", "Twentyone!")
    assert not exact_match("cafe", "café")
    # Shared: one of two "la" and "land": precision 2/3, recall 2/2.
    assert f1("la la land", "la Land") == pytest.approx(2 * (2 / 3) / (2 / 3 + 1))
    assert (f1("the", "a"), f1("the", "a", of_nothing=1.0)) == (0.0, 1.0)


def test_the_threshold_sweep_by_hand():
    has_answer = {"q1": True, "q2": False, "q3": True}
    scores = {"q1": 1.0, "q2": 0.0, "q3": 1.0}
    predictions = dict.fromkeys(scores, "x")
    no_answer = {"q1": -3.0, "q2": -2.0, "q3": -1.0}
    # None answered: 1 of 3. With q1: 2. With q2, too: 1. With q3, too: 2, no better than before.
    assert best_threshold(predictions, scores, no_answer, has_answer) == (200 / 3, -3.0)


@given(st.lists(st.text("aé the-“x.", max_size=9), min_size=1, max_size=4), st.text(max_size=9))
def test_bounds(golds, predicted):
    figures = scores_v1({"q": golds}, {"q": predicted})
    assert 0 <= figures["exact_match"] <= 100
    assert 0 <= figures["f1"] <= 100
    assert scores_v1({"q": golds}, {"q": golds[0]})["exact_match"] == 100
    assert f1(predicted, golds[0]) == pytest.approx(f1(golds[0], predicted))  # of a symmetric bag
