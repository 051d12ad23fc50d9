# SPDX-License-Identifier: Apache-2.0
"""Vocabularies out of `tokenizer.json`, as the package tokenizers writes it."""

import json

import pytest

from common.checkpoints import tokenizer_json
from common.checkpoints.formats import huggingface
from common.errors import UserError
from input.tokenizers.wordpiece import WordPieceTokenizer
from tests.reference.tiny_bert import huggingface_tensors, save_huggingface

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "never", "once", "dull", "##er", "né"]


@pytest.fixture
def folder(tmp_path):
    """A checkpoint as transformers 5 saves it: tokenizer.json and no vocab.txt."""
    tokenizers = pytest.importorskip("tokenizers", reason="pip install tokenizers")
    save_huggingface(tmp_path, huggingface_tensors())
    (tmp_path / "vocab.txt").write_text("".join(f"{entry}\n" for entry in VOCAB), "utf-8")
    tokenizer = tokenizers.BertWordPieceTokenizer(str(tmp_path / "vocab.txt"), lowercase=False)
    tokenizer.add_tokens(["imdb"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "vocab.txt").unlink()
    return tmp_path


def changed(folder, change):
    """The tokenizer.json after change(its dict)."""
    path = folder / "tokenizer.json"
    written = json.loads(path.read_text("utf-8"))
    change(written)
    path.write_text(json.dumps(written), "utf-8")
    return path


def test_the_entries_come_in_the_order_of_their_ids_with_those_added(folder):
    assert tokenizer_json.read_vocab(folder / "tokenizer.json") == [*VOCAB, "imdb"]


def test_a_checkpoint_without_vocab_txt_brings_its_tokenizer_json(folder):
    config = huggingface.read_config(folder)
    assert config["vocab_file"] == str(folder / "tokenizer.json")
    assert config["do_lower_case"] is False
    tokenizer = WordPieceTokenizer.from_vocab_file(config["vocab_file"], do_lower=False)
    ids = tokenizer.tokenize(["never duller né"]).to_list()
    assert ids == [[VOCAB.index(piece) for piece in ("never", "dull", "##er", "né")]]


def test_vocab_txt_is_taken_where_both_are_there(folder):
    (folder / "vocab.txt").write_text("[PAD]\n")
    assert huggingface.read_config(folder)["vocab_file"] == str(folder / "vocab.txt")


def test_two_files_that_disagree_are_refused(folder):
    """One of them is left from another model, and which one is not known here."""
    others = [*VOCAB[:5], "once", "never", *VOCAB[7:]]
    (folder / "vocab.txt").write_text("".join(f"{entry}\n" for entry in others), "utf-8")
    message = r"vocab\.txt has 'once' as token 5, but tokenizer\.json beside it has 'never';"
    with pytest.raises(UserError, match=message):
        huggingface.read_config(folder)
    (folder / "vocab.txt").write_text("".join(f"{entry}\n" for entry in VOCAB), "utf-8")
    assert huggingface.read_config(folder)["vocab_file"] == str(folder / "vocab.txt")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"do_lower_case": True, "strip_accents": False}, "strip_accents false"),
        ({"do_lower_case": False, "tokenize_chinese_chars": False}, "Chinese characters"),
    ],
    ids=str,
)
def test_a_tokenizer_that_cuts_otherwise_is_noted(tmp_path, settings, words):
    save_huggingface(tmp_path, huggingface_tensors())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (note,) = huggingface.read_config(tmp_path)["notes"]
    assert words in note


@pytest.mark.parametrize(
    "settings", [{}, {"do_lower_case": True, "strip_accents": None}, {"strip_accents": True}]
)
def test_one_that_cuts_as_ours_is_not(tmp_path, settings):
    save_huggingface(tmp_path, huggingface_tensors())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert huggingface.read_config(tmp_path)["notes"] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda written: written["model"].update(type="BPE"), "its model is 'BPE'"),
        (lambda written: written["model"].pop("continuing_subword_prefix"), "None, '.UNK.'; only"),
        (lambda written: written.update(model=[]), "only BERT's WordPiece"),
        (lambda written: written["model"]["vocab"].update(new=10**12), "not those from 0 on"),
        (lambda written: written["model"]["vocab"].update(new=1), "'new' has the id 1"),
        (lambda written: written["model"]["vocab"].update(new="1"), "'new' has the id '1'"),
        (lambda written: written["added_tokens"].append(7), "None has the id None"),
    ],
)
def test_another_or_a_damaged_tokenizer_is_refused(folder, change, words):
    path = changed(folder, change)
    with pytest.raises(UserError, match=words):
        WordPieceTokenizer.from_vocab_file(path)


def test_a_truncated_file_is_refused(folder):
    path = folder / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="cannot be read as JSON"):
        huggingface.read_config(folder)
