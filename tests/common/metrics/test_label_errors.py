# SPDX-License-Identifier: Apache-2.0
"""common/metrics/label_errors.py: the rows that confident learning suspects."""

import numpy as np

from common.metrics.label_errors import suspects


def test_a_row_is_suspect_where_it_reaches_the_mean_of_another_class():
    probabilities = np.array(
        [
            [0.9, 0.1],
            [0.7, 0.3],
            [0.2, 0.8],  # labelled 0: of class 1 it has as much as class 1's mean, 0.7
            [0.4, 0.6],  # labelled 0: not as much
            [0.1, 0.9],
            [0.5, 0.5],
        ]
    )
    labels = np.array([0, 0, 0, 0, 1, 1])
    rows, classes = suspects(probabilities, labels)
    assert (rows.tolist(), classes.tolist()) == ([2], [1])
    # Class 0's mean is (0.9 + 0.7 + 0.2 + 0.4) / 4 = 0.55, so 0.6 of it would be suspect.
    probabilities[5] = 0.6, 0.4
    rows, classes = suspects(probabilities, labels)
    assert (rows.tolist(), classes.tolist()) == ([2, 5], [1, 0])


def test_the_surest_comes_first_and_an_absent_class_suggests_nothing():
    probabilities = np.array([[0.2, 0.7, 0.1], [0.05, 0.9, 0.05], [0.1, 0.3, 0.6], [0.8, 0.1, 0.1]])
    rows, classes = suspects(probabilities, np.array([0, 0, 1, 0]))
    assert rows.tolist() == [1, 0] and set(classes.tolist()) == {1}


def test_flipped_labels_are_found():
    random = np.random.default_rng(0)
    true = random.integers(0, 3, 5000)
    probabilities = random.dirichlet([0.4] * 3, 5000)
    probabilities[np.arange(5000), true] += 4
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    flipped = random.choice(5000, 100, replace=False)
    labels = true.copy()
    labels[flipped] = (true[flipped] + random.integers(1, 3, 100)) % 3
    rows, classes = suspects(probabilities, labels)
    assert np.isin(rows, flipped).mean() > 0.97 and np.isin(flipped, rows).mean() > 0.5
    assert (classes == true[rows]).mean() > 0.97
