# SPDX-License-Identifier: Apache-2.0
"""How far probabilities can be believed, and one number that makes them more believable.

Guo et al. 2017, "On Calibration of Modern Neural Networks".
"""

import numpy as np

from common.metrics.probabilities import cross_entropy, softmax

# Where every row is classified rightly, the likelihood rises without end as T falls to 0.
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0


def fit_temperature(logits, labels):
    """Returns the T that minimises the mean of -log softmax(logits / T)[label]. Section 4.2.

    That mean is convex in 1 / T, so its slope is searched for its zero, by halving, to the last bit
    of a float64: the same numbers on every machine, and no rate or number of steps to choose.

    logits: float [N, C]; labels: int [N] in [0, C). Returns float in [MIN_TEMPERATURE,
    MAX_TEMPERATURE].
    """
    logits = np.asarray(logits, np.float64)
    of_label = logits[np.arange(len(labels)), labels].mean()

    def slope(inverse):
        """Derivative by 1 / T: the mean logit that is expected, less the mean that occurs."""
        return (softmax(logits * inverse) * logits).sum(axis=-1).mean() - of_label

    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    if slope(low) >= 0:
        return MAX_TEMPERATURE
    if slope(high) <= 0:
        return MIN_TEMPERATURE
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return float(1 / low)


def expected_calibration_error(probabilities, labels, num_bins=15):
    """Returns the mean distance between confidence and accuracy, float in [0, 1]. Section 2, eq. 3.

    Rows are put into bins of equal width by their confidence, the probability of the likeliest
    class; a bin counts by its rows.

    probabilities: float [N, C]; labels: int [N] in [0, C); num_bins: int, 15 as in the paper.
    """
    confidence = probabilities.max(axis=-1)
    is_right = probabilities.argmax(axis=-1) == labels
    excess = np.bincount(_bins(confidence, num_bins), confidence - is_right, num_bins)
    return float(np.abs(excess).sum() / len(labels))


def reliability(probabilities, labels, num_bins=15):
    """Returns of each bin of `expected_calibration_error` how many rows it has, int64 [num_bins],
    their mean confidence and their accuracy, float64 [num_bins]; 0 in an empty one."""
    confidence = probabilities.max(axis=-1)
    is_right = probabilities.argmax(axis=-1) == labels
    bins = _bins(confidence, num_bins)
    counts = np.bincount(bins, minlength=num_bins)
    means = (np.bincount(bins, each, num_bins) for each in (confidence, is_right))
    return counts, *(mean / np.maximum(counts, 1) for mean in means)


def _bins(confidence, num_bins):
    """Bin m holds ((m - 1) / num_bins, m / num_bins], as in the paper."""
    return np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)


def calibrate(logits, labels):
    """Returns the temperature that `fit_temperature` finds, and what it changes.

    logits: float [N, C]; labels: int [N] in [0, C). Returns {"temperature": float,
    "num_examples": N, "before": figures, "after": figures}; figures are
    {"expected_calibration_error": float, "loss": mean cross entropy}.
    """
    temperature = fit_temperature(logits, labels)
    result = {"temperature": temperature, "num_examples": len(labels)}
    for when, z in (("before", logits), ("after", logits / temperature)):
        result[when] = {
            "expected_calibration_error": expected_calibration_error(softmax(z), labels),
            "loss": float(cross_entropy(z, labels).mean()),
        }
    return result
