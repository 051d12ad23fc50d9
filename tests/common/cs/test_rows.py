# SPDX-License-Identifier: Apache-2.0
"""Rows handed to the environment of the SDK: the same batches as the input pipeline's."""

import numpy as np
import pytest

from common.cs.rows import Rows, collect_rows, rows_of_zeros
from common.metrics.row_metrics import RowMetrics
from tests.reference.toy_rows import (
    MAX_SEQUENCE_LENGTH,
    TOKENIZER,
    toy_eval_batches,
    toy_tokens,
    toy_train_batches,
)

BATCH_SIZE = 5
SPLITS = {
    # More than one epoch, so that a row stands in several batches.
    "train": lambda tokens: toy_train_batches(tokens, BATCH_SIZE, 2, 9),
    "eval": lambda tokens: toy_eval_batches(tokens, BATCH_SIZE),
}


@pytest.fixture(params=SPLITS)
def batches(request):
    return SPLITS[request.param](toy_tokens(17))


def collect(batches):
    return collect_rows(batches, MAX_SEQUENCE_LENGTH, TOKENIZER.pad_id, is_padding_1=True)


def test_every_batch_is_that_of_the_input_pipeline(batches, tmp_path):
    collect(batches).write(tmp_path / "rows")
    rows = Rows.read(tmp_path / "rows")
    assert (rows.num_steps, rows.batch_size) == batches.rows.shape
    for step, (features, targets, *_) in enumerate(batches):
        batch = rows.batch(step)
        real = batches.rows[step] >= 0
        for name, expected in (
            ("input_ids", features["input_ids"]),
            ("segment_ids", features["segment_ids"]),
            ("padding_mask", 1 - features["input_mask"]),
            ("labels", targets["labels"]),
        ):
            np.testing.assert_array_equal(batch[name][real], np.asarray(expected)[real], name)
            assert batch[name].dtype == np.int32


def test_a_part_of_a_batch_is_those_rows_of_it(batches):
    rows = collect(batches)
    whole, part = rows.batch(1), rows.batch(1, slice(2, 4))
    for name, array in whole.items():
        np.testing.assert_array_equal(part[name], array[2:4])


def test_values_come_back_in_the_order_of_the_split():
    tokens = toy_tokens(17)
    rows = collect(toy_eval_batches(tokens, BATCH_SIZE))
    gathered = RowMetrics()
    for plan, batch in zip(rows.plan, map(rows.batch, range(rows.num_steps)), strict=True):
        outputs = {"lengths": batch["padding_mask"].sum(axis=1)}
        gathered.update(outputs, {"labels": batch["labels"]}, plan)
    lengths = tokens.lengths[:, 0] + 2  # [CLS], [SEP]
    np.testing.assert_array_equal(gathered.outputs["lengths"], lengths)
    np.testing.assert_array_equal(gathered.targets["labels"], tokens.targets["labels"])


def test_rows_of_zeros_have_one_token_each():
    batch = rows_of_zeros(3, 7).batch(0)
    assert batch["input_ids"].shape == (3, 7)
    np.testing.assert_array_equal(batch["padding_mask"].sum(axis=1), [1, 1, 1])
