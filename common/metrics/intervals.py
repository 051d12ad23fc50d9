# SPDX-License-Identifier: Apache-2.0
"""How far a figure would be off on other rows of the same kind: bootstrap intervals.

Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile interval). NumPy
alone. The draws are those of one seed, so the same rows give the same interval.
"""

import math
import statistics

import numpy as np

NUM_RESAMPLES = 2000
LEVEL = 0.95
MAX_DRAWS_AT_ONCE = 4_000_000  # numbers of rows in memory


def bootstrap_interval(statistic, num_rows, num_resamples=NUM_RESAMPLES, level=LEVEL):
    """Returns (lower, upper): the middle `level` of a statistic over resampled rows, floats.

    Args:
        statistic: int [B, N], the rows of B resamples -> float [B].
        num_rows: int, N; each resample draws so many with replacement.
    """
    random = np.random.Generator(np.random.Philox(key=[0, 0]))
    at_once, values = max(1, MAX_DRAWS_AT_ONCE // num_rows), []
    for start in range(0, num_resamples, at_once):
        count = min(at_once, num_resamples - start)
        values.append(statistic(random.integers(0, num_rows, (count, num_rows))))
    tail = (1 - level) / 2
    lower, upper = np.quantile(np.concatenate(values), [tail, 1 - tail])
    return float(lower), float(upper)


def ratio_interval(numerators, denominators, less=None):
    """Returns the `bootstrap_interval` of the quotient of two sums, such as an F1 or a mean.

    Args:
        numerators, denominators: float or bool [N], of each row. Quotients by 0 are 0.
        less: a second (numerators, denominators) of the same rows, whose quotient is taken off
            that of the first; None: nothing is.
    """
    pairs = [(numerators, denominators), *([] if less is None else [less])]
    pairs = [[np.asarray(values, np.float64) for values in pair] for pair in pairs]

    def quotients(rows, numerators, denominators):
        top, bottom = numerators[rows].sum(axis=1), denominators[rows].sum(axis=1)
        return np.divide(top, bottom, np.zeros(len(rows)), where=bottom != 0)

    def statistic(rows):
        ours, *theirs = (quotients(rows, *pair) for pair in pairs)
        return ours - sum(theirs)

    return bootstrap_interval(statistic, len(pairs[0][0]))


def summed_ratio_interval(sums, products, level=LEVEL):
    """Returns (lower, upper) of a quotient of two sums, where the rows are not kept.

    The normal interval with the variance of resampled rows by the delta method (Efron and
    Tibshirani 1993, section 21.5), which needs sums alone.

    Args:
        sums: of numerators r and denominators m over the rows, two floats; m is above 0.
        products: sums of r * r, r * m and m * m, three floats.
    """
    (top, bottom), (squares, both, of_bottom) = sums, products
    ratio = top / bottom
    residual = max(squares - 2 * ratio * both + ratio**2 * of_bottom, 0.0)  # of (r - ratio * m)^2
    half = statistics.NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(residual) / bottom
    return float(ratio - half), float(ratio + half)


def pearson_interval(x, y):
    """Returns the `bootstrap_interval` of Pearson's correlation of two float [N]."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)

    def correlations(rows):
        a, b = x[rows], y[rows]
        a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
        size = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
        return np.divide((a * b).sum(axis=1), size, np.zeros(len(rows)), where=size > 0)

    return bootstrap_interval(correlations, len(x))
