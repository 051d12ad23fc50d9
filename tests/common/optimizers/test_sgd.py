# SPDX-License-Identifier: Apache-2.0
"""Gradient descent, plain and with momentum, against NumPy in float64 and by hand."""

import numpy as np
import pytest

from common.optimizers.sgd import Momentum
from tests.reference.optimizer_steps import apply, check_against_float64, make, settings


def sgd_in_float64(g, slots, rate, cfg, t):
    return rate * g


def momentum_in_float64(g, slots, rate, cfg, t):
    slots["velocity"] = cfg.momentum * slots["velocity"] + g
    return rate * slots["velocity"]


@pytest.mark.parametrize("weight_decay_rate", [0.0, 0.3])
def test_five_steps_of_sgd_match_numpy_in_float64(weight_decay_rate):
    cfg = settings(optimizer_type="sgd", weight_decay_rate=weight_decay_rate)
    check_against_float64(sgd_in_float64, {}, cfg)


@pytest.mark.parametrize("max_gradient_norm", [None, 2.0])
def test_five_steps_of_momentum_match_numpy_in_float64(max_gradient_norm):
    cfg = settings(optimizer_type="momentum", max_gradient_norm=max_gradient_norm)
    check_against_float64(momentum_in_float64, {"velocity": 0.0}, cfg)


def test_a_change_of_the_rate_takes_effect_on_the_whole_velocity():
    # Gradients of 1: velocity 1, then 1.5; steps 0.5 * 1 and 0.25 * 1.5, not 0.5 * 0.5 + 0.25.
    constant = {"scheduler": "Constant", "steps": 1}
    rate = [constant | {"learning_rate": rate} for rate in (0.5, 0.25)]
    cfg = settings(optimizer_type="momentum", momentum=0.5, learning_rate=rate)
    optimizer = make(cfg, {"x": np.zeros(1)})
    assert isinstance(optimizer, Momentum)
    for _ in range(2):
        apply(optimizer, {"x": np.ones(1)})
    assert optimizer.weights["x"].numpy() == [-0.5 - 0.375]
