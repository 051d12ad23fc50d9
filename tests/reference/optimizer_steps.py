# SPDX-License-Identifier: Apache-2.0
"""Steps of an optimizer on a few small weights, and the same steps in NumPy float64."""

import re

import numpy as np
import tensorflow as tf

from common.optimizers.factory import make_optimizer
from common.params import OptimizerParams

SHAPES = {  # distinct primes
    "embeddings/word_embeddings": (7, 3),
    "embeddings/layer_norm/gamma": (3,),
    "encoder/layer_0/attention/output/bias": (3,),
    "pooler/kernel": (3, 5),
    "pooler/bias": (5,),
}
DECAYED = {"embeddings/word_embeddings", "pooler/kernel"}


def settings(**values):
    """OptimizerParams with numbers that differ from each other and from the defaults."""
    given = {"learning_rate": 0.01, "beta1": 0.8, "beta2": 0.98, "epsilon": 1e-3, "momentum": 0.7}
    given |= {"rmsprop_decay": 0.85, "rmsprop_momentum": 0.6}
    return OptimizerParams.model_validate(given | values)


def random_weights(seed=0):
    generator = np.random.default_rng(seed)
    return {name: generator.normal(size=shape) for name, shape in SHAPES.items()}


def random_gradients(steps, size=1.0, seed=1):
    """A list of {name: float64}; the norm of all together varies between the steps."""
    generator = np.random.default_rng(seed)
    return [
        {name: generator.normal(size=shape) * size * (1 + step) for name, shape in SHAPES.items()}
        for step in range(steps)
    ]


def norm_of(arrays):
    return np.sqrt(sum(np.sum(np.square(array, dtype=np.float64)) for array in arrays.values()))


def rate_factor_of(name, cfg, num_layers):
    """d^0 at the top, d^1 for the last of the layers, one more for each below, then the tables."""
    if name.startswith("embeddings/"):
        return cfg.layer_wise_lr_decay ** (num_layers + 1)
    layer = re.match(r"encoder/layer_(\d+)/", name)
    return cfg.layer_wise_lr_decay ** (num_layers - int(layer[1])) if layer else 1.0


def steps_in_float64(rule, first_values, weights, gradients, cfg, rates, num_layers=0):
    """Everything around the rule as docs/optimizers.md has it.

    Args:
        rule: (g, {slot: float64}, rate, cfg, t) -> update; changes the slots. t counts from 1.
        first_values: {slot: float}.
        weights: {name: float64}; gradients: list of such, for each step.
        cfg: OptimizerParams; rates: float for each step; num_layers: int.
    Returns:
        weights, {slot: {name: float64}}, averages after the last step.
    """
    w = {name: array.copy() for name, array in weights.items()}
    average = {name: array.copy() for name, array in weights.items()}
    slots = {
        name: {slot: np.full(array.shape, first) for slot, first in first_values.items()}
        for name, array in weights.items()
    }
    for t, (gradient_of, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        scale = 1.0
        if cfg.max_gradient_norm is not None:
            scale = cfg.max_gradient_norm / max(norm_of(gradient_of), cfg.max_gradient_norm)
        for name in w:
            g = gradient_of[name] * scale
            if cfg.max_gradient_value is not None:
                g = np.clip(g, -cfg.max_gradient_value, cfg.max_gradient_value)
            r = rate * rate_factor_of(name, cfg, num_layers)
            step = rule(g, slots[name], r, cfg, t)
            if name in DECAYED:
                step = step + r * cfg.weight_decay_rate * w[name]
            w[name] = w[name] - step
            if cfg.moving_average_decay is not None:
                d = min(cfg.moving_average_decay, (1 + t) / (10 + t))
                average[name] = d * average[name] + (1 - d) * w[name]
    by_slot = {slot: {name: slots[name][slot] for name in w} for slot in first_values}
    return w, by_slot, average


def make(cfg, weights, num_layers=0):
    variables = {name: tf.Variable(w, dtype=tf.float32) for name, w in weights.items()}
    return make_optimizer(variables, cfg, num_layers)


def apply(optimizer, gradient_of):
    """One step. gradient_of: {name: array} in the order of the weights."""
    return optimizer.apply([tf.constant(g, tf.float32) for g in gradient_of.values()])


def arrays(variables):
    return {name: variable.numpy() for name, variable in variables.items()}


def assert_close(actual, expected, rtol=1e-5, atol=1e-6):
    # Float32 against float64 over five steps; weights near 1, moments up to 30.
    assert set(actual) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=rtol, atol=atol, err_msg=name)


def assert_equal_bits(actual, expected):
    assert set(actual) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


def check_against_float64(rule, first_values, cfg, num_steps=5):
    """Five steps of the optimizer that `cfg` describe and of a rule in NumPy are the same."""
    weights, gradients = random_weights(), random_gradients(num_steps)
    optimizer = make(cfg, weights, num_layers=1)
    for gradient_of in gradients:
        apply(optimizer, gradient_of)
    w, slots, average = steps_in_float64(
        rule, first_values, weights, gradients, cfg, [0.01] * num_steps, num_layers=1
    )
    assert_close(arrays(optimizer.weights), w)
    assert set(optimizer.slots) == set(first_values)
    for slot, expected in slots.items():
        assert_close(arrays(optimizer.slots[slot]), expected)
    if cfg.moving_average_decay is not None:
        assert_close(arrays(optimizer.averages), average)
