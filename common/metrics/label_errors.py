# SPDX-License-Identifier: Apache-2.0
"""Rows whose label is probably wrong, as the network sees it.

Northcutt et al. 2021, "Confident Learning" (JAIR 70), section 3: a row counts as of class j where
its probability of j is at least the mean of those rows that are labelled j; where several classes
reach theirs, as of the likeliest. A row that counts as of another class than its label is suspect.
The rows must not have been trained on. NumPy alone.
"""

import numpy as np


def suspects(probabilities, labels):
    """Finds the rows whose label is probably wrong.

    Args:
        probabilities: float [N, C]. labels: int [N] in [0, C).
    Returns:
        rows: int [S], the surest first: by the probability of the other class less that of the
            label. classes: int [S], the other class of each.
    """
    num_classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=num_classes)
    own = probabilities[np.arange(len(labels)), labels]
    sums = np.bincount(labels, own, num_classes)
    thresholds = np.divide(sums, counts, np.full(num_classes, np.inf), where=counts > 0)
    reached = np.where(probabilities >= thresholds, probabilities, -1.0)
    classes = reached.argmax(axis=1)
    is_suspect = (reached.max(axis=1) >= 0) & (classes != labels)
    rows = np.flatnonzero(is_suspect)
    margin = probabilities[rows, classes[rows]] - own[rows]
    rows = rows[np.argsort(-margin, kind="stable")]
    return rows, classes[rows]
