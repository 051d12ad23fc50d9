# SPDX-License-Identifier: Apache-2.0
"""LAMB against NumPy in float64, written from algorithm 2 of You et al. 2020."""

import numpy as np
import pytest

from tests.reference.optimizer_steps import (
    DECAYED,
    apply,
    arrays,
    assert_close,
    make,
    norm_of,
    random_gradients,
    random_weights,
    rate_factor_of,
    settings,
)


def steps_of_lamb(weights, gradients, cfg, rates, num_layers=0):
    """Returns weights, m, v and averages after all steps, float64."""
    w = {name: array.copy() for name, array in weights.items()}
    m, v = ({name: np.zeros_like(array) for name, array in w.items()} for _ in range(2))
    average = {name: array.copy() for name, array in w.items()}
    for t, (gradient_of, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        most = cfg.max_gradient_norm or np.inf
        scale = min(1.0, most / norm_of(gradient_of))
        for name, x in w.items():
            g = scale * gradient_of[name]
            m[name] = cfg.beta1 * m[name] + (1 - cfg.beta1) * g
            v[name] = cfg.beta2 * v[name] + (1 - cfg.beta2) * g**2
            m_hat, v_hat = m[name], v[name]
            if cfg.use_bias_correction:
                m_hat, v_hat = m_hat / (1 - cfg.beta1**t), v_hat / (1 - cfg.beta2**t)
            step, ratio = m_hat / (np.sqrt(v_hat) + cfg.epsilon), 1.0
            if name in DECAYED:
                step = step + cfg.weight_decay_rate * x
                ratio = np.linalg.norm(x) / np.linalg.norm(step)
            w[name] = x - rate * rate_factor_of(name, cfg, num_layers) * ratio * step
            if cfg.moving_average_decay is not None:
                d = min(cfg.moving_average_decay, (1 + t) / (10 + t))
                average[name] = d * average[name] + (1 - d) * w[name]
    return w, m, v, average


@pytest.mark.parametrize(
    "values",
    [
        {},  # as google-research/albert, without decay
        {"use_bias_correction": True, "weight_decay_rate": 0.3},  # the paper
        {"weight_decay_rate": 0.3, "max_gradient_norm": 0.5, "layer_wise_lr_decay": 0.7},
        {"use_bias_correction": True, "moving_average_decay": 0.9, "weight_decay_rate": 0.1},
    ],
)
def test_five_steps_of_lamb_match_numpy_in_float64(values):
    cfg = settings(optimizer_type="lamb", **values)
    weights, gradients = random_weights(), random_gradients(5)
    optimizer = make(cfg, weights, num_layers=1)
    for gradient_of in gradients:
        apply(optimizer, gradient_of)
    w, m, v, average = steps_of_lamb(weights, gradients, cfg, [0.01] * 5, num_layers=1)
    assert_close(arrays(optimizer.weights), w)
    assert_close(arrays(optimizer.slots["m"]), m)
    assert_close(arrays(optimizer.slots["v"]), v)
    if values.get("moving_average_decay"):
        assert_close(arrays(optimizer.averages), average)


def test_a_step_of_lamb_is_as_long_as_the_rate_times_the_weight_whatever_the_gradient():
    # |w| = 5, rate 0.1: a step of 0.5; biases move by 0.1 times Adam's direction, here 1.
    cfg = settings(
        optimizer_type="lamb", learning_rate=0.1, epsilon=1e-12, use_bias_correction=True
    )
    weights = {"pooler/kernel": np.array([[3.0, 4.0]]), "pooler/bias": np.array([3.0, 4.0])}
    for size in (1e-3, 1e3):
        optimizer = make(cfg, weights)
        gradient = size * np.array([1.0, -2.0])
        apply(optimizer, {name: gradient.reshape(w.shape) for name, w in weights.items()})
        after = arrays(optimizer.weights)
        moved = {name: weights[name] - after[name] for name in weights}
        assert np.linalg.norm(moved["pooler/kernel"]) == pytest.approx(0.5, rel=1e-5)
        np.testing.assert_allclose(moved["pooler/bias"], [0.1, -0.1], rtol=1e-5)


def test_a_weight_of_zeros_and_a_step_of_zeros_have_the_rate_itself():
    # The ratio of norms would be 0 / |u| (such a weight never moves), or |w| / 0.
    cfg = settings(
        optimizer_type="lamb", learning_rate=0.1, epsilon=1e-12, use_bias_correction=True
    )
    optimizer = make(cfg, {"pooler/kernel": np.zeros((1, 2)), "classifier/kernel": np.ones(2)})
    apply(optimizer, {"pooler/kernel": np.array([[5.0, -7.0]]), "classifier/kernel": np.zeros(2)})
    after = arrays(optimizer.weights)
    np.testing.assert_allclose(after["pooler/kernel"], [[-0.1, 0.1]], rtol=1e-5)
    np.testing.assert_array_equal(after["classifier/kernel"], [1, 1])


def test_a_warm_up_from_rate_0_begins_without_a_number_that_is_not_finite():
    schedule = {"scheduler": "Linear", "initial_learning_rate": 0, "end_learning_rate": 1}
    cfg = settings(optimizer_type="lamb", learning_rate=schedule | {"steps": 4})
    weights, gradients = random_weights(), random_gradients(2)
    optimizer = make(cfg, weights)
    for gradient_of in gradients:
        apply(optimizer, gradient_of)
    w, *_ = steps_of_lamb(weights, gradients, cfg, [0.0, 0.25])
    assert_close(arrays(optimizer.weights), w)
