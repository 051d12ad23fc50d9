# SPDX-License-Identifier: Apache-2.0
"""Position vectors that are computed instead of learned."""

import numpy as np

MAX_TIMESCALE = 10_000.0


def sinusoids(num_positions, size):
    """Sine and cosine of every position at several wavelengths, <float32>[P, D].

    Vaswani et al. 2017, section 3.5: column 2i is sin(p / t_i), column 2i + 1 is cos(p / t_i). The
    timescales t_i are those of tensor2tensor (get_timing_signal_1d in layers/common_attention.py)
    and of the original Cerebras model: 10000^(i / (n - 1)) for i < n = size // 2, from 1 to 10,000
    inclusive. The paper has 10000^(2i / size), which ends below 10,000; tensor2tensor puts all
    sines before all cosines, the original interleaves them as the paper does. An odd size ends with
    a column of zeros.

    num_positions: int, P; size: int, D.
    """
    n = size // 2
    timescales = MAX_TIMESCALE ** (np.arange(n) / max(n - 1, 1))  # [n]
    angles = np.arange(num_positions)[:, None] / timescales  # [P, n]
    table = np.zeros((num_positions, size))
    table[:, 0 : 2 * n : 2] = np.sin(angles)
    table[:, 1 : 2 * n : 2] = np.cos(angles)
    return table.astype(np.float32)
