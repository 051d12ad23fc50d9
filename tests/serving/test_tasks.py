# SPDX-License-Identifier: Apache-2.0
"""Bodies of the tasks that answer for words, places and masked words; several models beside each
other."""

import json

import pytest

from tests.reference.toy_serving import Client, toys_of_tasks

LONG = "a bad bad a bad bad a good day a bad"  # more than the 6 tokens of a row: windows
ENTITY = {"start": 22, "end": 30, "label": "MOOD", "text": "good day", "score": 0.999909}


@pytest.fixture
def ask(serve_toys):
    running, _ = serve_toys(toys_of_tasks())
    return Client(running.url)


def test_entities_of_a_text_of_several_windows(ask):
    code, said = ask("/v1/models/tags:predict", {"instances": [LONG, "bad"]})
    first, second = said["predictions"]
    assert code == 200 and first["tokens"] == LONG.split()
    assert first["tags"] == ["O"] * 7 + ["B-MOOD", "I-MOOD", "O", "O"]
    # e^10 / (e^10 + 2) = 0.999909
    assert first["entities"] == [ENTITY] and second["entities"] == []
    assert ask("/predict", {"inputs": LONG, "model": "tags"}) == (200, [ENTITY])
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [LONG]}
    asked = {"inputs": [tensor], "outputs": [{"name": "entities"}]}
    (output,) = ask("/v2/models/tags/infer", asked)[1]["outputs"]
    assert output["shape"] == [1] and json.loads(output["data"][0]) == [ENTITY]
    code, said = ask("/v1/models/tags:predict", {"instances": [[2, 6, 8, 3]]})
    assert said["predictions"][0]["labels"] == ["O", "B-MOOD", "I-MOOD", "O"]


def test_the_place_of_an_answer(ask):
    pair = {"question": "a good one", "context": LONG}
    code, said = ask("/v1/models/spans:predict", {"instances": [pair]})
    (answer,) = said["predictions"]
    assert code == 200 and answer["answer"] == "good day"
    assert (answer["start"], answer["end"]) == (22, 30)
    code, said = ask("/predict", {"model": "spans", "inputs": ["a good one", LONG]})
    assert code == 200 and said["answer"] == "good day" and 0 < said["score"] <= 1
    assert ask("/predict", {"model": "spans", "inputs": "a"})[0] == 422
    text = {"shape": [1, 1], "datatype": "BYTES"}
    inputs = [{**text, "name": "text_a", "data": ["a"]}, {**text, "name": "text_b", "data": [LONG]}]
    said = ask("/v2/models/spans/infer", {"inputs": inputs})[1]
    places = {each["name"]: (each["datatype"], each["data"]) for each in said["outputs"]}
    assert places["start"] == ("INT32", [22]) and places["answer"] == ("BYTES", ["good day"])


def test_words_for_each_mask(ask):
    words = [{"word": "good", "score": 0.75}, {"word": "bad", "score": 0.25}]
    body = {"instances": ["a [MASK] day", "[MASK] [MASK]"]}
    assert ask("/v1/models/masks:predict", body) == (200, {"predictions": [[words], [words] * 2]})
    assert ask("/predict", {"model": "masks", "inputs": "[MASK]"}) == (200, [words])
    code, said = ask("/predict", {"model": "masks", "inputs": "a day"})
    assert code == 422 and "no [MASK]" in said["error"]
    code, said = ask("/predict", {"model": "masks", "inputs": "a " * 6 + "[MASK]"})
    assert code == 422 and "8 tokens" in said["error"]
    assert ask("/v1/classify", {"model": "masks", "input": "[MASK]"})[0] == 422


def test_the_page_is_told_of_all_models(ask):
    found = ask("/page/models")[1]
    assert [(each["name"], each["texts"], each["explained"]) for each in found] == [
        ("tags", ["text"], False),
        ("spans", ["text_a", "text_b"], False),
        ("masks", ["text"], False),
    ]
