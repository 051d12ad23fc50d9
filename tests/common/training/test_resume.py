# SPDX-License-Identifier: Apache-2.0
"""Which changed keys a resumed run is refused for."""

import pytest

from common.errors import UserError
from common.training.resume import changes_of_meaning, refuse_changes_of_meaning


@pytest.mark.parametrize(
    "key",
    [
        "runconfig.max_steps",
        "runconfig.save_checkpoints_steps",
        "runconfig.mode",
        "train_input.data_dir",
        "eval_input.batch_size",
        "predict_input.max_sequence_length",
        "csconfig.use_cbfloat16",
        "model.recompute",
        "optimizer.log_grads",
    ],
)
def test_how_long_how_often_and_where_may_change(key):
    assert changes_of_meaning([(key, 1, 2)]) == []
    refuse_changes_of_meaning([(key, 1, 2)], "checkpoint-7", is_allowed=False)


@pytest.mark.parametrize(
    "key",
    [
        "runconfig.tf_random_seed",
        "train_input.batch_size",
        "train_input.dataset",
        "train_input.shuffle_seed",
        "eval_input.dataset",
        "model.num_heads",
        "model.dropout_rate",
        "optimizer.learning_rate",
        "params.yaml",  # which cannot be read
    ],
)
def test_what_changes_the_meaning_is_refused_with_both_values_unless_allowed(key):
    changes = [("runconfig.max_steps", 8, 9), (key, "old value", "new value")]
    with pytest.raises(UserError) as error:
        refuse_changes_of_meaning(changes, "runs/x/checkpoint-7", is_allowed=False)
    text = str(error.value)
    assert f"\n  {key} was old value, is now new value\n" in text and "max_steps" not in text
    assert "checkpoint-7" in text and "--allow_changed_params" in text
    refuse_changes_of_meaning(changes, "runs/x/checkpoint-7", is_allowed=True)
