# SPDX-License-Identifier: Apache-2.0
"""input/samples/: names in sentences, questions on texts, and the configs that train on them."""

import json
from collections import Counter
from pathlib import Path

import pytest

from common.metrics.entities import split_label
from common.reports.listeners import standard_listeners
from common.training.checks import set_up
from common.training.trainer import Trainer
from input.sources.conll import parse_conll
from input.sources.squad import parse_squad
from session import open_session
from utils import get_params

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "input" / "samples"
SPLITS = ("train", "validation")
TYPES = {"person", "place", "organisation"}


def sentences_of(split):
    path = FOLDER / f"names_{split}.conll"
    parsed = parse_conll(path.read_bytes(), path.name)
    assert parsed.faults == []
    return parsed.rows


def questions_of(split):
    path = FOLDER / f"questions_{split}.json"
    parsed = parse_squad(path.read_bytes(), path.name)
    assert parsed.faults == parsed.misplaced == []
    return parsed.rows


def entities_of(row):
    """The (type, name) of each entity, of labels in IOB2."""
    found = []
    for word, label in zip(row.words, row.labels, strict=True):
        prefix, kind = split_label(label)
        if prefix == "B":
            found.append((kind, word))
        elif prefix == "I":
            assert found[-1][0] == kind
            found[-1] = kind, f"{found[-1][1]} {word}"
    return found


# ---- The rows ------------------------------------------------------------------------------------


def test_sentences_have_names_of_every_type_and_none_stands_twice():
    rows = {split: sentences_of(split) for split in SPLITS}
    assert [len(each) for each in rows.values()] == [110, 32]
    texts = Counter(row.text.lower() for split in SPLITS for row in rows[split])
    assert max(texts.values()) == 1
    for split in SPLITS:
        names = Counter(kind for row in rows[split] for kind, _ in entities_of(row))
        assert set(names) == TYPES
        assert min(names.values()) > 10
        assert any(set(row.labels) == {"O"} for row in rows[split])


def test_questions_are_on_texts_that_were_not_trained_on_and_have_their_answer_in_them():
    rows = {split: questions_of(split) for split in SPLITS}
    assert [len(each) for each in rows.values()] == [160, 33]
    contexts = [{row.context for row in rows[split]} for split in SPLITS]
    assert [len(each) for each in contexts] == [32, 8]
    assert contexts[0].isdisjoint(contexts[1])
    for row in rows["train"] + rows["validation"]:
        (answer,) = row.answers
        assert row.context[answer.start :].startswith(answer.text)
        assert row.question.endswith("?")
        assert 20 < len(row.context.split()) < 70


def test_a_name_may_be_of_two_types_so_that_words_alone_do_not_decide():
    kinds = {}
    for row in sentences_of("train"):
        for kind, name in entities_of(row):
            kinds.setdefault(name, set()).add(kind)
    assert {name for name, found in kinds.items() if len(found) > 1} >= {"Sofia", "Georgia"}


# ---- The configs ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "figure", "number"),
    [("names", "eval/entity_f1", 32), ("questions", "eval/exact_match", 33)],
)
def test_a_config_trains_on_its_sample(name, figure, number, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)  # as a user does; its files lie there
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,?-&'"
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{c}" for c in letters)]
    (tmp_path / "vocab.txt").write_text("\n".join(vocab) + "\n")
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_heads": 2, "filter_size": 8}
    small |= {"max_position_embeddings": 128, "mixed_precision": False}
    changes = {f"model.{key}": value for key, value in small.items()}
    changes |= {"train_input.vocab_file": str(tmp_path / "vocab.txt")}
    changes |= {"train_input.cache_dir": str(tmp_path / "cache"), "runconfig.max_steps": 3}
    changes |= {"runconfig.model_dir": str(tmp_path / "model"), "runconfig.num_epochs": None}
    changes |= {"runconfig.mode": "train_and_eval"}
    params = get_params(f"configs/params_bert_minilm_{name}_sample.yaml", changes)
    session = open_session(params)
    set_up(session.run)
    listeners = standard_listeners(session.model_dir)
    result = Trainer(session, session.new_model(), listeners).train()
    assert result.num_examples == number
    assert 0 <= result.figures[figure] <= 100
    lines = (tmp_path / "model" / "metrics.jsonl").read_text("utf-8").splitlines()
    assert json.loads(lines[-1])["step"] == 3
