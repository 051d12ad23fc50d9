# SPDX-License-Identifier: Apache-2.0
"""Temperature and calibration error against their definitions and against hand arithmetic."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.metrics.calibration import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    expected_calibration_error,
    fit_temperature,
    reliability,
)


def mean_negative_log_likelihood(logits, labels, temperature):
    """By its definition, float64."""
    z = np.asarray(logits, np.float64) / temperature
    probabilities = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    return -np.mean(np.log(probabilities[np.arange(len(labels)), labels]))


def test_a_temperature_by_hand():
    # Logits (log 9, 0) say 9 to 1; three of four are right, so 3 to 1 is likeliest:
    # log(9) / T = log(3), T = 2.
    logits = np.tile([np.log(9), 0.0], (4, 1))
    assert fit_temperature(logits, np.array([0, 0, 0, 1])) == pytest.approx(2.0, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), num_classes=st.integers(2, 5), scale=st.floats(0.2, 5))
def test_no_other_temperature_is_likelier(seed, num_classes, scale):
    generator = np.random.default_rng(seed)
    true_logits = generator.normal(0, 1.5, (97, num_classes))
    gumbel = generator.gumbel(size=true_logits.shape)
    labels = (true_logits + gumbel).argmax(axis=1)  # drawn from softmax(true_logits)
    logits = (scale * true_logits).astype(np.float32)
    fitted = fit_temperature(logits, labels)
    assert MIN_TEMPERATURE < fitted < MAX_TEMPERATURE
    best = mean_negative_log_likelihood(logits, labels, fitted)
    for factor in (0.5, 0.9, 0.999, 1.001, 1.1, 2):
        assert mean_negative_log_likelihood(logits, labels, fitted * factor) > best


def test_the_temperature_of_logits_that_were_scaled_is_their_scale():
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (50_000, 3))
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    # 50,000 rows leave an uncertainty of about 1 %.
    assert fit_temperature(3 * logits, labels) == pytest.approx(3, rel=0.03)


def test_a_temperature_stays_finite_where_every_row_is_right_or_none():
    logits = np.array([[3.0, 0.0], [0.0, 2.0]])
    assert fit_temperature(logits, np.array([0, 1])) == MIN_TEMPERATURE
    assert fit_temperature(logits, np.array([1, 0])) == MAX_TEMPERATURE


def test_calibration_error_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.05, 0.95], [0.58, 0.42], [0.6, 0.4], [0.45, 0.55]])
    labels = np.array([0, 0, 0, 1, 1])
    # Bins of 1/15: (13/15, 14/15] = (0.867, 0.933] has 0.9, right; (0.933, 1] 0.95, wrong;
    # (8/15, 9/15] = (0.533, 0.6] has 0.58 right, 0.6 wrong and 0.55 right.
    expected = (abs(0.9 - 1) + abs(0.95 - 0) + abs(0.58 + 0.6 + 0.55 - 2)) / 5
    assert expected_calibration_error(probabilities, labels) == pytest.approx(expected, abs=1e-12)


def test_calibration_error_is_0_for_what_is_as_right_as_it_says():
    probabilities = np.tile([0.75, 0.25], (4, 1))
    assert expected_calibration_error(probabilities, np.array([0, 0, 1, 0])) == 0.0
    certain = np.eye(2)[[0, 1, 1]]
    assert expected_calibration_error(certain, np.array([0, 1, 1])) == 0.0
    assert expected_calibration_error(certain, np.array([1, 0, 0])) == 1.0


def test_the_bins_of_reliability_have_their_rows():
    probabilities = np.array([[0.95, 0.05], [0.9, 0.1], [0.4, 0.6], [0.35, 0.65]])
    labels = np.array([0, 1, 1, 1])
    counts, confidence, accuracy = reliability(probabilities, labels, num_bins=5)
    assert counts.tolist() == [0, 0, 1, 1, 2]  # 0.6 is in (0.4, 0.6]
    assert confidence == pytest.approx([0, 0, 0.6, 0.65, 0.925])
    assert accuracy.tolist() == [0, 0, 1, 1, 0.5]
    error = (counts * np.abs(confidence - accuracy)).sum() / 4
    assert expected_calibration_error(probabilities, labels, 5) == pytest.approx(error)
