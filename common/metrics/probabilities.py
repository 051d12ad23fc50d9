# SPDX-License-Identifier: Apache-2.0
"""Logits as probabilities and as losses, in float64."""

import numpy as np


def softmax(logits):
    """Returns probabilities, float64 [N, C], of logits, float [N, C]."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def cross_entropy(logits, labels):
    """Returns -log softmax(logits)[label], float64 [N], without ever taking the log of 0.

    logits: float [N, C]; labels: int [N] in [0, C).
    """
    logits = logits.astype(np.float64)
    largest = logits.max(axis=-1)
    log_sum_exp = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=-1))
    return log_sum_exp - logits[np.arange(len(labels)), labels]
