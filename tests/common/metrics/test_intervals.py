# SPDX-License-Identifier: Apache-2.0
"""common/metrics/intervals.py: NumPy's quantiles of resampled figures, one resample at a time."""

import numpy as np
import pytest

from common.metrics import intervals
from common.metrics.intervals import (
    bootstrap_interval,
    pearson_interval,
    ratio_interval,
    summed_ratio_interval,
)


def interval_one_by_one(figure_of, num_rows):
    """The interval as the textbook draws it: a resample after the other, from the same seed."""
    random = np.random.Generator(np.random.Philox(key=[0, 0]))
    figures = [
        figure_of(random.integers(0, num_rows, num_rows)) for _ in range(intervals.NUM_RESAMPLES)
    ]
    return tuple(np.quantile(figures, [0.025, 0.975]))


def mean_interval(values):
    return ratio_interval(values, np.ones(len(values)))


def test_the_interval_of_an_accuracy_is_numpys():
    is_right = np.arange(83) % 7 > 0
    expected = interval_one_by_one(lambda rows: is_right[rows].mean(), 83)
    assert mean_interval(is_right) == pytest.approx(expected, abs=1e-15)


def test_the_interval_of_an_f1_and_of_a_difference_are_those_of_scoring_every_resample_anew():
    random = np.random.default_rng(3)
    hits, missed, extra = random.poisson((2.0, 1.0, 0.5), (47, 3)).T

    def f1(rows):
        precision = hits[rows].sum() / (hits[rows].sum() + extra[rows].sum())
        recall = hits[rows].sum() / (hits[rows].sum() + missed[rows].sum())
        return 2 * precision * recall / (precision + recall)

    expected = interval_one_by_one(f1, 47)
    f1_columns = 2 * hits, 2 * hits + missed + extra
    assert ratio_interval(*f1_columns) == pytest.approx(expected, abs=1e-12)
    share, one = random.random(47), np.ones(47)
    expected = interval_one_by_one(lambda rows: f1(rows) - share[rows].mean(), 47)
    found = ratio_interval(*f1_columns, less=(share, one))
    assert found == pytest.approx(expected, abs=1e-12)


def test_sums_alone_give_nearly_the_interval_of_resampled_rows():
    random = np.random.default_rng(4)
    masked = random.integers(1, 20, 3000)
    right = random.binomial(masked, random.beta(2, 3, 3000))  # rows that are alike in themselves
    products = (right * right).sum(), (right * masked).sum(), (masked * masked).sum()
    found = summed_ratio_interval((right.sum(), masked.sum()), products)
    lower, upper = ratio_interval(right, masked)
    assert found == pytest.approx((lower, upper), abs=0.04 * (upper - lower))  # 2,000 resamples
    # By hand: 3 of 4 rows, 0.75 +- 1.959964 * sqrt(0.75 * 0.25 / 4).
    lower, upper = summed_ratio_interval((3, 4), (3, 3, 4))
    assert (lower, upper) == pytest.approx((0.325655, 1.174345), abs=1e-6)


def test_the_interval_of_a_correlation_is_numpys():
    random = np.random.default_rng(5)
    x = random.normal(size=61)
    y = x + random.normal(size=61)
    expected = interval_one_by_one(lambda rows: np.corrcoef(x[rows], y[rows])[0, 1], 61)
    assert pearson_interval(x, y) == pytest.approx(expected, abs=1e-12)


def test_the_interval_of_many_rows_is_that_of_the_normal_distribution():
    # 900 of 1000 right: 0.9 +- 1.96 * sqrt(0.9 * 0.1 / 1000) = 0.9 +- 0.0186.
    lower, upper = mean_interval(np.arange(1000) < 900)
    assert (lower, upper) == pytest.approx((0.8814, 0.9186), abs=0.0015)


def test_draws_in_parts_are_the_same(monkeypatch):
    values = np.random.default_rng(1).normal(size=37)
    whole = mean_interval(values)
    monkeypatch.setattr(intervals, "MAX_DRAWS_AT_ONCE", 37 * 11)
    assert mean_interval(values) == whole


def test_a_figure_that_never_changes_has_no_width():
    assert mean_interval([1.0] * 5) == (1.0, 1.0)
    assert pearson_interval([1, 1, 1], [1, 2, 3]) == (0.0, 0.0)
    assert ratio_interval([0, 0], [0, 0]) == (0.0, 0.0)
    assert bootstrap_interval(lambda rows: np.zeros(len(rows)), 3) == (0.0, 0.0)
