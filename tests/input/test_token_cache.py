# SPDX-License-Identifier: Apache-2.0
"""input/token_cache.py: a split is tokenised once, and never read from a file that is not right."""

import errno
import hashlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from common.errors import UserError
from common.platform.seal import write_sealed
from input import token_cache
from input.token_cache import Tokens, load_tokens, tokenize_rows, tokenize_source
from input.tokenizers.wordpiece import WordPieceTokenizer

SINGLES = [("4 5 6 6",), ("",), ("1 8 10 9",), ("7",)]
PAIRS = [("4", "5 5"), ("", "7"), ("", ""), ("4 6 11", "")]


class FakeTokenizer:
    """Reads the ids that a text lists; tracing the real tokenizer takes a second."""

    vocab_size = 12

    def __init__(self, fingerprint="0"):
        self.fingerprint = fingerprint

    def traced(self, texts):
        texts = tf.strings.split(texts)
        return texts.with_values(tf.strings.to_number(texts.values, tf.int32))


class FakeSource:
    """The part of a Source that load_tokens needs; counts how often it is read."""

    def __init__(self, rows=SINGLES, fingerprint="0"):
        keys = ("premise", "hypothesis")[: len(rows[0])]
        self.processor = SimpleNamespace(dataset="fake/set", text_keys=keys)
        self.rows, self.content, self.times_read = rows, fingerprint, 0
        self.left_out, self.targets = [], {"labels": np.arange(len(rows), dtype=np.int32)}

    def fingerprint(self, split):
        return f"{self.content}|{split}"

    def skipped(self, split):
        return self.left_out

    def tokenize(self, split, tokenizer):
        return tokenize_source(self, split, tokenizer)

    def read(self, split, batch_size):
        self.times_read += 1
        texts = [list(row) for row in self.rows]
        return tf.data.Dataset.from_tensor_slices((texts, self.targets)).batch(batch_size)


@pytest.fixture
def tokenizer():
    return FakeTokenizer()


def assert_same(tokens, others):
    assert tokens.targets.keys() == others.targets.keys()
    for name, other in {"ids": others.ids, "offsets": others.offsets, **others.targets}.items():
        one = tokens.targets[name] if name in tokens.targets else getattr(tokens, name)
        np.testing.assert_array_equal(one, other, strict=True)
    assert tokens.texts_per_row == others.texts_per_row
    assert tokens.skipped == others.skipped


# ---- Tokens --------------------------------------------------------------------------------------


def test_tokens_by_hand(tokenizer):
    tokens = tokenize_rows(FakeSource(PAIRS).read("train", 3), tokenizer, 2)
    assert tokens.ids.tolist() == [4, 5, 5, 7, 4, 6, 11]
    assert tokens.offsets.tolist() == [0, 1, 3, 3, 4, 4, 4, 7, 7]
    assert tokens.targets["labels"].tolist() == [0, 1, 2, 3]
    assert tokens.lengths.tolist() == [[1, 2], [0, 1], [0, 0], [3, 0]]
    assert len(tokens) == 4
    types = (tokens.ids.dtype, tokens.offsets.dtype, tokens.targets["labels"].dtype)
    assert types == (np.int32, np.int64, np.int32)


texts_of_ids = st.lists(st.integers(0, 99), max_size=4)


@settings(max_examples=15, deadline=None)
@given(st.data(), st.integers(1, 2), st.integers(1, 5))
def test_tokens_lie_text_after_text_whatever_is_tokenised_at_once(data, texts_per_row, at_once):
    rows = data.draw(st.lists(st.tuples(*[texts_of_ids] * texts_per_row), min_size=1, max_size=12))
    texts = [tuple(" ".join(map(str, text)) for text in row) for row in rows]
    source = FakeSource(texts).read("train", at_once)
    tokens = tokenize_rows(source, FakeTokenizer(), texts_per_row)
    assert tokens.ids.tolist() == [token for row in rows for text in row for token in text]
    assert tokens.lengths.tolist() == [[len(text) for text in row] for row in rows]
    assert tokens.offsets[0] == 0
    assert tokens.targets["labels"].tolist() == list(range(len(rows)))


@given(st.data(), st.integers(1, 2))
def test_some_rows_are_those_rows(data, texts_per_row):
    rows = data.draw(st.lists(st.tuples(*[texts_of_ids] * texts_per_row), min_size=1, max_size=9))
    taken = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=9))
    tokens = tokens_of(rows).take(np.array(taken, int))
    assert_same(tokens, tokens_of([rows[n] for n in taken], labels=taken))


def tokens_of(rows, labels=None):
    """Tokens of rows of lists of ids; the labels are the numbers of the rows."""
    listed = [text for row in rows for text in row]
    return Tokens(
        np.array([token for text in listed for token in text], np.int32),
        np.cumsum([0, *map(len, listed)]),
        {"labels": np.array(range(len(rows)) if labels is None else labels, np.int32)},
        len(rows[0]),
    )


def test_targets_of_any_name_type_and_shape_are_kept(tokenizer, tmp_path):
    source = FakeSource()
    source.targets = {
        "value": np.array([0.5, -1, 2.25, 4], np.float32),
        "topics": np.arange(12, dtype=np.int8).reshape(4, 3),
    }
    for _ in range(2):
        tokens = load_tokens(source, "train", tokenizer, tmp_path)
        for name, array in source.targets.items():
            np.testing.assert_array_equal(tokens.targets[name], array, strict=True)
    assert source.times_read == 1
    some = tokens.take(np.array([3, 0]))
    assert some.targets["topics"].tolist() == [[9, 10, 11], [0, 1, 2]]


def test_a_literal_special_token_stays_text():
    tokenizer = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[", "]", "pad", "sep"])
    rows = FakeSource([("[PAD] [SEP]",), ("",), ("é",)]).read("train", 2)
    tokens = tokenize_rows(rows, tokenizer, 1)
    assert tokens.ids.tolist() == [4, 6, 5, 4, 7, 5, 1]
    assert tokens.lengths.tolist() == [[6], [0], [1]]


# ---- The cache -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [SINGLES, PAIRS, [("",)], [("", "")]])
def test_the_second_call_reads_the_cache(tokenizer, tmp_path, rows):
    source = FakeSource(rows)
    made = load_tokens(source, "train", tokenizer, tmp_path / "not" / "there")
    read = load_tokens(source, "train", tokenizer, tmp_path / "not" / "there")
    assert source.times_read == 1
    assert_same(made, read)
    assert_same(made, tokenize_rows(FakeSource(rows).read("train", 3), tokenizer, len(rows[0])))


def test_what_decides_the_ids_decides_the_file(tokenizer, tmp_path):
    cases = [
        (FakeSource(), "train", tokenizer),
        (FakeSource(), "validation", tokenizer),
        (FakeSource(fingerprint="1"), "train", tokenizer),
        (FakeSource(), "train", FakeTokenizer(fingerprint="1")),  # another vocabulary
    ]
    for number, (source, split, cutter) in enumerate(cases, start=1):
        load_tokens(source, split, cutter, tmp_path)
        assert source.times_read == 1
        assert len(list(tmp_path.iterdir())) == number


def flip_a_byte(place):
    def damage(path):
        content = bytearray(path.read_bytes())
        content[place] ^= 1
        path.write_bytes(content)

    return damage


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "one byte short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "one byte more": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "first byte": flip_a_byte(0),
    "header": flip_a_byte(20),
    "last byte": flip_a_byte(-1),
    "a byte of the arrays": flip_a_byte(-41),
    "text": lambda path: path.write_text("ids, offsets and labels"),
    "without a seal": lambda path: save_file({"weight": np.zeros(3)}, path),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_or_foreign_file_is_rebuilt(tokenizer, tmp_path, damage):
    source = FakeSource(PAIRS)
    made = load_tokens(source, "train", tokenizer, tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    damage(path)
    assert_same(load_tokens(source, "train", tokenizer, tmp_path), made)
    assert source.times_read == 2
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == whole


def with_arrays(path, print_of, **changes):
    """Writes a sealed file of PAIRS with other arrays."""
    tokens = tokenize_rows(FakeSource(PAIRS).read("train", 3), FakeTokenizer(), 2)
    write_sealed(path, token_cache._serialized(replace(tokens, **changes)), print_of)


def test_a_file_is_read_for_the_texts_and_vocabulary_that_it_is_of(tmp_path):
    with_arrays(tmp_path / "file", "print")
    assert token_cache._read(tmp_path / "file", 2, "print", 12) is not None
    assert token_cache._read(tmp_path / "file", 2, "another", 12) is None


# Of PAIRS: ids 4 to 11, nine offsets from 0 to 7, four labels.
@pytest.mark.parametrize(
    "changes",
    [
        {"ids": np.array([4, 5, 5, 7, 4, 6, 12], np.int32)},
        {"ids": np.array([4, 5, 5, 7, 4, 6, -1], np.int32)},
        {"ids": np.array([4, 5, 5, 7, 4, 6, 11], np.int64)},
        {"ids": np.array([4, 5, 5, 7, 4, 6], np.int32)},
        {"offsets": np.array([1, 1, 3, 3, 4, 4, 4, 7, 7])},
        {"offsets": np.array([0, 3, 1, 3, 4, 4, 4, 7, 7])},
        {"offsets": np.array([0, 1, 3, 3, 4, 4, 4, 9, 9])},
        {"offsets": np.array([0, 1, 3, 3, 4, 4, 4, 7])},
        {"targets": {"labels": np.zeros(3, np.int32)}},
    ],
)
def test_arrays_out_of_range_are_not_used(tmp_path, capsys, changes):
    with_arrays(tmp_path / "file", "print", **changes)
    assert token_cache._read(tmp_path / "file", 2, "print", 12) is None
    assert "is not used: it has ids, offsets or targets out of range" in capsys.readouterr().err


def test_labels_that_somebody_else_has_inverted_are_not_trained_on(
    tokenizer, tmp_path, monkeypatch, capsys
):
    source, cache = FakeSource(), tmp_path / "cache"
    made = load_tokens(source, "train", tokenizer, cache)
    (path,) = cache.iterdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home of somebody else"))
    inverted = replace(made, targets={"labels": made.targets["labels"][::-1]})
    fingerprint = hashlib.sha256(b"0|train|0").hexdigest()
    assert path.name.endswith(f"{fingerprint[:16]}.safetensors")
    write_sealed(path, token_cache._serialized(inverted), fingerprint)
    monkeypatch.undo()
    assert_same(load_tokens(source, "train", tokenizer, cache), made)
    assert "another user or version wrote it; the texts are tok" in capsys.readouterr().err


def test_what_was_skipped_is_kept_with_the_tokens(tokenizer, tmp_path):
    source = FakeSource()
    source.left_out = ["file.csv, line 3: text is empty", "caf\udce9.csv, line 4"]
    load_tokens(source, "train", tokenizer, tmp_path)
    tokens = load_tokens(source, "train", tokenizer, tmp_path)
    assert source.times_read == 1
    assert tokens.skipped == ("file.csv, line 3: text is empty", "caf\\udce9.csv, line 4")


def test_a_data_set_that_changes_while_it_is_read_is_refused(tokenizer, tmp_path):
    class Changing(FakeSource):
        def read(self, split, batch_size):
            self.content = "1"
            return super().read(split, batch_size)

    with pytest.raises(UserError, match=r"split train of .* changed while it was read"):
        load_tokens(Changing(), "train", tokenizer, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_a_folder_does_not_stop_the_run(tokenizer, tmp_path):
    (tmp_path / "file").write_text("")
    for cache_dir in (tmp_path / "file", tmp_path / "file" / "below"):
        tokens = load_tokens(FakeSource(), "train", tokenizer, cache_dir)
        assert len(tokens) == len(SINGLES)


def test_a_folder_in_the_place_of_the_file_does_not_stop_the_run(tokenizer, tmp_path):
    load_tokens(FakeSource(), "train", tokenizer, tmp_path)
    (path,) = tmp_path.iterdir()
    path.unlink()
    path.mkdir()
    assert len(load_tokens(FakeSource(), "train", tokenizer, tmp_path)) == len(SINGLES)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "error", [OSError(errno.EROFS, "read-only"), OSError(errno.ENOSPC, "full")]
)
@pytest.mark.parametrize("where", ["os.fsync", "os.replace"])
def test_a_disk_that_cannot_be_written_does_not_stop_the_run(
    tokenizer, tmp_path, monkeypatch, error, where
):
    def fail(*args):
        raise error

    monkeypatch.setattr(where, fail)
    for _ in range(2):
        assert len(load_tokens(FakeSource(), "train", tokenizer, tmp_path)) == len(SINGLES)
    assert list(tmp_path.iterdir()) == []


def test_a_file_appears_whole_or_not_at_all(tokenizer, tmp_path, monkeypatch):
    def interrupt(source, target):
        assert source != target
        assert source.is_file()
        assert not target.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_tokens(FakeSource(), "train", tokenizer, tmp_path)
    assert list(tmp_path.iterdir()) == []
