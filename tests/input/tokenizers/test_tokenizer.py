# SPDX-License-Identifier: Apache-2.0
"""input/tokenizers/tokenizer.py: trained, kept in a folder, text to ids and back."""

import json
from pathlib import Path

import pytest
import tensorflow as tf
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from common.checkpoints.vocab import read_vocab
from common.errors import UserError
from input.sources.texts import GivenTexts
from input.tokenizers.tokenizer import Tokenizer
from input.tokenizers.wordpiece import WordPieceTokenizer

SAMPLES = Path(__file__).resolve().parents[3] / "input" / "samples"
AWKWARD_LINES = [
    json.loads(line)
    for line in Path(__file__).with_name("awkward_lines.txt").read_text("utf-8").split("\n")
    if line and not line.startswith("#")
]


@pytest.fixture(scope="module")
def lines():
    texts = [path.read_text("utf-8") for path in sorted(SAMPLES.glob("*.tsv"))]
    return [line for text in texts for line in text.splitlines()] + AWKWARD_LINES


@pytest.fixture(scope="module")
def wordpiece(lines):
    return Tokenizer.train(texts=lines, vocab_size=3000)


@pytest.fixture(scope="module")
def byte_bpe(lines):
    return Tokenizer.train(texts=lines, vocab_size=3000, algorithm="byte_bpe")


def assert_same_ids(ours, texts):
    in_graph = WordPieceTokenizer(ours.entries, ours.do_lower)
    expected = in_graph.tokenize(tf.constant(texts, tf.string)).to_list()
    for text, ids in zip(texts, expected, strict=True):
        assert ours.encode(text, add_special_tokens=False).ids == ids, ascii(text)


@pytest.mark.parametrize("do_lower", [True, False])
def test_ids_are_those_of_the_tokenizer_in_the_graph(lines, do_lower):
    texts = [*lines, "a literal [SEP] and [unused3]"]
    assert_same_ids(Tokenizer.train(texts=lines, vocab_size=3000, do_lower=do_lower), texts)


def test_ids_of_real_text_are_those_of_the_tokenizer_in_the_graph(shared_dir):
    files = sorted((shared_dir / "data" / "text" / "wiki").glob("*.txt"))
    texts = [line for file in files for line in file.read_text("utf-8").split("\n")]
    ours = Tokenizer.from_vocab_file(shared_dir / "vocab" / "bert_uncased_vocab.txt")
    assert_same_ids(ours, texts)


def test_a_folder_gives_the_tokenizer_back_and_other_programs_the_same_ids(
    tmp_path, wordpiece, byte_bpe, lines
):
    for name, ours in {"wordpiece": wordpiece, "byte_bpe": byte_bpe}.items():
        ours.save(tmp_path / name)
        again = Tokenizer.from_dir(tmp_path / name)
        assert again.files() == ours.files() and again.special == ours.special
        package = tokenizers.Tokenizer.from_file(str(tmp_path / name / "tokenizer.json"))
        package.encode_special_tokens = True
        for text in lines[::50]:
            assert package.encode(text).ids == ours.encode(text).ids
            assert again.encode(text).ids == ours.encode(text).ids
    vocab = tmp_path / "wordpiece" / "vocab.txt"
    assert read_vocab(vocab) == read_vocab(vocab.with_name("tokenizer.json")) == wordpiece.entries
    merges = (tmp_path / "byte_bpe" / "merges.txt").read_text("utf-8").splitlines()
    assert len(merges) - 1 == len(byte_bpe.merges) == 3000 - 5 - 256
    config = json.loads((tmp_path / "wordpiece" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "BertTokenizer" and config["do_lower_case"] is True


def test_offsets_lead_back_into_the_text(wordpiece, byte_bpe):
    text = "Café  no. 9\u00ad!"
    for ours in (wordpiece, byte_bpe):
        encoding = ours.encode(text)
        pieces = [text[first:end] for first, end in encoding.offsets]
        assert pieces[0] == pieces[-1] == ""  # the special tokens
        assert "".join("".join(pieces).split()).replace("\u00ad", "") == "Caféno.9!"
    assert wordpiece.encode("no").tokens == ["[CLS]", "no", "[SEP]"]
    assert wordpiece.encode("no").ids[0::2] == [101, 102]


@given(st.text(st.characters(codec="utf-8")))
def test_byte_bpe_gives_any_text_back(byte_bpe, text):
    assert byte_bpe.decode(byte_bpe.encode(text).ids) == text


def test_wordpiece_gives_the_words_back(wordpiece):
    text = "a film of quiet power"
    assert wordpiece.decode(wordpiece.encode(text).ids) == text


def test_words_of_known_characters_are_never_unknown(wordpiece, lines):
    known = set("".join(entry for entry in wordpiece.entries if len(entry) == 1))
    for word in wordpiece.count(GivenTexts(["zzyzx qvq " + " ".join(lines)])):
        if known.issuperset(word):
            assert wordpiece.unk_id not in wordpiece.pieces_of(word), word


def test_what_cannot_be_done_is_refused(tmp_path):
    with pytest.raises(UserError, match="either texts or files"):
        Tokenizer.train()
    with pytest.raises(UserError, match=r"without \[SEP\], which wordpiece needs; add"):
        Tokenizer.train(texts=["a"], special_tokens=["[PAD]", "[UNK]", "[CLS]", "[MASK]"])
    with pytest.raises(UserError, match="vocab_size"):
        Tokenizer.train(texts=["a"], vocab_size=-1)
    with pytest.raises(UserError, match="vocab_sise"):
        Tokenizer.train(texts=["a"], vocab_sise=3)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\na\n")
    with pytest.raises(UserError, match=r"vocab.txt: the vocabulary has no entry \[SEP\]; take"):
        Tokenizer.from_vocab_file(tmp_path / "vocab.txt")
    with pytest.raises(UserError, match=r"tokenizer.json cannot be read"):
        Tokenizer.from_dir(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UserError, match="holds no tokenizer that this program saved"):
        Tokenizer.from_dir(tmp_path)
