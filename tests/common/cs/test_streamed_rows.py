# SPDX-License-Identifier: Apache-2.0
"""Batches in a file, for the environment of the SDK: those of the input pipeline, masks and all."""

import numpy as np
import pytest

from common.cs import streamed_rows
from common.cs.streamed_rows import StreamedRows, write_batches, write_zeros
from common.errors import RunError
from tests.reference.toy_pretraining import (
    BATCH_SIZE,
    EVAL_ROWS,
    LENGTH,
    TRAIN_ROWS,
    VOCAB,
    eval_input_fn,
    make_params,
    train_input_fn,
)

FIRST, LAST = 3, 12  # 5 steps are an epoch, after which the masks are others


@pytest.fixture
def batches(tmp_path):
    return train_input_fn(make_params(tmp_path), FIRST, LAST)


def written(batches, tmp_path):
    write_batches(batches, tmp_path / "rows.npy", len(VOCAB), is_padding_1=True)
    return StreamedRows(tmp_path / "rows.npy")


def test_every_batch_has_the_tokens_and_masks_of_the_input_pipeline(batches, tmp_path):
    rows = written(batches, tmp_path)
    assert (rows.num_steps, rows.batch_size, rows.num_tokens) == (LAST - FIRST, BATCH_SIZE, LENGTH)
    for step, (features, targets) in enumerate(batches):
        batch = rows.batch(step)
        expected = {name: np.asarray(each) for name, each in (features | targets).items()}
        expected["padding_mask"] = 1 - expected.pop("input_mask")
        assert batch.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(batch[name], array, name)
            assert batch[name].dtype == array.dtype
    assert len(TRAIN_ROWS) // BATCH_SIZE == 5


def test_numbers_are_those_of_the_rows_and_tell_filler(tmp_path):
    (batches,) = eval_input_fn(make_params(tmp_path)).values()
    rows = written(batches, tmp_path)
    numbers = np.concatenate(list(map(rows.numbers, range(rows.num_steps))))
    assert sorted(numbers) == [-1, -1, *range(len(EVAL_ROWS))]
    last = rows.batch(rows.num_steps - 1)["masked_lm_weights"]
    assert (last[rows.numbers(rows.num_steps - 1) < 0] == 0).all()


def test_a_part_of_a_batch_is_those_rows_of_it(batches, tmp_path):
    rows = written(batches, tmp_path)
    whole, part = rows.batch(4), rows.batch(4, slice(1, 3))
    for name, array in whole.items():
        np.testing.assert_array_equal(part[name], array[1:3])


@pytest.mark.parametrize(("num_ids", "size"), [(len(VOCAB), 1), (30522, 2), (100_000, 4)])
def test_an_id_has_as_few_bytes_as_the_vocabulary_needs(num_ids, size, tmp_path):
    write_zeros(tmp_path / "rows.npy", 3, LENGTH, 5, num_ids)
    rows = StreamedRows(tmp_path / "rows.npy")
    assert rows.dtype["input_ids"].base.itemsize == size


def test_zeros_have_the_shapes_of_batches(batches, tmp_path):
    batch = written(batches, tmp_path).batch(0)
    width = batch["masked_lm_ids"].shape[1]
    write_zeros(tmp_path / "zeros.npy", BATCH_SIZE, LENGTH, width, len(VOCAB))
    zeros = StreamedRows(tmp_path / "zeros.npy").batch(0)
    assert {name: each.shape for name, each in zeros.items()} == {
        name: each.shape for name, each in batch.items()
    }
    np.testing.assert_array_equal(zeros["padding_mask"].sum(axis=1), [1] * BATCH_SIZE)


def test_too_little_room_is_told_before_anything_is_written(batches, tmp_path, monkeypatch):
    full = type("Usage", (), {"free": 500})
    monkeypatch.setattr(streamed_rows.shutil, "disk_usage", lambda path: full)
    with pytest.raises(RunError, match=r"train in parts, of --steps \d+ for example"):
        written(batches, tmp_path)
    assert (tmp_path / "rows.npy").stat().st_size == 0
