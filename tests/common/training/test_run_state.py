# SPDX-License-Identifier: Apache-2.0
"""What a run remembers comes back from a checkpoint, and tells the best evaluation."""

import numpy as np
import pytest

from common.checkpoints.formats import ours
from common.errors import UserError
from common.training.run_state import BestMetric, RunState


@pytest.mark.parametrize("losses", [[], [0.5], [float(np.float32(x)) for x in (0.1, 0.7, 1e-30)]])
def test_it_comes_back_from_a_checkpoint(tmp_path, losses):
    state = RunState(12, 8, 0.1 + 0.2, 3, 1, losses)
    path = ours.save_checkpoint(tmp_path, 12, {}, state.to_arrays(), {}, [])
    assert RunState.from_tensors(ours.read_state(path)) == state


def test_a_checkpoint_that_does_not_know_of_it_is_as_at_the_start():
    assert RunState.from_tensors({}) == RunState()


def evaluate(values, metric):
    """Steps 1, 2, ... measured these values. Returns the state and which were the best so far."""
    state = RunState()
    return state, [state.count_evaluation(n, v, metric) for n, v in enumerate(values, start=1)]


def test_the_best_is_the_largest_or_for_a_loss_the_smallest_and_the_first_of_equals():
    values = [0.5, 0.7, 0.7, 0.6, 0.9, 0.1]
    state, is_best = evaluate(values, BestMetric("eval/accuracy_cls"))
    assert is_best == [True, True, False, False, True, False]
    assert (state.best_step, state.best_value, state.num_without_better) == (5, 0.9, 1)
    state, is_best = evaluate(values, BestMetric("eval/loss"))
    assert is_best == [True, False, False, False, False, True]
    assert (state.best_step, state.best_value, state.num_without_better) == (6, 0.1, 0)
    assert evaluate(values, BestMetric("loss", "max"))[0].best_value == 0.9
    assert evaluate(values, BestMetric("eval/mcc", "min"))[0].best_value == 0.1


def test_a_figure_that_is_not_finite_is_never_the_best():
    state, is_best = evaluate([np.nan, -np.inf, 0.5, np.inf], BestMetric("eval/mcc"))
    assert is_best == [False, False, True, False] and state.best_value == 0.5
    assert state.num_without_better == 1 and state.evaluated_step == 4


def test_without_a_metric_evaluations_are_counted_alone():
    state = RunState()
    assert not state.count_evaluation(4)
    assert state == RunState(evaluated_step=4)


def test_a_metric_is_found_by_its_name_with_and_without_eval():
    metrics = {"loss": 0.25, "eval/accuracy_cls": 0.75}
    for name in ("loss", "eval/loss"):
        assert BestMetric(name).value_in(metrics) == 0.25
    for name in ("accuracy_cls", "eval/accuracy_cls"):
        assert BestMetric(name).value_in(metrics) == 0.75
    with pytest.raises(UserError, match=r"best_metric is 'eval/f1'.*eval/accuracy_cls, loss"):
        BestMetric("eval/f1").value_in(metrics)
