# SPDX-License-Identifier: Apache-2.0
"""The page: what it asks the server for, that no other host is asked, and what a browser shows."""

import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from serving.explain import without, words_of
from serving.readers import make_reader
from tests.reference.toy_serving import (
    SETTINGS,
    VOCAB,
    Client,
    ToyEngine,
    toy_model,
    toys_of_tasks,
)

PAGE = Path(__file__).resolve().parents[2] / "serving" / "page"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


def probability(tokens, ids):
    """Of the label "long" by the toy's logits."""
    return 1 / (1 + np.exp(tokens - ids))


def test_the_page_names_no_other_host_and_may_ask_none(serve_toys):
    for path in PAGE.iterdir():
        assert not re.findall(r"(?:https?:)?//(?![ \n])\w", re.sub(r"// .*", "", path.read_text()))
    running, _ = serve_toys({"toy": toy_model(ToyEngine())})
    client = Client(running.url)
    code, said = client("/")
    assert code == 200 and b"<h1>Try the model</h1>" in said
    policy = client.answered.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'")
    for name, kind in (("page.css", "text/css"), ("page.js", "javascript")):
        assert client(f"/page/{name}")[0] == 200
        assert kind in client.answered.headers["Content-Type"]
    assert client("/page/index.htm")[0] == 404


def test_it_is_told_of_the_models_and_which_words_moved_a_label(serve_toys):
    running, _ = serve_toys({"toy": toy_model(ToyEngine(scale=0.1))})
    client = Client(running.url)
    code, (model,) = client("/page/models")
    assert code == 200 and (model["name"], model["texts"], model["examples"]) == (
        "toy",
        ["text"],
        [],
    )
    code, said = client("/page/explain", {"inputs": "good  bad"})
    assert code == 200 and said["how"] == "leaving out each word" and said["label"] == "long"
    # [CLS] good bad [SEP]: 4 tokens, 2 + 6 + 7 + 3 = 18; without good 3 and 12, without bad 3, 11.
    whole = probability(0.4, 1.8)
    assert said["score"] == pytest.approx(whole)
    assert said["words"] == [
        {"text": 0, "start": 0, "end": 4, "weight": pytest.approx(whole - probability(0.3, 1.2))},
        {"text": 0, "start": 6, "end": 9, "weight": pytest.approx(whole - probability(0.3, 1.1))},
    ]
    assert client("/page/explain", {"inputs": ["a", "b"]})[0] == 422
    assert client("/page/explain", {"inputs": " "})[1]["words"] == []


def test_words_of_a_pair_and_a_row_without_one_of_them():
    assert words_of(("a b", "\u00e9\u00e9 c")) == [(0, 0, 1), (0, 2, 3), (1, 0, 2), (1, 3, 4)]
    assert without(("a b", "\u00e9\u00e9 c"), (1, 0, 2)) == ("a b", " c")


def test_places_of_tokens_are_those_of_the_row():
    settings = {**SETTINGS, "max_sequence_length": 7}
    reader = make_reader(settings, VOCAB, ("text_a", "text_b"))
    text = ("good day", "a  bad day")  # 4 of the 5 tokens have room: the longer text loses one
    (((ids, first),),) = (reader.prepare(text).rows,)
    assert [VOCAB[i] for i in ids] == ["[CLS]", "good", "day", "[SEP]", "a", "bad", "[SEP]"]
    assert first == 4
    assert reader.places(text) == [None, (0, 0, 4), (0, 5, 8), None, (1, 0, 1), (1, 3, 6), None]


def shown_at(url, folder):
    """What a browser makes of a page: HTML."""
    if BROWSER is None:
        pytest.skip("no chromium: apt-get install chromium")
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={folder}", "--virtual-time-budget=5000"]
    command += ["--no-first-run", "--disable-background-networking", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.stdout


def test_a_browser_marks_entities_and_answers_and_fills_in_words(serve_toys, tmp_path):
    running, _ = serve_toys(toys_of_tasks())
    text = quote("\U0001f642 a good day")  # a character that is two halves in JavaScript
    shown = shown_at(f"{running.url}/#model=tags&text={text}", tmp_path)
    assert '<mark title="100.0 %">good day<small>MOOD</small></mark>' in shown
    shown = shown_at(f"{running.url}/#model=spans&text_a=bad&text_b={text}", tmp_path)
    assert "<strong>good day</strong>" in shown and ">good day</mark>" in shown
    shown = shown_at(f"{running.url}/#model=spans&text_a=bad&text_b=bad", tmp_path)
    assert "The text has no answer." in shown
    shown = shown_at(f"{running.url}/#model=masks&text={quote('a [MASK] day')}", tmp_path)
    assert re.findall(r"<span>(\w+)</span>", shown) == ["good", "bad"] and "75.0 %" in shown


def test_a_browser_shows_the_answer(serve_toys, tmp_path):
    running, _ = serve_toys({"toy": toy_model(ToyEngine(scale=0.1))})
    text = "good <b>bad</b>"  # shown as it is
    shown = shown_at(f"{running.url}/#text={quote(text)}", tmp_path)
    assert "toy, version 1: classification, by toy" in shown
    rows = re.findall(r'<div class="row[^"]*"><span>(\w+)</span>.*?<span>([\d.]+) %</span>', shown)
    assert [label for label, _ in rows] == ["long", "short"]
    assert "&lt;b&gt;bad&lt;/b&gt;" in shown and "<b>" not in shown
    assert "found by leaving out each word" in shown
    assert f"{running.url}/v1/models/toy:predict" in shown
