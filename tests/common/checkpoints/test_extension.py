# SPDX-License-Identifier: Apache-2.0
"""common/checkpoints/extension.py: vectors of new words are the mean of their old pieces'."""

import json

import numpy as np
import pytest

from common.checkpoints.extension import Extension, hash_of_entries, read_extension, with_new_words
from common.checkpoints.load import load_weights, open_checkpoint
from common.errors import UserError
from model import make_model
from tests.reference.tiny_bert import VOCAB_SIZE, huggingface_tensors, save_huggingface, tiny_params

BASE = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[unused0]", "a", "b", "##a", "##b"]
BASE += [f"w{i}" for i in range(VOCAB_SIZE - len(BASE))]
PIECES = {"aba": [5, 8, 7], "bb": [6, 8]}


def save_vocab(folder, entries, pieces=None):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vocab.txt"
    path.write_text("".join(f"{entry}\n" for entry in entries))
    if pieces is not None:
        extension = Extension(path, len(BASE), hash_of_entries(BASE), pieces)
        (folder / "extension.json").write_text(json.dumps(extension.content()))
    return path


@pytest.fixture
def weights(tmp_path):
    """The folder of a checkpoint with the base vocabulary and a bias for each word."""
    tensors = {f"bert.{name}": each for name, each in huggingface_tensors().items()}
    bias = np.random.default_rng(5).normal(size=VOCAB_SIZE).astype(np.float32)
    tensors["cls.predictions.bias"] = bias
    save_huggingface(tmp_path / "weights", tensors)
    save_vocab(tmp_path / "weights", BASE)
    return tmp_path / "weights"


def expected_rows(old, ids):
    """The rows of PIECES at `ids` behind the old ones, in NumPy and float64."""
    new = np.zeros((max(len(old), max(ids) + 1), *old.shape[1:]), np.float64)
    new[: len(old)] = old
    for i, pieces in ids.items():
        new[i] = sum(old[piece].astype(np.float64) for piece in pieces) / len(pieces)
    return new


@pytest.mark.parametrize("at", ["end", "unused"])
def test_vectors_and_biases_of_new_words_are_the_mean_of_their_pieces(tmp_path, weights, at):
    if at == "end":
        ids = dict(zip((VOCAB_SIZE, VOCAB_SIZE + 1), PIECES.values(), strict=True))
        entries = [*BASE, *PIECES]
    else:
        ids, entries = {4: PIECES["aba"]}, [*BASE[:4], "aba", *BASE[5:]]
    vocab_file = save_vocab(tmp_path / "extended", entries, ids)
    plain = open_checkpoint(weights)
    checkpoint = with_new_words(plain, vocab_file)
    assert checkpoint.config["vocab_size"] == len(entries)
    for name in ("embeddings/word_embeddings", "mlm/output_bias"):
        expected = expected_rows(np.asarray(plain.weights[name]), ids)
        found = np.asarray(checkpoint.weights[name])
        assert checkpoint.weights[name].shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=0)  # one rounding to float32
    for name in ("pooler/bias", "embeddings/position_embeddings"):
        np.testing.assert_array_equal(checkpoint.weights[name], plain.weights[name])

    model = make_model(tiny_params(vocab_size=len(entries)))
    report = load_weights(model, checkpoint)
    table = model.weights_by_name()["embeddings/word_embeddings"].numpy()
    old = np.asarray(plain.weights["embeddings/word_embeddings"])
    np.testing.assert_allclose(table, expected_rows(old, ids), rtol=1e-6, atol=0)
    words = "2 new words" if at == "end" else "1 new word"
    assert f"{words}: the mean of the vectors of its pieces" in report.table()


def test_rows_that_pad_the_table_are_used_before_it_grows(tmp_path, weights):
    vocab = save_vocab(tmp_path / "weights", BASE[:-1])  # one row of the table has no entry
    content = Extension(vocab, len(BASE) - 1, hash_of_entries(BASE[:-1]), {len(BASE) - 1: [5, 6]})
    extended = save_vocab(tmp_path / "extended", [*BASE[:-1], "ab"])
    (tmp_path / "extended" / "extension.json").write_text(json.dumps(content.content()))
    checkpoint = with_new_words(open_checkpoint(weights), extended)
    table = np.asarray(checkpoint.weights["embeddings/word_embeddings"])
    assert len(table) == len(BASE) == checkpoint.config["vocab_size"]
    np.testing.assert_allclose(table[-1], (table[5] + table[6]) / 2, rtol=1e-6)


def test_a_checkpoint_stays_as_it_is_without_an_extension_or_with_one_it_has(tmp_path, weights):
    plain = open_checkpoint(weights)
    assert with_new_words(plain, None) is plain
    assert with_new_words(plain, weights / "vocab.txt") is plain
    entries = [*BASE[:4], "aba", *BASE[5:]]
    extended = save_vocab(tmp_path / "extended", entries, {4: [5, 8, 7]})
    save_vocab(tmp_path / "weights", entries)  # trained with the new words
    trained = open_checkpoint(weights)
    assert with_new_words(trained, extended) is trained


def test_an_extension_of_another_vocabulary_is_refused(tmp_path, weights):
    extended = save_vocab(tmp_path / "extended", [*BASE, "aba"], {VOCAB_SIZE: [5, 8, 7]})
    save_vocab(tmp_path / "weights", [*BASE[:-1], "another"])
    with pytest.raises(UserError, match=r"extends another vocabulary than .*weights/vocab.txt"):
        with_new_words(open_checkpoint(weights), extended)
    (weights / "vocab.txt").unlink()
    tensors = huggingface_tensors()
    tensors["embeddings.word_embeddings.weight"] = tensors["embeddings.word_embeddings.weight"][1:]
    save_huggingface(weights, tensors, vocab_size=22)
    with pytest.raises(UserError, match=r"of 23 entries, but .* has embeddings of 22"):
        with_new_words(open_checkpoint(weights), extended)


@pytest.mark.parametrize(
    "pieces",
    [
        {},
        {"x": [1]},
        {"4": []},
        {"4": [99]},
        {"4": [-1]},
        {"4": [1.5]},
        {"400": [1]},
        {"4" * 5000: [1]},
        [1],
        None,
    ],
)
def test_a_damaged_extension_is_refused(tmp_path, pieces):
    vocab_file = save_vocab(tmp_path, BASE)
    content = {"base_size": len(BASE), "base_sha256": "0", "pieces": pieces}
    (tmp_path / "extension.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"extension.json does not fit .*vocab.txt"):
        read_extension(vocab_file)
