# SPDX-License-Identifier: Apache-2.0
"""input/streamed_batches.py: the batches of a RowStore are those of the same rows in memory."""

import numpy as np
import pytest
import tensorflow as tf

from common.errors import UserError
from input import stream_plan
from input.batches import make_batches, make_packed_batches
from input.features import STANDARD_LAYOUT
from input.stream_plan import PACKED, PADDED, StreamPlan
from input.streamed_batches import make_streamed_batches
from input.token_cache import Tokens
from tests.reference.toy_rows import TOKENIZER


class InMemory:
    """A RowStore of pairs in memory."""

    texts_per_row, content, notes, has_special_tokens = 2, "content", ("a note",), False
    token_counts = None

    def __init__(self, num_rows, seed=0):
        generator = np.random.default_rng(seed)
        offsets = np.concatenate([[0], np.cumsum(generator.integers(1, 8, 2 * num_rows))])
        ids = generator.integers(3, 99, offsets[-1]).astype(np.int32)
        labels = generator.integers(0, 2, num_rows).astype(np.int32)
        self.tokens = Tokens(ids, offsets, {"next_sentence_labels": labels}, 2)
        self.length_counts = np.bincount(self.tokens.lengths.sum(axis=1))
        self.fault = None

    def __len__(self):
        return len(self.tokens)

    def lengths(self, rows):
        return self.tokens.lengths[rows]

    def read(self, rows):
        if self.fault is not None and 3 in rows:
            raise self.fault
        return self.tokens.take(np.asarray(rows))


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch):
    monkeypatch.setattr(stream_plan, "STRETCH_ROWS", 20)
    monkeypatch.setattr(stream_plan, "MIN_STRETCH_STEPS", 2)


def make(kind, first_step, last_step, has_every_row=False, num_rows=53, mask=None, store=None):
    store = store or InMemory(num_rows)
    plan = StreamPlan(store, 4, 3, kind, None, 3, not has_every_row, 7, has_every_row)
    last_step = plan.steps_per_epoch if last_step is None else last_step
    return make_streamed_batches(
        plan, TOKENIZER, first_step, last_step, has_every_row, mask=mask, notes=["another"]
    )


def arrays_of(batches):
    return [tf.nest.map_structure(lambda tensor: tensor.numpy(), batch) for batch in batches]


def assert_same(batches, others):
    assert len(batches) == len(others) > 0
    for batch, other in zip(batches, others, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, batch, other)


@pytest.mark.parametrize("kind", [PADDED, PACKED])
@pytest.mark.parametrize("has_every_row", [False, True])
def test_batches_are_those_of_the_rows_in_memory(kind, has_every_row):
    batches = make(kind, 0, None if has_every_row else 30, has_every_row)
    plan, tokens = batches.plan, batches.plan.store.tokens
    rows = batches.rows_of(0, len(batches))
    parts = [plan.stretch(n) for n, *_ in plan.stretches(0, batches.last_step)]
    shapes = np.concatenate([part.shapes for part in parts])[: len(rows)]
    if kind == PADDED:
        expected = make_batches(tokens, TOKENIZER, rows, shapes[:, 1], 20, has_every_row)
    else:
        starts = np.concatenate([part.starts for part in parts])[: len(rows)]
        expected = make_packed_batches(
            tokens, TOKENIZER, rows, starts, shapes, 20, has_every_row, STANDARD_LAYOUT
        )
    found, wanted = arrays_of(batches), arrays_of(expected)
    if has_every_row:  # filler is any row, which has no weight
        assert sorted(rows[rows >= 0].tolist()) == list(range(53)) and (rows < 0).sum() == 3
        assert all(
            part[-1].tolist() == (row >= 0).tolist() for part, row in zip(found, rows, strict=True)
        )
        found, wanted = found[:-1], wanted[:-1]
    assert_same(found, wanted)
    assert batches.is_packed == (kind == PACKED) and batches.batch_size == 4


@pytest.mark.parametrize("kind", [PADDED, PACKED])
def test_a_resumed_run_has_the_batches_of_one_that_was_never_stopped(kind):
    whole = arrays_of(make(kind, 0, 40))
    assert_same(arrays_of(make(kind, 17, 40)), whole[17:])
    batches = make(kind, 5, 40)
    assert_same(arrays_of(batches.from_batch(6)), whole[11:])
    assert_same(arrays_of(batches), whole[5:])  # and once more from the beginning
    np.testing.assert_array_equal(batches.rows_of(3, 20), make(kind, 0, 40).rows_of(8, 25))


def test_a_mask_is_given_epoch_and_rows():
    def mask(features, targets, epoch, rows):
        return features | {"epoch": epoch, "rows": rows}, targets

    batches = make(PADDED, 0, 30, mask=mask)  # 13 steps an epoch
    found = arrays_of(batches)
    assert [features["epoch"] for features, _ in found] == [step // 13 for step in range(30)]
    np.testing.assert_array_equal([f["rows"] for f, _ in found], batches.rows_of(0, 30))


def test_a_damaged_row_is_a_sentence_and_no_traceback():
    store = InMemory(53)
    store.fault = UserError("shard 7 is damaged")
    with pytest.raises(UserError, match="shard 7 is damaged"):
        arrays_of(make(PADDED, 0, 20, store=store))


def test_facts_for_the_log_are_those_of_the_rows():
    batches = make(PADDED, 0, 20)
    lengths = batches.plan.store.tokens.lengths.sum(axis=1) + 3
    summary = batches.summary("train")
    assert (summary.num_rows, summary.num_tokens) == (53, lengths.sum() - 3 * 53)
    assert (summary.least, summary.most) == (lengths.min(), lengths.max())
    assert summary.median == sorted(lengths)[26]
    assert 0.5 < batches.share_real <= 1 and batches.num_rows == 53
    assert batches.notes == ["a note", "another"]
    assert batches.checksum == make(PADDED, 0, 20).checksum != make(PADDED, 1, 20).checksum
