# SPDX-License-Identifier: Apache-2.0
"""common/metrics/multi_label.py, against hand arithmetic and formulas written out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from common.metrics.multi_label import (
    MultiLabelMetrics,
    best_threshold,
    compare_label_sets,
    multi_label_metrics,
    multi_label_predictions,
    multi_label_report,
)
from common.metrics.probabilities import binary_cross_entropy, sigmoid

# Probabilities above one half where the logit is above 0.
LOGITS = np.array([[2.0, -1, 3], [1, 1, -2], [-1, -3, 0.5], [-2, 2, -1]])
LABELS = np.array([[1.0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 0]])
HALVES = (0.5, 0.5, 0.5)


def test_the_figures_by_hand():
    metrics = multi_label_metrics(LOGITS, LABELS, HALVES)
    # Label by label, (hits, predicted, true): (1, 2, 2), (1, 2, 1), (1, 2, 1).
    assert metrics["eval/micro_f1"] == pytest.approx(2 * 3 / (6 + 4))
    assert metrics["eval/macro_f1"] == pytest.approx((2 / 4 + 2 / 3 + 2 / 3) / 3)
    assert metrics["eval/exact_match"] == 1 / 4  # the first row
    p = 1 / (1 + np.exp(-LOGITS))
    loss = -np.mean(LABELS * np.log(p) + (1 - LABELS) * np.log(1 - p))
    assert metrics["loss"] == pytest.approx(loss, rel=1e-12)


def test_a_threshold_of_each_label_decides():
    # sigmoid(1) = 0.73, sigmoid(2) = 0.88: the second label is predicted in the last row alone.
    figures = multi_label_metrics(LOGITS, LABELS, (0.5, 0.8, 0.5))
    assert figures["eval/micro_f1"] == pytest.approx(2 * 2 / (5 + 4))


def test_a_label_that_is_neither_there_nor_predicted_has_an_f1_of_0():
    report = multi_label_report(LOGITS[:, :1] * 0 - 9, LABELS[:, 1:2] * 0, ["x"], (0.5,))
    assert report["macro_f1"] == report["micro_f1"] == 0 and report["exact_match"] == 1
    assert report["per_class"] == [
        {"label": "x", "precision": 0, "recall": 0, "f1": 0, "support": 0, "threshold": 0.5}
    ]


def test_large_logits_neither_overflow_nor_lose_the_loss():
    logits = np.array([[800.0, -800.0]], np.float32)
    assert sigmoid(logits).tolist() == [[1.0, 0.0]]
    assert binary_cross_entropy(logits, np.array([[0, 0]])).tolist() == [[800.0, 0.0]]


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [(LOGITS[:0], LABELS[:0], "no rows"), (LOGITS, LABELS - (LABELS == 0), "row 0 has no labels")],
)
def test_what_cannot_be_scored_is_refused(logits, labels, message):
    with pytest.raises(UserError, match=message):
        multi_label_metrics(logits, labels, HALVES)


def f1_at(threshold, probabilities, labels):
    hits = sum(p >= threshold and label for p, label in zip(probabilities, labels, strict=True))
    wrong = sum((p >= threshold) != label for p, label in zip(probabilities, labels, strict=True))
    return 2 * hits / (2 * hits + wrong) if hits else 0.0


rows = st.lists(st.tuples(st.integers(1, 99), st.booleans()), min_size=1, max_size=12)


@given(rows)
def test_no_other_threshold_has_a_larger_f1(pairs):
    probabilities = np.array([percent for percent, _ in pairs]) / 100
    labels = np.array([label for _, label in pairs])
    best = best_threshold(probabilities, labels)
    reached = f1_at(best, probabilities, labels)
    every = [f1_at(k / 200, probabilities, labels) for k in range(1, 200)]
    assert 0 < best < 1 and reached == pytest.approx(max(every))
    if f1_at(0.5, probabilities, labels) == max(every):
        assert best == 0.5


def test_the_nearest_of_the_best_thresholds_lies_halfway_between_two_probabilities():
    # Right above 0.2, whatever lies between: (0.2 + 0.3) / 2.
    probabilities, labels = np.array([0.1, 0.2, 0.3, 0.4]), np.array([False, False, True, True])
    assert best_threshold(probabilities, labels) == pytest.approx(0.25)
    assert best_threshold(probabilities, labels & False) == 0.5


def test_thresholds_are_fitted_to_every_row_and_better_than_a_half():
    metrics = MultiLabelMetrics(("a", "b", "c"), HALVES)
    metrics.update({"logits": LOGITS[[3, 0]]}, {"labels": LABELS[[3, 0]]}, np.array([3, 0]))
    metrics.update({"logits": LOGITS[[1, 2]]}, {"labels": LABELS[[1, 2]]}, np.array([1, 2]))
    fitted = metrics.calibrate()
    p = sigmoid(LOGITS)
    # a: all but the last row gives 4/5; b: 0.5 is as good as any; c: between 0.62 and 0.95.
    assert fitted["thresholds"] == [
        pytest.approx((p[2, 0] + p[3, 0]) / 2),
        0.5,
        pytest.approx((p[0, 2] + p[2, 2]) / 2),
    ]
    assert fitted["before"]["macro_f1"] == metrics.compute()["eval/macro_f1"]
    assert fitted["after"]["macro_f1"] == pytest.approx((4 / 5 + 2 / 3 + 1) / 3)
    assert metrics.fits == "thresholds" and fitted["num_examples"] == 4


def test_a_row_is_predicted_as_its_labels_and_the_probability_of_each():
    records = multi_label_predictions({"logits": LOGITS}, ("a", "b", "c"), HALVES, ";")
    assert [record["label"] for record in records] == ["a;c", "a;b", "c", "b"]
    assert list(records[0]) == ["label", "p_a", "p_b", "p_c"]
    assert records[0]["p_b"] == pytest.approx(1 / (1 + np.exp(1)))
    (none,) = multi_label_predictions({"logits": LOGITS[:1]}, ("a", "b", "c"), (1.0,) * 3, ";")
    assert none["label"] == ""


def test_differing_answers_are_counted_by_row():
    def of(logits):
        metrics = MultiLabelMetrics(("a", "b", "c"), HALVES)
        metrics.update({"logits": logits}, {"labels": LABELS}, np.arange(4))
        return metrics

    other = LOGITS * np.array([[1], [1], [-1], [1]])
    assert of(LOGITS).describe_difference(of(other)) == "1 of 4 rows has other labels"


def test_label_sets_are_right_as_a_whole_and_the_worst_label_says_how_wrong():
    logits = np.log([[3, 1 / 3], [3, 4], [1 / 9, 3]])  # probabilities 3/4 1/4, 3/4 4/5, 1/10 3/4
    targets = {"labels": np.array([[1, 0], [0, 0], [-1, -1]], np.float32)}
    names, thresholds = ("a", "b"), (0.5, 0.5)
    records, mistakes = compare_label_sets({"logits": logits}, targets, names, thresholds, ", ")
    assert [tuple(record.values()) for record in records] == [
        ("a", "1", "0", "0", "yes"),
        ("", "0", "0", "2", "no"),
        ("",) * 5,
    ]
    assert mistakes.tolist() == pytest.approx([0, 4 / 5, 0])
