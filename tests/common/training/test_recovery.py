# SPDX-License-Identifier: Apache-2.0
"""Training whose numbers stop being finite: what is told, and how it goes back."""

import numpy as np
import pytest

from common.checkpoints import store
from common.errors import RunError
from common.training.train_step import make_train_step
from tests.reference.toy_rows import rows_of
from tests.reference.toy_session import (
    TRAIN_ROWS,
    lines_of,
    make_params,
    make_trainer,
    train,
    train_input_fn,
)


def poisoning(step, is_cured=lambda optimizer: False):
    """`make_train_step` with which a bias is not a number before a step, unless it is cured."""

    def make(model_fn, params, model, optimizer, *rest):
        train_step = make_train_step(model_fn, params, model, optimizer, *rest)

        def poisoned(features, targets):
            if int(optimizer.step) == step - 1 and not is_cured(optimizer):
                model.pooler.bias.assign(np.full(model.pooler.bias.shape, np.nan, np.float32))
            return train_step(features, targets)

        return poisoned

    return make


def test_what_is_not_finite_is_named_with_step_tensor_and_rows(tmp_path):
    params = make_params(tmp_path, max_steps=9, save_checkpoints_steps=4)
    with pytest.raises(RunError, match="the loss of step 6 is nan") as error:
        make_trainer(params, make_step=poisoning(6)).train()
    lines = str(error.value).splitlines()
    assert "classifier/bias" in lines[1]  # the nearest to the loss
    batches = train_input_fn(make_params(tmp_path), 0, 6)
    assert lines[2] == f"  rows of the step: {', '.join(map(str, batches.rows[5]))}"
    first = batches.rows[5][0]
    words = " ".join(f"word{i}" for i in rows_of(TRAIN_ROWS)[first])
    assert lines[3].startswith(f"  row {first}: {words[:60]}")
    assert store.newest_checkpoint(tmp_path) == tmp_path / "checkpoint-4"


def test_a_run_goes_back_with_a_lower_rate_and_a_resumed_one_keeps_it(tmp_path):
    def has_quarter_rate(optimizer):
        return float(optimizer.learning_rate(float(optimizer.step))) < 0.003

    values = {"recover_from_nan": 0.5, "save_checkpoints_steps": 4, "save_summary_steps": 2}
    make_step = poisoning(6, is_cured=has_quarter_rate)
    make_trainer(make_params(tmp_path, max_steps=7, **values), make_step=make_step).train()
    train(tmp_path, max_steps=8, **values)
    lines = lines_of(tmp_path, "train")
    assert [line["step"] for line in lines] == [2, 4, 6, 7, 8]
    rates = [line["train/lr"] for line in lines]
    assert rates == pytest.approx([0.01, 0.01, 0.0025, 0.0025, 0.0025])
    # A run that has gone back often enough ends, what it had is whole.
    params = make_params(tmp_path, max_steps=12, **values)
    with pytest.raises(RunError, match="3 steps back have not helped"):
        make_trainer(params, make_step=poisoning(10)).train()
    assert store.newest_checkpoint(tmp_path) == tmp_path / "checkpoint-8"
