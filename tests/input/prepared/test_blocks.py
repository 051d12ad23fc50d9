# SPDX-License-Identifier: Apache-2.0
"""input/prepared/blocks.py: rows come back as they were written, and damage is found."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from common.errors import UserError
from input.prepared import blocks
from input.prepared.blocks import Blocks, shard_bytes
from input.prepared.pairing import LABELS, Rows

VOCAB_SIZE = 70_000


def make_blocks(folder, num_rows, texts_per_row=2, seed=0, dtype=np.int32):
    """Blocks with shards of num_rows rows each, and the rows: [(texts, label)]."""
    generator = np.random.default_rng(seed)
    rows, shards = [], []
    for shard, number in enumerate(num_rows):
        ids = generator.integers(0, min(VOCAB_SIZE, np.iinfo(dtype).max), 50).astype(dtype)
        starts = generator.integers(0, 40, (number, texts_per_row))
        spans = np.stack([starts, starts + generator.integers(0, 9, starts.shape)], axis=-1)
        labels = generator.integers(0, 2, number)
        name = f"shard-{shard}.safetensors"
        content = shard_bytes(Rows(spans, labels, 0), ids, {LABELS: labels})
        (folder / name).write_bytes(content)
        shards.append((name, number))
        rows += [
            ([ids[start:end].tolist() for start, end in row], label)
            for row, label in zip(spans.tolist(), labels.tolist(), strict=True)
        ]
    counts = np.bincount([sum(map(len, texts)) for texts, _ in rows], minlength=20)
    return Blocks(folder, shards, texts_per_row, [LABELS], VOCAB_SIZE, counts, "content"), rows


def texts_of(tokens):
    texts = np.split(tokens.ids, tokens.offsets[1:-1])
    size = tokens.texts_per_row
    return [
        (
            [text.tolist() for text in texts[n * size : (n + 1) * size]],
            int(tokens.targets[LABELS][n]),
        )
        for n in range(len(tokens))
    ]


@settings(max_examples=30, deadline=None)
@given(
    num_rows=st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(sum),
    texts_per_row=st.sampled_from([1, 2]),
    dtype=st.sampled_from([np.uint16, np.int32]),
    seed=st.integers(0, 100),
)
def test_rows_are_read_by_position(tmp_path_factory, num_rows, texts_per_row, dtype, seed):
    folder = tmp_path_factory.mktemp("blocks")
    store, rows = make_blocks(folder, num_rows, texts_per_row, seed, dtype)
    assert len(store) == len(rows) == sum(num_rows)
    numbers = np.random.default_rng(seed).integers(0, len(rows), 11)
    tokens = store.read(numbers)
    assert texts_of(tokens) == [rows[n] for n in numbers]
    assert tokens.ids.dtype == tokens.targets[LABELS].dtype == np.int32
    lengths = [[len(text) for text in rows[n][0]] for n in numbers]
    np.testing.assert_array_equal(store.lengths(numbers), lengths)


def test_more_shards_than_files_may_be_open_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "MAX_OPEN", 2)
    store, rows = make_blocks(tmp_path, [1] * 7)
    for numbers in ([0, 3, 6, 1, 5], [2, 0, 4]):
        assert texts_of(store.read(np.array(numbers))) == [rows[n] for n in numbers]
    assert len(store._open) == 2


def test_a_shard_is_a_safetensors_file(tmp_path):
    make_blocks(tmp_path, [3])
    arrays = load_file(tmp_path / "shard-0.safetensors")
    assert arrays["rows"].shape == (3, 5) and arrays["rows"].dtype == np.uint32


@pytest.mark.parametrize("place", ["ids", "lengths", "label", "check"])
def test_a_flipped_bit_is_found_when_its_row_is_read(tmp_path, place):
    store, _ = make_blocks(tmp_path, [4])
    path = tmp_path / "shard-0.safetensors"
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    begins = {
        name: header + json.loads(content[8:header])[name]["data_offsets"][0]
        for name in ("ids", "rows")
    }
    lengths = store.lengths(np.arange(4))
    row = int(np.flatnonzero(lengths.sum(axis=1))[0])
    entry = begins["rows"] + row * 20
    at = {
        "ids": begins["ids"] + 4 * int(lengths[:row].sum()),
        "lengths": entry + 4,
        "label": entry + 12,
        "check": entry + 16,
    }
    content[at[place]] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=rf"{re.escape(str(path))} is damaged: row {row} .*delete it"
    ):
        make_again = Blocks(
            tmp_path, [(path.name, 4)], 2, [LABELS], VOCAB_SIZE, store.length_counts, ""
        )
        make_again.read(np.arange(4))


@pytest.mark.parametrize(
    "damage, reason",
    [
        (lambda content: b"", "no safetensors file"),
        (lambda content: content[:-1], "not as long as it says"),
        (lambda content: content + b"x", "not as long as it says"),
        (lambda content: content[:8] + b"[" + content[9:], "damaged"),
        (lambda content: (10**6).to_bytes(8, "little") + content[8:], "no safetensors file"),
    ],
)
def test_a_file_that_is_no_shard_is_refused(tmp_path, damage, reason):
    store, _ = make_blocks(tmp_path, [4])
    path = tmp_path / "shard-0.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=reason):
        store.lengths(np.array([0]))


def test_shards_of_another_manifest_and_missing_ones_are_refused(tmp_path):
    make_blocks(tmp_path, [4])
    for name, number, reason in (("shard-0", 5, "has not 5 rows"), ("shard-9", 4, "No such file")):
        shards = [(f"{name}.safetensors", number)]
        store = Blocks(tmp_path, shards, 2, [LABELS], VOCAB_SIZE, [0] * 20, "")
        with pytest.raises(UserError, match=reason):
            store.read(np.array([0]))


def test_ids_beyond_the_vocabulary_are_refused(tmp_path):
    store, _ = make_blocks(tmp_path, [4])
    store.vocab_size = 100
    with pytest.raises(UserError, match="the vocabulary has only 100 entries"):
        store.read(np.arange(4))
