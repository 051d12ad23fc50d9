# SPDX-License-Identifier: Apache-2.0
"""Loss scaling: both dynamic rules on written-out sequences, and what a skipped update leaves."""

import numpy as np
import pytest
import tensorflow as tf

from common.optimizers.factory import make_optimizer
from common.optimizers.loss_scale import DynamicLossScale, FixedLossScale, make_loss_scale
from common.params import OptimizerParams


def factors(loss_scale, sequence):
    """The factor after each update. sequence: "." an update with finite gradients, "X" without."""
    after = []
    for outcome in sequence:
        loss_scale.update(tf.constant(outcome == "."))
        after.append(float(loss_scale.factor))
    return after


def dynamic(initial=8.0, smallest=1.0, largest=64.0, steps_per_increase=3, tolerance=0.0):
    return DynamicLossScale(initial, smallest, largest, steps_per_increase, tolerance)


# ---- The factor ----------------------------------------------------------------------------------


def test_the_factor_doubles_after_so_many_finite_updates_and_halves_at_an_overflow():
    #    three in a row | halved | again three, counted anew | twice halved | a run broken off
    sequence = "...  X  ...  XX  ..X".replace(" ", "")
    expected = [8, 8, 16, 8, 8, 8, 16, 8, 4, 4, 4, 2]
    assert factors(dynamic(), sequence) == expected


def test_overflows_up_to_a_share_are_tolerated():
    # Tolerance 0.25: 1 of 4 is not above it, 2 of 5 is. Counting starts anew with each change.
    loss_scale = dynamic(steps_per_increase=100, tolerance=0.25)
    assert factors(loss_scale, "...XX") == [8, 8, 8, 8, 4]
    assert factors(loss_scale, "X") == [2]  # 1 of 1
    assert factors(loss_scale, ".......X" + "X") == [2] * 8 + [2]  # 1 of 8, 2 of 9
    assert factors(loss_scale, "X") == [1]  # 3 of 10


def test_a_tolerated_overflow_counts_among_the_steps_to_the_next_doubling():
    # 1 of 4 is tolerated, and the fifth step since the beginning doubles; so do 1 of 5 and a fifth.
    loss_scale = dynamic(steps_per_increase=5, tolerance=0.3)
    assert factors(loss_scale, "...X." + "....X") == [8, 8, 8, 8, 16, 16, 16, 16, 16, 32]


def test_tf_dynamic_halves_at_every_overflow_and_counts_finite_steps_in_a_row():
    cfg = OptimizerParams(
        loss_scaling_factor="tf_dynamic", initial_loss_scale=4, steps_per_increase=3
    )
    #    two, broken off | two | the third in a row | down to 1, not below
    sequence = "..X  ..  .  XXXX".replace(" ", "")
    expected = [4, 4, 2, 2, 2, 4, 2, 1, 1, 1]
    assert factors(make_loss_scale(cfg), sequence) == expected


def test_dynamic_and_tf_dynamic_differ_in_bounds_and_tolerance_where_they_are_not_given():
    after = [
        factors(
            make_loss_scale(OptimizerParams(loss_scaling_factor=rule, initial_loss_scale=8)),
            19 * "." + "X",
        )[-1]
        for rule in ("dynamic", "tf_dynamic")
    ]
    assert after == [8, 4]  # 1 of 20 is tolerated, or is not
    dynamic_scale, tf_scale = (
        make_loss_scale(OptimizerParams(loss_scaling_factor=rule, initial_loss_scale=1))
        for rule in ("dynamic", "tf_dynamic")
    )
    assert factors(dynamic_scale, "XX") == [0.5, 0.25] and factors(tf_scale, "XX") == [1, 1]
    assert (dynamic_scale.largest, tf_scale.largest) == (2**15, 2.0**127)
    own = {"min_loss_scale": 0.5, "max_loss_scale": 4, "overflow_tolerance": 0.5}
    for rule in ("dynamic", "tf_dynamic"):  # the keys count under both
        cfg = OptimizerParams(
            loss_scaling_factor=rule, initial_loss_scale=2, steps_per_increase=2, **own
        )
        assert factors(make_loss_scale(cfg), "....XXX.X") == [2, 4, 4, 4, 2, 1, 0.5, 0.5, 1]


def test_the_factor_stays_within_its_bounds():
    assert factors(dynamic(initial=2.0), "XXX") == [1, 1, 1]
    assert factors(dynamic(initial=32.0, steps_per_increase=1), "...") == [64, 64, 64]


def test_the_params_choose_between_fixed_and_dynamic():
    fixed = make_loss_scale(OptimizerParams(loss_scaling_factor=128))
    assert isinstance(fixed, FixedLossScale) and float(fixed.factor) == 128
    assert fixed.state == {} and not fixed.skips_overflow
    cfg = OptimizerParams(
        loss_scaling_factor="dynamic",
        initial_loss_scale=16,
        min_loss_scale=8,
        max_loss_scale=32,
        steps_per_increase=2,
        overflow_tolerance=0.5,
    )
    assert factors(make_loss_scale(cfg), "....XX") == [16, 32, 32, 32, 16, 8]


def test_the_defaults_are_the_originals():
    loss_scale = make_loss_scale(OptimizerParams(loss_scaling_factor="dynamic"))
    assert float(loss_scale.factor) == loss_scale.largest == 2**15
    assert loss_scale.smallest == 2**-14
    assert loss_scale.steps_per_increase == 2000 and loss_scale.overflow_tolerance == 0.05


# ---- With the optimizer --------------------------------------------------------------------------

START = {"pooler/kernel": np.array([[0.3, -1.7], [2.1, 0.9]]), "pooler/bias": np.array([0.1, 7.0])}
GRADIENTS = [np.array([[3.0, -0.4], [0.07, 11.0]]), np.array([-0.6, 0.2])]


def optimizer_of(**values):
    given = {"learning_rate": 0.01, "epsilon": 1e-6, "weight_decay_rate": 0.1}
    cfg = OptimizerParams.model_validate(given | {"use_bias_correction": True} | values)
    return make_optimizer(
        {name: tf.Variable(w, dtype=tf.float32) for name, w in START.items()}, cfg
    )


def everything(optimizer):
    """{name: bytes} of weights, m and v."""
    variables = {f"w/{name}": w for name, w in optimizer.weights.items()}
    variables |= {n: v for n, v in optimizer.state.items() if n.startswith("adamw/")}
    return {name: variable.numpy().tobytes() for name, variable in variables.items()}


def apply(optimizer, bad=None):
    """One update; `bad` stands in one element of the gradients. Returns its figures."""
    gradients = [gradient * float(optimizer.loss_scale.factor) for gradient in GRADIENTS]
    if bad is not None:
        gradients[1][0] = bad
    return optimizer.apply([tf.constant(gradient, tf.float32) for gradient in gradients])


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("max_gradient_norm", [None, 1.0])
def test_a_skipped_update_leaves_every_bit_and_only_counts(bad, max_gradient_norm):
    optimizer = optimizer_of(loss_scaling_factor="dynamic", max_gradient_norm=max_gradient_norm)
    apply(optimizer)
    before = everything(optimizer)
    figures = apply(optimizer, bad)
    assert everything(optimizer) == before
    assert not np.isfinite(float(figures["train/unclipped_grad_norm"]))
    assert float(figures["train/loss_scale"]) == 2**15  # as used
    assert float(optimizer.loss_scale.factor) == 2**14  # for the next
    assert int(optimizer.step) == 2  # a step of the run, though nothing was learnt
    apply(optimizer)
    assert everything(optimizer) != before


def test_without_a_dynamic_scale_numbers_that_are_not_finite_show():
    optimizer = optimizer_of(loss_scaling_factor=8)
    apply(optimizer, np.nan)
    assert np.isnan(optimizer.weights["pooler/bias"].numpy()).any()


@pytest.mark.parametrize("factor", [2.0**-14, 0.5, 8, 2.0**15, "dynamic"])
@pytest.mark.parametrize("max_gradient_norm", [None, 1.0, 100.0])
def test_scaling_by_a_power_of_two_leaves_every_bit(factor, max_gradient_norm):
    plain, scaled = (
        optimizer_of(loss_scaling_factor=f, max_gradient_norm=max_gradient_norm)
        for f in (1.0, factor)
    )
    for _ in range(3):
        expected, figures = apply(plain), apply(scaled)
        norms = [float(f["train/unclipped_grad_norm"]) for f in (expected, figures)]
        assert norms[0] == norms[1]
    assert everything(scaled) == everything(plain)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_loss_is_scaled_in_its_own_dtype(dtype):
    scaled = optimizer_of(loss_scaling_factor=64).scale_loss(tf.constant(0.5, dtype))
    assert scaled.dtype == dtype and float(scaled) == 32
