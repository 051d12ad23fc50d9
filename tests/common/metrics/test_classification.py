# SPDX-License-Identifier: Apache-2.0
"""Metrics against hand arithmetic, 50-digit decimals, and loops over the definitions."""

import json
import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.metrics.classification import (
    ClassificationMetrics,
    balanced_accuracy,
    classification_metrics,
    classification_report,
    compare_classes,
    confusion_matrix,
    cross_entropy,
    matthews_correlation,
    per_class_metrics,
    softmax,
)

# 12 animals, https://en.wikipedia.org/wiki/Phi_coefficient (Example): of 8 cats (class 1) 6 are
# found, of 4 dogs (class 0) 3.
CONFUSION = np.array([[3, 1], [2, 6]])
# precision 6/7, recall 6/8, F1 2*6/(2*6+1+2) = 12/15; accuracy 9/12
# MCC (6*3 - 1*2) / sqrt((6+1)(6+2)(3+1)(3+2)) = 16 / sqrt(1120), given there as 0.478
MCC = 16 / math.sqrt(1120)


def _rows_of(confusion):
    """Predicted and true classes with these counts."""
    cells = [
        (predicted, true)
        for (true, predicted), count in np.ndenumerate(confusion)
        for _ in range(count)
    ]
    predicted, labels = np.array(cells).T
    return predicted, labels


@st.composite
def predictions(draw):
    num_classes = draw(st.integers(2, 7))
    classes = st.integers(0, num_classes - 1)
    pairs = draw(st.lists(st.tuples(classes, classes), min_size=1, max_size=43))
    predicted, labels = np.array(pairs).T
    return predicted, labels, num_classes


def test_confusion_matrix_has_true_classes_in_rows():
    predicted, labels = _rows_of(CONFUSION)
    np.testing.assert_array_equal(confusion_matrix(predicted, labels, 2), CONFUSION)


def test_published_example_of_two_classes():
    metrics = per_class_metrics(CONFUSION)
    assert metrics["precision"].tolist() == pytest.approx([3 / 5, 6 / 7])
    assert metrics["recall"].tolist() == pytest.approx([3 / 4, 6 / 8])
    assert metrics["f1"].tolist() == pytest.approx([6 / 9, 12 / 15])
    assert metrics["support"].tolist() == [4, 8]
    assert matthews_correlation(CONFUSION) == pytest.approx(MCC)
    assert round(MCC, 3) == 0.478


@settings(max_examples=100, deadline=None)
@given(predictions())
def test_per_class_metrics_equal_counting_row_by_row(drawn):
    predicted, labels, num_classes = drawn
    metrics = per_class_metrics(confusion_matrix(predicted, labels, num_classes))
    for c in range(num_classes):
        hits = sum(p == c and t == c for p, t in zip(predicted, labels, strict=True))
        claimed, true = sum(predicted == c), sum(labels == c)
        precision = hits / claimed if claimed else 0.0
        recall = hits / true if true else 0.0
        # The harmonic mean, where the implementation uses the counts.
        f1 = 2 / (1 / precision + 1 / recall) if hits else 0.0
        assert metrics["precision"][c] == pytest.approx(precision)
        assert metrics["recall"][c] == pytest.approx(recall)
        assert metrics["f1"][c] == pytest.approx(f1)
        assert metrics["support"][c] == true


@settings(max_examples=100, deadline=None)
@given(predictions())
def test_matthews_correlation_is_the_correlation_of_the_one_hot_rows(drawn):
    """Gorodkin 2004, equation 1: summed covariances of the columns, instead of counts."""
    predicted, labels, num_classes = drawn

    def covariance(one, other):
        total = 0.0
        for c in range(num_classes):
            x, y = (one == c).astype(float), (other == c).astype(float)
            total += ((x - x.mean()) * (y - y.mean())).mean()
        return total

    variances = covariance(predicted, predicted) * covariance(labels, labels)
    expected = covariance(predicted, labels) / math.sqrt(variances) if variances > 1e-12 else 0.0
    mcc = matthews_correlation(confusion_matrix(predicted, labels, num_classes))
    assert mcc == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("confusion", "expected"),
    [([[5, 0], [0, 7]], 1.0), ([[0, 5], [7, 0]], -1.0), ([[5, 0], [7, 0]], 0.0)],
)
def test_matthews_correlation_at_its_limits(confusion, expected):
    assert matthews_correlation(np.array(confusion)) == pytest.approx(expected)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3), min_size=1, max_size=11
    ),
    st.data(),
)
def test_cross_entropy_equals_decimals_of_50_digits(rows, data):
    labels = [data.draw(st.integers(0, 2)) for _ in rows]
    losses = cross_entropy(np.array(rows, np.float32), np.array(labels))
    with localcontext(prec=50):
        for row, label, loss in zip(rows, labels, losses, strict=True):
            exponentials = [Decimal(logit).exp() for logit in row]
            expected = -(exponentials[label] / sum(exponentials)).ln()
            # float64 near 2e4 is spaced 4e-12
            assert loss == pytest.approx(float(expected), rel=1e-12, abs=1e-11)


def test_cross_entropy_of_a_hopeless_row_is_its_margin_and_not_clipped():
    # exp(-20000) is far below the smallest float64, so log(softmax) would be -inf or a clipped 708.
    logits = np.array([[10_000.0, -10_000.0]], np.float32)
    assert cross_entropy(logits, np.array([1])).tolist() == [20_000.0]
    assert cross_entropy(logits, np.array([0])).tolist() == [0.0]


def test_softmax_in_float64_of_large_logits():
    probabilities = softmax(np.array([[1000.0, 1000.0 + math.log(3)]]))
    assert probabilities.dtype == np.float64
    assert probabilities[0].tolist() == pytest.approx([0.25, 0.75])


def test_metrics_of_two_classes_have_the_originals_names():
    predicted, labels = _rows_of(CONFUSION)
    logits = np.where(np.arange(2) == predicted[:, None], 1.0, 0.0).astype(np.float32)
    metrics = classification_metrics(logits, labels, 2)
    # 9 rows with the logit of their label 1 above the other, 3 with 1 below.
    loss = (9 * math.log(1 + math.exp(-1)) + 3 * math.log(1 + math.e)) / 12
    assert metrics == {
        "loss": pytest.approx(loss),
        "eval/accuracy_cls": 0.75,
        "eval/f1_score": pytest.approx(12 / 15),
        "eval/macro_f1": pytest.approx((6 / 9 + 12 / 15) / 2),
        "eval/weighted_f1": pytest.approx((4 * 6 / 9 + 8 * 12 / 15) / 12),
        "eval/balanced_accuracy": pytest.approx((3 / 4 + 6 / 8) / 2),
        "eval/mcc": pytest.approx(MCC),
    }


def test_metrics_of_three_classes_by_hand():
    # True classes of 6, 6 and 4 rows, predicted ones of 7, 4 and 5; 12 of 16 are right.
    confusion = np.array([[5, 1, 0], [2, 3, 1], [0, 0, 4]])
    predicted, labels = _rows_of(confusion)
    metrics = classification_metrics(np.eye(3, dtype=np.float32)[predicted], labels, 3)
    f1 = 2 * 5 / (6 + 7), 2 * 3 / (6 + 4), 2 * 4 / (4 + 5)
    covariance = 12 * 16 - (6 * 7 + 6 * 4 + 4 * 5)
    variances = (16**2 - (7**2 + 4**2 + 5**2)) * (16**2 - (6**2 + 6**2 + 4**2))
    del metrics["loss"]
    assert metrics == {
        "eval/accuracy_cls": 12 / 16,
        "eval/macro_f1": pytest.approx(sum(f1) / 3),
        "eval/weighted_f1": pytest.approx((6 * f1[0] + 6 * f1[1] + 4 * f1[2]) / 16),
        "eval/balanced_accuracy": pytest.approx((5 / 6 + 3 / 6 + 4 / 4) / 3),
        "eval/mcc": pytest.approx(covariance / math.sqrt(variances)),
    }


def test_a_class_that_does_not_occur_has_no_part_in_the_balanced_accuracy():
    assert balanced_accuracy(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])) == (3 / 4 + 1) / 2


@pytest.mark.parametrize("num_classes", [2, 3])
def test_every_figure_is_named_before_an_evaluation(num_classes):
    metrics = ClassificationMetrics((), num_classes)
    metrics.update({"logits": np.eye(num_classes)[:2]}, {"labels": np.arange(2)}, np.arange(2))
    assert set(metrics.names) == set(metrics.compute())


def test_report_agrees_with_the_metrics_and_survives_json():
    predicted, labels = _rows_of(CONFUSION)
    logits = np.where(np.arange(2) == predicted[:, None], 1.5, -0.5).astype(np.float32)
    report = classification_report(logits, labels, ("dog", "cat"))
    assert json.loads(json.dumps(report)) == report
    metrics = classification_metrics(logits, labels, 2)
    assert report["num_examples"] == 12
    assert report["accuracy"] == metrics["eval/accuracy_cls"]
    assert report["loss"] == metrics["loss"]
    assert report["mcc"] == metrics["eval/mcc"]
    assert report["macro_f1"] == pytest.approx((6 / 9 + 12 / 15) / 2)
    assert report["confusion"] == CONFUSION.tolist()
    assert report["per_class"][1] == {
        "label": "cat",
        "precision": pytest.approx(6 / 7),
        "recall": 0.75,
        "f1": pytest.approx(0.8),
        "support": 8,
    }


def test_a_class_without_rows_scores_0_and_keeps_its_place():
    report = classification_report(np.eye(3)[[0, 1]], np.array([0, 1]), ("a", "b", "c"))
    assert report["per_class"][2] == {
        "label": "c",
        "precision": 0.0,
        "recall": 0.0,
        "f1": 0.0,
        "support": 0,
    }


def test_labels_of_8_bits_do_not_overflow():
    labels = np.arange(101, dtype=np.int8)
    confusion = confusion_matrix(labels.astype(np.int64), labels, 101)
    np.testing.assert_array_equal(confusion, np.eye(101))


@pytest.mark.parametrize("label", [-1, 2])
def test_label_outside_the_classes_is_refused_with_its_row(label):
    with pytest.raises(UserError, match=rf"label {label} in row 1 is outside \[0, 2\)"):
        classification_metrics(np.eye(2), np.array([0, label]), 2)


def test_empty_split_is_refused():
    with pytest.raises(UserError, match="no rows"):
        classification_metrics(np.zeros((0, 2)), np.zeros(0, int), 2)


def test_label_names_must_be_as_many_as_the_logits():
    with pytest.raises(ValueError, match="3 label_names for 2 classes"):
        classification_report(np.eye(2), np.array([0, 1]), ("a", "b", "c"))


def test_a_wrong_answer_counts_with_its_probability_and_one_without_a_truth_not_at_all():
    logits = np.log([[1, 3], [3, 1], [1, 4], [4, 1]])
    outputs, targets = {"logits": logits}, {"labels": np.array([1, 1, -1, 1], np.int32)}
    records, mistakes = compare_classes(outputs, targets, ("no", "yes"))
    assert [tuple(record.values()) for record in records] == [
        ("yes", "yes"),
        ("yes", "no"),
        ("", ""),
        ("yes", "no"),
    ]
    assert mistakes.tolist() == pytest.approx([0, 3 / 4, 0, 4 / 5])
