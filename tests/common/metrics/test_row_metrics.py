# SPDX-License-Identifier: Apache-2.0
"""Figures of rows do not depend on the batches, the streams or the workers that computed them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.metrics.classification import ClassificationMetrics, classification_metrics
from common.metrics.regression import RegressionMetrics
from common.metrics.row_metrics import figures_of, names_of_figures

LABELS = ("no", "maybe", "yes")


def random_rows(num_rows, seed=0):
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(num_rows, 3)).astype(np.float32)
    return logits, generator.integers(0, 3, num_rows)


def metrics_of(logits, labels, order, batch_size):
    """ClassificationMetrics of the rows in some order, in batches whose last is filled up."""
    metrics = ClassificationMetrics(LABELS, 3)
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        rows = np.concatenate([rows, np.full(batch_size - len(rows), -1)])
        filled = np.maximum(rows, 0)
        metrics.update({"logits": logits[filled]}, {"labels": labels[filled]}, rows)
    return metrics


@settings(max_examples=30, deadline=None)
@given(num_rows=st.integers(1, 17), batch_size=st.integers(1, 7), seed=st.integers(0, 99))
def test_batches_in_any_order_give_the_figures_of_all_rows_at_once(num_rows, batch_size, seed):
    logits, labels = random_rows(num_rows, seed)
    order = np.random.default_rng(seed).permutation(num_rows)
    metrics = metrics_of(logits, labels, order, batch_size)
    assert len(metrics) == num_rows
    assert metrics.compute() == classification_metrics(logits, labels, 3)  # to the last bit
    np.testing.assert_array_equal(metrics.outputs["logits"], logits)


def test_splits_are_scored_together_and_each_by_itself():
    first, second = random_rows(5, 1), random_rows(4, 2)
    scores = {
        "validation_matched": metrics_of(*first, np.arange(5), 2),
        "validation_mismatched": metrics_of(*second, np.arange(4), 3),
    }
    figures = figures_of(ClassificationMetrics(LABELS, 3), scores)
    together = [np.concatenate(parts) for parts in zip(first, second, strict=True)]
    assert figures["loss"] == classification_metrics(*together, 3)["loss"]
    for name, (logits, labels) in (("matched", first), ("mismatched", second)):
        assert figures[f"eval/accuracy_{name}"] == np.mean(logits.argmax(axis=1) == labels)
    assert list(figures) == names_of_figures(ClassificationMetrics(LABELS, 3), scores)
    one = {"validation": metrics_of(*first, np.arange(5), 2)}
    assert "eval/accuracy_validation" not in figures_of(ClassificationMetrics(LABELS, 3), one)


@pytest.mark.parametrize(
    ("metrics", "logits", "labels"),
    [
        (ClassificationMetrics(("no", "yes"), 2), np.eye(2), np.array([0, 1])),
        (ClassificationMetrics(LABELS, 3), np.eye(3), np.array([0, 1, 1])),
        (RegressionMetrics(), np.array([[1.0], [2.0]]), np.array([1.5, 2.0])),
    ],
)
def test_the_names_that_are_told_before_are_those_of_the_figures(metrics, logits, labels):
    metrics.update({"logits": logits}, {"labels": labels}, np.arange(len(labels)))
    assert tuple(metrics.compute()) == metrics.names and metrics.main in metrics.names


def test_a_classification_describes_its_accuracy_with_the_count():
    logits, labels = np.eye(3), np.array([0, 1, 1])
    metrics = ClassificationMetrics(LABELS, 3)
    metrics.update({"logits": logits}, {"labels": labels}, np.arange(3))
    lines = metrics.describe(metrics.compute())
    assert lines[0] == ("Accuracy", "0.6667 (2 of 3)")
    means = ["macro_f1", "weighted_f1", "balanced_accuracy", "mcc"]
    assert [name for name, _ in lines] == ["Accuracy", "loss", *means]
    other = ClassificationMetrics(LABELS, 3)
    other.update({"logits": logits[[0, 1, 1]]}, {"labels": labels}, np.arange(3))
    assert metrics.describe_difference(other) == "1 of 3 rows has another label"


def test_a_regression_describes_its_figures_alone():
    metrics = RegressionMetrics()
    metrics.update({"logits": np.array([[1.0], [2.0]])}, {"labels": np.array([1.5, 2.5])}, [0, 1])
    lines = dict(metrics.describe({"loss": 0.25, "eval/mse": 0.25}))
    assert lines == {"loss": "0.2500", "mse": "0.2500"}
