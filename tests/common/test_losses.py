# SPDX-License-Identifier: Apache-2.0
"""The losses and gradients against the papers' formulas in NumPy float64."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from common.losses import ClassificationLoss, MaskedLmLoss, RegressionLoss, balanced_weights, r_drop
from tests.reference.bert_numpy import cross_entropy, softmax

LOGITS = np.random.default_rng(0).normal(0, 2, (7, 5)).astype(np.float32)  # [B, C]
LABELS = np.array([0, 1, 2, 3, 4, 0, 2], np.int32)
WEIGHTS = [0.5, 1.0, 2.0, 3.0, 5.0]


def reference(logits, labels, weights=None, smoothing=0.0, gamma=0.0):
    """Mean loss, row by row, in float64."""
    logits, total = np.asarray(logits, np.float64), 0.0
    for row, label in zip(logits, labels, strict=True):
        p, num_classes = softmax(row), len(row)
        target = [(1 - smoothing) * (c == label) + smoothing / num_classes for c in range(len(row))]
        loss = -sum(y * (1 - q) ** gamma * np.log(q) for y, q in zip(target, p, strict=True))
        total += loss * (1.0 if weights is None else weights[label])
    return total / len(labels)


VARIANTS = [
    {},
    {"weights": WEIGHTS},
    {"smoothing": 0.1},
    {"gamma": 2.0},
    {"gamma": 0.5},
    {"weights": WEIGHTS, "smoothing": 0.2, "gamma": 1.5},
]


def make(weights=None, smoothing=0.0, gamma=0.0):
    return ClassificationLoss(5, weights, smoothing, gamma)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_loss_and_gradient_match_the_formula_in_float64(variant):
    logits, loss_of = tf.constant(LOGITS), make(**variant)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = loss_of(logits, LABELS)
    assert loss.dtype == tf.float32 and loss.shape == ()
    assert float(loss) == pytest.approx(reference(LOGITS, LABELS, **variant), rel=1e-6)
    gradient = np.asarray(tape.gradient(loss, logits))
    step = 1e-5  # the error of a central difference in float64 is then about 1e-10
    for index in np.ndindex(LOGITS.shape):
        change = np.zeros(LOGITS.shape)
        change[index] = step
        ahead, behind = (reference(LOGITS + d, LABELS, **variant) for d in (change, -change))
        assert gradient[index] == pytest.approx((ahead - behind) / (2 * step), abs=1e-6)


def test_the_plain_loss_is_the_cross_entropy_and_every_variant_differs():
    assert reference(LOGITS, LABELS) == pytest.approx(cross_entropy(LOGITS, LABELS))
    losses = [float(make(**variant)(LOGITS, LABELS)) for variant in VARIANTS]
    assert len({round(loss, 4) for loss in losses}) == len(VARIANTS)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradient_are_finite_where_the_network_is_certain(gamma, smoothing):
    logits = tf.constant([[80.0, -80.0], [-80.0, 80.0]])  # right and wrong
    loss_of = ClassificationLoss(2, None, smoothing, gamma)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = loss_of(logits, np.array([0, 0]))
    assert np.isfinite(loss)
    assert np.isfinite(tape.gradient(loss, logits)).all()


def test_focal_loss_at_half_a_probability():
    # p = 1/2: (1 - 1/2)^2 * log 2
    loss = ClassificationLoss(2, focal_gamma=2.0)(np.zeros((1, 2), np.float32), np.array([1]))
    assert float(loss) == pytest.approx(0.25 * np.log(2), rel=1e-6)


def test_the_mean_loss_of_two_halves_is_the_loss_of_the_whole_batch():
    loss_of = make(weights=WEIGHTS, gamma=2.0, smoothing=0.1)
    halves = [float(loss_of(LOGITS[i : i + 3], LABELS[i : i + 3])) for i in (0, 3)]
    assert np.mean(halves) == pytest.approx(float(loss_of(LOGITS[:6], LABELS[:6])), rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(labels=st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_balanced_weights_make_all_occurring_labels_count_the_same(labels):
    weights = balanced_weights(np.array(labels), 5)
    counts = np.bincount(labels, minlength=5)
    shares = weights * counts
    np.testing.assert_allclose(shares[counts > 0], len(labels) / np.count_nonzero(counts))
    assert weights[labels].mean() == pytest.approx(1.0)
    assert (weights[counts == 0] == 0).all()


def test_balanced_weights_by_hand():
    # 6 rows, 3 classes: 6 / (3 * 3), 6 / (3 * 2), 6 / (3 * 1)
    np.testing.assert_allclose(balanced_weights(np.array([0, 0, 0, 1, 1, 2]), 3), [2 / 3, 1, 2])


def test_auto_weights_are_1_until_the_labels_are_counted_in_a_traced_step_too():
    loss_of = ClassificationLoss(5, "auto")
    traced = tf.function(lambda: loss_of(tf.constant(LOGITS), LABELS))
    assert float(traced()) == pytest.approx(reference(LOGITS, LABELS), rel=1e-6)
    labels = np.array([0] * 8 + [1, 2, 3, 4])
    np.testing.assert_allclose(loss_of.balance(labels), [0.3, 2.4, 2.4, 2.4, 2.4])  # 12 / (5 * n)
    weights = balanced_weights(labels, 5)
    assert float(traced()) == pytest.approx(reference(LOGITS, LABELS, weights), rel=1e-6)


def test_weights_from_the_params_stay_when_the_labels_are_counted():
    np.testing.assert_allclose(ClassificationLoss(5, WEIGHTS).balance(LABELS), WEIGHTS)
    assert ClassificationLoss(5).balance(LABELS) is None


def test_one_output_is_a_regression_with_the_mean_squared_error():
    loss_of = RegressionLoss()
    logits, labels = np.array([[1.5], [-2.0], [0.0]], np.float32), np.array([1.0, 1.0, 5.0])
    # (0.25 + 9 + 25) / 3
    assert float(loss_of(logits, labels)) == pytest.approx(34.25 / 3, rel=1e-6)


# ---- R-Drop --------------------------------------------------------------------------------------


def test_r_drop_is_the_formula_of_the_paper_in_float64():
    first, second = LOGITS, LOGITS[::-1] * 0.5
    apart = 0.0
    for one, other in zip(first.astype(np.float64), second.astype(np.float64), strict=True):
        p, q = softmax(one), softmax(other)
        apart += (np.sum(p * np.log(p / q)) + np.sum(q * np.log(q / p))) / 2
    losses = reference(first, LABELS, WEIGHTS) + reference(second, LABELS, WEIGHTS)
    expected = (losses + 3.0 * apart / len(LABELS)) / 2  # equation 4 with alpha 3, halved
    actual = r_drop(make(WEIGHTS), np.stack([first, second], axis=1), LABELS, 3.0)
    assert float(actual) == pytest.approx(expected, rel=1e-6)


def test_r_drop_by_hand():
    # p = (1/2, 1/2), q = (3/4, 1/4): sum (p - q)(log p - log q) / 2 = log(3) / 8
    logits = np.log([[[0.5, 0.5], [0.75, 0.25]]]).astype(np.float32)
    loss = r_drop(ClassificationLoss(2), logits, np.array([0]), 2.0)
    expected = (np.log(2) + np.log(4 / 3)) / 2 + np.log(3) / 8
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_r_drop_of_a_regression_is_the_squared_difference():
    logits = np.array([[[1.0], [3.0]], [[0.0], [0.0]]], np.float32)
    # squares of the errors (0 + 4) / 2 and (1 + 1) / 2, of the difference (4 + 0) / 2
    loss = r_drop(RegressionLoss(), logits, np.array([1.0, 1.0]), 0.5)
    assert float(loss) == pytest.approx((2 + 1) / 2 + 0.25 * 2, rel=1e-6)


def test_r_drop_of_two_equal_passes_is_the_loss_of_one():
    logits = np.stack([LOGITS, LOGITS], axis=1)
    loss = r_drop(make(), logits, LABELS, 5.0)
    assert float(loss) == pytest.approx(reference(LOGITS, LABELS), rel=1e-6)


def test_thousands_of_masked_words_of_a_batch_are_counted_exactly():
    """Defect P9: the original sums the weights in float16, which has no odd number above 2,048."""
    rows, words = 41, 101  # 4,141 masked words
    losses, weights = np.full((rows, words), 2.0, np.float32), np.ones((rows, words), np.float32)
    weights[0, 0] = 0
    assert float(MaskedLmLoss()(losses, weights)) == 2.0
    of_rows = float(MaskedLmLoss("batch_size")(losses, weights))
    assert of_rows == pytest.approx(2 * 4140 / 41, rel=1e-6)
    assert float(np.float16(4139)) == 4140.0  # what it is about
