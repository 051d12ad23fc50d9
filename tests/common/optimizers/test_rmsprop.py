# SPDX-License-Identifier: Apache-2.0
"""RMSProp against NumPy in float64 and by hand."""

import numpy as np
import pytest

from tests.reference.optimizer_steps import apply, check_against_float64, make, settings


def rmsprop_in_float64(g, slots, rate, cfg, t):
    slots["mean_square"] *= cfg.rmsprop_decay
    slots["mean_square"] += (1 - cfg.rmsprop_decay) * g**2
    slots["velocity"] *= cfg.rmsprop_momentum
    slots["velocity"] += rate * g / np.sqrt(slots["mean_square"] + cfg.epsilon)
    return slots["velocity"].copy()


@pytest.mark.parametrize("rmsprop_momentum", [0.0, 0.6])
@pytest.mark.parametrize("weight_decay_rate", [0.0, 0.3])
def test_five_steps_match_numpy_in_float64(rmsprop_momentum, weight_decay_rate):
    cfg = settings(
        optimizer_type="rmsprop",
        rmsprop_momentum=rmsprop_momentum,
        weight_decay_rate=weight_decay_rate,
    )
    check_against_float64(rmsprop_in_float64, {"mean_square": 1.0, "velocity": 0.0}, cfg)


def test_the_mean_square_begins_at_1_and_epsilon_stands_under_the_root():
    # 0.75 * 1 + 0.25 * 2^2 = 1.75; + 0.5 = 2.25, the square of 1.5: a step of 0.75 * 2 / 1.5.
    cfg = settings(optimizer_type="rmsprop", rmsprop_decay=0.75, epsilon=0.5, learning_rate=0.75)
    optimizer = make(cfg, {"x": np.zeros(1)})
    apply(optimizer, {"x": np.full(1, 2.0)})
    np.testing.assert_allclose(optimizer.weights["x"].numpy(), [-1.0], rtol=1e-6)
