# SPDX-License-Identifier: Apache-2.0
"""Logits as probabilities and as losses, in float64."""

import numpy as np


def softmax(logits):
    """Returns probabilities, float64 [N, C], of logits, float [N, C]."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def sigmoid(logits):
    """Returns 1 / (1 + exp(-logits)), float64 of the same shape, without overflow."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(logits, np.float64)))


def binary_cross_entropy(logits, labels):
    """Returns -log of the sigmoid's probability of each label, or of its absence, float64 [N, C].

    logits: float [N, C]; labels: [N, C], 1 or 0.
    """
    logits = np.asarray(logits, np.float64)
    return np.logaddexp(0.0, logits) - logits * labels


def cross_entropy(logits, labels):
    """Returns -log softmax(logits)[label], float64 [N], without ever taking the log of 0.

    logits: float [N, C]; labels: int [N] in [0, C).
    """
    logits = logits.astype(np.float64)
    largest = logits.max(axis=-1)
    log_sum_exp = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=-1))
    return log_sum_exp - logits[np.arange(len(labels)), labels]
