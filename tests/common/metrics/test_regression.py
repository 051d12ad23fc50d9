# SPDX-License-Identifier: Apache-2.0
"""common/metrics/regression.py, against hand arithmetic and the definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from common.metrics.regression import (
    compare_values,
    pearson_correlation,
    ranks,
    regression_metrics,
    regression_report,
    spearman_correlation,
)


def test_metrics_by_hand():
    # Values 1, 2, 4 against labels 1, 3, 2: means 7/3 and 2; sums of products of the differences:
    # xy = (-4/3)(-1) + (-1/3)(1) + (5/3)(0) = 1, xx = (16 + 1 + 25) / 9 = 42/9, yy = 2.
    metrics = regression_metrics(np.array([[1.0], [2], [4]]), np.array([1.0, 3, 2]))
    assert metrics["eval/pearson"] == pytest.approx(1 / math.sqrt(42 / 9 * 2))
    # Ranks 1, 2, 3 against 1, 3, 2: 1 - 6 * (0 + 1 + 1) / (3 * 8).
    assert metrics["eval/spearman"] == pytest.approx(0.5)
    assert metrics["loss"] == metrics["eval/mse"] == pytest.approx((0 + 1 + 4) / 3)


def test_the_report_has_the_same_figures():
    logits, labels = np.array([[1.0], [2], [4]], np.float32), np.array([1.0, 3, 2], np.float32)
    report = regression_report(logits, labels)
    assert report["num_examples"] == 3
    for name in ("loss", "mse", "pearson", "spearman"):
        metrics = regression_metrics(logits, labels)
        assert report[name] == metrics.get(f"eval/{name}", metrics["loss"])
        assert type(report[name]) is float


def test_equal_values_share_their_mean_rank():
    assert ranks(np.array([7, 3, 7, 1, 7])).tolist() == [4, 2, 4, 1, 4]


numbers = st.lists(st.integers(-50, 50), min_size=2, max_size=30)


@given(numbers, st.randoms(use_true_random=False))
def test_ranks_are_those_of_counting(values, random):
    random.shuffle(values)
    expected = [
        sum(other < value for other in values) + (values.count(value) + 1) / 2 for value in values
    ]
    assert ranks(np.array(values)).tolist() == expected


@given(numbers, st.data())
def test_correlations_are_numpys_and_do_not_see_scale_or_order(x, data):
    y = data.draw(st.lists(st.integers(-50, 50), min_size=len(x), max_size=len(x)))
    x, y = np.array(x, float), np.array(y, float)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert pearson_correlation(x, y) == spearman_correlation(x, y) == 0
        return
    pearson = pearson_correlation(x, y)
    assert pearson == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-12)
    assert pearson_correlation(3 * x + 7, -y) == pytest.approx(-pearson, abs=1e-12)
    # A growing function changes no rank.
    assert spearman_correlation(x**3, y) == pytest.approx(spearman_correlation(x, y), abs=1e-12)


def test_a_constant_prediction_has_no_correlation():
    metrics = regression_metrics(np.full((3, 1), 0.1, np.float32), np.array([0.1, 0.7, 0.2]))
    assert metrics["eval/pearson"] == metrics["eval/spearman"] == 0


def test_a_split_that_cannot_be_scored_is_refused():
    with pytest.raises(UserError, match="no rows"):
        regression_metrics(np.zeros((0, 1)), np.zeros(0))
    with pytest.raises(UserError, match="label nan in row 1"):
        regression_metrics(np.zeros((2, 1)), np.array([0, np.nan]))


def test_a_value_stands_beside_the_true_one_with_the_error():
    outputs = {"logits": np.array([[1.5], [2.0], [-1.0]], np.float32)}
    records, errors = compare_values(outputs, {"labels": np.array([1.0, np.nan, 1.5])})
    assert records == [
        {"value_true": 1.0, "error": 0.5},
        {"value_true": "", "error": ""},
        {"value_true": 1.5, "error": -2.5},
    ]
    assert errors.tolist() == [0.5, 0.0, 2.5]
