# SPDX-License-Identifier: Apache-2.0
"""What search_methods.py runs and prints."""

import pytest

from benchmarks.search_methods import METHODS, experiment_of, table
from experiments.controller import check_combinations
from experiments.experiment import Experiment, faults_between
from experiments.sampling import num_combinations


@pytest.mark.parametrize("method", METHODS)
def test_each_method_has_as_many_trials(method):
    experiment = Experiment.model_validate(experiment_of(method, seed=2, trials=12))
    assert not list(faults_between(experiment))
    assert num_combinations(experiment) == 12
    check_combinations(experiment, {})


def test_the_table_has_the_best_so_far_over_seeds():
    results = {"grid": [[0.5, 0.75, 0.25], [0.5, 0.5, 1.0]], "bayes": [[0.5] * 3] * 2}
    assert [line.split() for line in table(results)] == [
        ["best", "after", "1", "2", "3"],
        ["grid", "0.5000", "+-", "0.0000", "0.6250", "+-", "0.1768", "0.8750", "+-", "0.1768"],
        ["bayes", *["0.5000", "+-", "0.0000"] * 3],
    ]
