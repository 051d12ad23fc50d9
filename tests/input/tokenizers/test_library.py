# SPDX-License-Identifier: Apache-2.0
"""Vocabularies of the package tokenizers: the ids of transformers, in files of every kind."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tokenizers

from common.checkpoints.vocab import read_vocab, write_vocab
from common.errors import UserError
from input.features import Layout, assemble_features
from input.masking import tokenize_with_masks
from input.token_cache import tokenize_questions, tokenize_texts, tokenize_words
from input.tokenizers.library import LibraryTokenizer, open_tokenizer
from input.tokenizers.tokenizer import Tokenizer
from tests.reference.family_fixtures import FIXTURES, needs_fixtures, reference

TEXTS = ["the day is good .", "no day was bad", "a  day\tof 3,500 €, day by day"] * 3
SAMPLES = ["The day", "", " is  good.", "Zoë's café: 北京 😀\n", "</s> <mask> x", "no"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A byte-level vocabulary as `--mode train_vocab` writes it."""
    path = tmp_path_factory.mktemp("byte_bpe")
    Tokenizer.train(TEXTS, algorithm="byte_bpe", vocab_size=300).save(path)
    return path


@pytest.fixture(scope="module")
def byte_bpe(folder):
    return open_tokenizer(folder / "tokenizer.json")


def ids_of(tokenizer, texts):
    return tokenizer.traced(tf.constant(texts, tf.string)).to_list()


# ---- Ids -----------------------------------------------------------------------------------------


@needs_fixtures
@pytest.mark.parametrize("folder", ["hf_roberta/model", "hf_albert/model", "hf_modernbert/model"])
def test_rows_of_texts_and_pairs_are_those_of_transformers(folder):
    expected = reference(folder)
    tokenizer = open_tokenizer(FIXTURES / folder / "tokenizer.json")
    layout, special = Layout(num_between=tokenizer.num_between), expected["special_ids"]
    for name in ("cls", "sep", "pad", "unk"):
        assert getattr(tokenizer, f"{name}_id") == special[name]
    for texts, ids, mask in zip(
        expected["texts"], expected["input_ids"], expected["input_mask"], strict=True
    ):
        texts = tuple(text for text in texts if text is not None)
        has_mask = any(tokenizer.mask_token in text for text in texts)
        tokens = (tokenize_with_masks if has_mask else tokenize_texts)([texts], tokenizer)
        starts, counts = tokens.offsets[None, :-1], tokens.lengths
        features = assemble_features(
            tokenizer,
            tokens.ids,
            starts.astype(np.int32),
            counts.astype(np.int32),
            len(ids),
            layout,
        )
        np.testing.assert_array_equal(features["input_ids"][0], ids)
        np.testing.assert_array_equal(1 - features["input_mask"][0], mask)
        assert layout.num_special_tokens(len(texts)) == sum(mask) - tokens.lengths.sum()


def test_ids_are_those_of_the_package_in_any_batch_and_in_a_data_set(folder, byte_bpe):
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.encode_special_tokens = True
    expected = [library.encode(text, add_special_tokens=False).ids for text in SAMPLES]
    assert ids_of(byte_bpe, SAMPLES) == expected and expected[1] == []
    assert [row for text in SAMPLES for row in ids_of(byte_bpe, [text])] == expected
    assert ids_of(byte_bpe, []) == []
    rows = tf.data.Dataset.from_tensor_slices(SAMPLES).batch(4).map(byte_bpe.traced)
    assert [row for batch in rows for row in batch.to_list()] == expected
    assert ids_of(byte_bpe, [b"no\xff day"]) == ids_of(byte_bpe, ["no day"])


def test_a_literal_special_token_stays_text(byte_bpe):
    special = {byte_bpe.vocab.index(token) for token in ("<s>", "</s>", "<mask>", "<pad>")}
    assert not special & set(ids_of(byte_bpe, ["<s> a </s> <mask> <pad>"])[0])
    assert all(map(byte_bpe.is_special, ("<s>", "<mask>"))) and not byte_bpe.is_special("a")


def test_the_blank_before_a_mask_is_a_part_of_it(folder, byte_bpe):
    """As `lstrip` of `<mask>` in RoBERTa's file; the package's own result is the truth."""
    content = json.loads((folder / "tokenizer.json").read_text())
    for token in content["added_tokens"]:
        token["lstrip"] = token["content"] == "<mask>"
    library = tokenizers.Tokenizer.from_str(json.dumps(content))
    tokenizer = LibraryTokenizer(type(byte_bpe.vocab)(list(byte_bpe.vocab), content))
    for text in ("the <mask> day", "<mask>day is", "no day  <mask>"):
        tokens = tokenize_with_masks([(text,)], tokenizer)
        assert tokens.ids.tolist() == library.encode(text, add_special_tokens=False).ids


def test_words_have_the_blank_before_them(byte_bpe):
    words = ["the", "day", "is"]
    tokens = tokenize_words([words], np.full(3, -1, np.int32), byte_bpe)
    assert tokens.ids.tolist() == ids_of(byte_bpe, [" the day is"])[0]
    spans = {"the day is": np.array([[0, 3], [4, 7], [8, 10]])}
    pair = tokenize_questions([("no day", "the day is")], spans, [""], byte_bpe)[0]
    first = ids_of(byte_bpe, ["no day", "the day is"])
    assert pair.ids.tolist() == first[0] + first[1]
    pieces = byte_bpe.word_pieces(ids_of(byte_bpe, ["the daybad"])[0])
    assert " ".join(pieces).replace(" ##", "") == "the daybad" and pieces[0].startswith("t")


# ---- Files ---------------------------------------------------------------------------------------


def test_the_old_pair_of_files_and_what_is_written_give_the_same_tokenizer(folder, tmp_path):
    byte_bpe = open_tokenizer(folder / "tokenizer.json")
    old = open_tokenizer(folder / "vocab.json")
    assert list(old.vocab) == list(byte_bpe.vocab)
    assert ids_of(old, SAMPLES) == ids_of(byte_bpe, SAMPLES)
    assert write_vocab(tmp_path, byte_bpe.vocab) == "tokenizer.json"
    again = open_tokenizer(tmp_path / "tokenizer.json")
    assert (
        again.fingerprint == byte_bpe.fingerprint != old.fingerprint
    )  # its `<mask>` takes a blank
    assert again.vocab == byte_bpe.vocab and not again.in_graph and not again.do_lower


@needs_fixtures
def test_robertas_old_files_are_its_tokenizer(tmp_path):
    source = FIXTURES / "hf_roberta" / "model"
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    old, new = open_tokenizer(tmp_path / "vocab.json"), open_tokenizer(source / "tokenizer.json")
    assert ids_of(old, SAMPLES) == ids_of(new, SAMPLES)
    assert (old.mask_takes_blank, old.num_between) == (new.mask_takes_blank, new.num_between)


def changed(folder, path, **changes):
    content = json.loads((folder / "tokenizer.json").read_text()) | changes
    path.write_text(json.dumps(content))
    return path


def with_model(folder, path, **changes):
    """A copy of a tokenizer.json whose model is changed. folder, path: Path. Returns path."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    return changed(folder, path, model=model | changes)


def test_a_file_without_its_merges_is_refused(folder, tmp_path):
    """It could be read, and every byte of a text would be a token."""
    path = with_model(folder, tmp_path / "tokenizer.json", merges=[])
    with pytest.raises(UserError, match=r"its 0 merges make 0 of \d+ pieces .* not 'ay'"):
        open_tokenizer(path)
    merges = (folder / "merges.txt").read_text("utf-8").splitlines()
    (tmp_path / "vocab.json").write_bytes((folder / "vocab.json").read_bytes())
    (tmp_path / "merges.txt").write_text("\n".join(merges[:3]) + "\n", "utf-8")
    with pytest.raises(UserError, match=r"vocab\.json: its 2 merges make 2 of"):
        open_tokenizer(tmp_path / "vocab.json")


def test_merges_with_the_line_ends_of_windows_are_the_same(folder, tmp_path):
    content = (folder / "merges.txt").read_bytes()
    (tmp_path / "merges.txt").write_bytes(content.replace(b"\n", b"\r\n"))
    (tmp_path / "vocab.json").write_bytes((folder / "vocab.json").read_bytes())
    expected = open_tokenizer(folder / "vocab.json")
    assert open_tokenizer(tmp_path / "vocab.json").fingerprint == expected.fingerprint


@needs_fixtures
def test_a_unigram_vocabulary_without_an_unknown_piece_is_refused(tmp_path):
    path = with_model(FIXTURES / "hf_albert" / "model", tmp_path / "tokenizer.json", unk_id=None)
    with pytest.raises(UserError, match="unk_id of its model is None, where the id"):
        open_tokenizer(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"post_processor": None}, "it puts 0 special tokens around a text and 0 around a pair"),
        ({"pre_tokenizer": {"type": "Magic"}}, "the package tokenizers cannot read it"),
        ({"model": {"type": "WordLevel"}}, "only BERT's WordPiece .* and unigram can be read"),
        ({"added_tokens": [{"content": "<s>", "id": 7}]}, "'<s>' has the id 7"),
    ],
)
def test_a_file_that_is_no_tokenizer_of_an_encoder_is_refused(folder, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        open_tokenizer(changed(folder, tmp_path / "tokenizer.json", **changes))


def test_the_old_pair_of_files_is_checked(folder, tmp_path):
    ids = json.loads((folder / "vocab.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    with pytest.raises(UserError, match=r"merges\.txt has no pair of pieces"):
        read_vocab(tmp_path / "vocab.json")
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b c\n")
    with pytest.raises(UserError, match="no pair of pieces in every line"):
        read_vocab(tmp_path / "vocab.json")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    del ids["<mask>"]
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    with pytest.raises(UserError, match=r"has no <mask>; give the tokenizer\.json"):
        read_vocab(tmp_path / "vocab.json")


# ---- SentencePiece -------------------------------------------------------------------------------


@needs_fixtures
def test_a_sentencepiece_model_becomes_what_transformers_makes_of_it():
    folder = FIXTURES / "hf_albert" / "model"
    ours, theirs = (read_vocab(folder / name) for name in ("spiece.model", "tokenizer.json"))
    assert list(ours) == list(theirs)
    for key, value in theirs.content.items():
        if key != "model":
            assert ours.content[key] == value, key
    scores = np.array([row[1] for row in ours.content["model"]["vocab"]])
    expected = np.array([row[1] for row in theirs.content["model"]["vocab"]])
    np.testing.assert_allclose(scores, expected, rtol=1e-14)  # one of them was rounded in JSON


@needs_fixtures
def test_rows_are_those_of_googles_albert():
    folder = "google_albert_tf1"
    expected = reference(folder)
    tokenizer = open_tokenizer(FIXTURES / folder / "30k-clean.model")
    for texts, ids, mask in zip(
        expected["texts"], expected["input_ids"], expected["input_mask"], strict=True
    ):
        pieces = [ids_of(tokenizer, [text])[0] for text in texts if text is not None]
        row = [tokenizer.cls_id]
        for each in pieces:
            row += [*each, tokenizer.sep_id]
        assert row == ids[: sum(mask)]
    assert tokenizer.do_lower and tokenizer.num_between == 1
    assert tokenizer.in_sentence(["a", "b"]) == ["a", "b"]  # each begins a word in any case
    pieces = tokenizer.word_pieces(ids_of(tokenizer, ["open treaty"])[0])
    assert " ".join(pieces).replace(" ##", "") == "open treaty"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"\x0a\xff", "it is no SentencePiece model"),
        (b"\x0a\x05\x0a\x03abc", "has no <pad>, <unk>"),
        (b"\x0f", "it is no SentencePiece model"),
    ],
)
def test_a_damaged_sentencepiece_model_is_refused(tmp_path, content, message):
    (tmp_path / "spiece.model").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_vocab(tmp_path / "spiece.model")
