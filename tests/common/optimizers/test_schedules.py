# SPDX-License-Identifier: Apache-2.0
"""Learning-rate schedules by hand arithmetic, above all where one ends and the next begins.

`rates` computes each by NumPy in float64 and by TensorFlow in float32, and compares the two.
"""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.optimizers.schedules import make_schedule, notes_on_schedule, with_end
from common.params import OptimizerParams


def rates(learning_rate, steps, disable_lr_steps_reset=False):
    """The rates at some steps, float64 [N], of a schedule as a YAML file has it."""
    cfg = OptimizerParams.model_validate(
        {"learning_rate": learning_rate, "disable_lr_steps_reset": disable_lr_steps_reset}
    )
    schedule = make_schedule(cfg, keras.ops)
    values = [schedule(tf.constant(step, tf.float32)) for step in steps]
    assert all(value.dtype == tf.float32 and value.shape == () for value in values)
    values = np.array([float(value) for value in values])
    exact = make_schedule(cfg)(np.array(steps))
    assert exact.dtype == np.float64 and exact.shape == values.shape
    assert_rates(values, exact)
    return exact


def linear(initial, end, steps, **more):
    return {
        "scheduler": "Linear",
        "initial_learning_rate": initial,
        "end_learning_rate": end,
        "steps": steps,
        **more,
    }


def assert_rates(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)  # float32, rates up to 1


def test_a_number_is_the_rate_of_every_step():
    assert_rates(rates(3e-4, [0, 1, 10**6]), [3e-4] * 3)
    assert_rates(rates("3e-4", [0, 7]), [3e-4] * 2)  # as PyYAML reads it


def test_constant_is_the_rate_of_every_step():
    assert_rates(rates({"scheduler": "Constant", "learning_rate": 2e-5}, [0, 9]), [2e-5] * 2)


def test_linear_from_the_first_step_to_the_last_and_beyond():
    # 1 -> 0.5 in 4 steps: 0.125 down each; held from then on.
    expected = [1, 0.875, 0.75, 0.625, 0.5, 0.5, 0.5]
    assert_rates(rates(linear(1, 0.5, 4), [0, 1, 2, 3, 4, 5, 1000]), expected)


def test_linear_can_rise():
    assert_rates(rates(linear(0, 0.8, 4), [0, 1, 3, 4, 5]), [0, 0.2, 0.6, 0.8, 0.8])


@pytest.mark.parametrize(
    ("power", "expected"),
    [
        # 0.2 + 0.8 * (1 - step / 4) ^ power at steps 0, 1, 2, 3, 4, 9
        (1.0, [1.0, 0.8, 0.6, 0.4, 0.2, 0.2]),
        (2.0, [1.0, 0.65, 0.4, 0.25, 0.2, 0.2]),  # 0.8 * (1, 0.5625, 0.25, 0.0625, 0)
        (0.5, [1.0, 0.2 + 0.8 * 0.75**0.5, 0.2 + 0.8 * 0.5**0.5, 0.6, 0.2, 0.2]),
    ],
)
def test_polynomial_bends_with_its_power(power, expected):
    schedule = linear(1, 0.2, 4, power=power) | {"scheduler": "Polynomial"}
    assert_rates(rates(schedule, [0, 1, 2, 3, 4, 9]), expected)


def test_polynomial_with_cycle_begins_again_with_a_longer_way():
    schedule = linear(1, 0, 4, cycle=True) | {"scheduler": "Polynomial"}
    # 1 - step / (4, then 8, then 12): 4 is the end of the first, 5 is 1 - 5/8, 9 is 1 - 9/12.
    expected = [1, 0.25, 0, 3 / 8, 0, 1 / 4, 0]
    assert_rates(rates(schedule, [0, 3, 4, 5, 8, 9, 12]), expected)


def test_piecewise_constant_changes_after_each_boundary():
    schedule = {"scheduler": "PiecewiseConstant", "boundaries": [2, 5], "values": [0.5, "2e-1", 0]}
    # 0.5 up to and with step 2, 0.2 up to and with step 5
    assert_rates(rates(schedule, range(8)), [0.5, 0.5, 0.5, 0.2, 0.2, 0.2, 0, 0])


def exponential(**more):
    given = {"initial_learning_rate": 0.8, "decay_steps": 4, "decay_rate": 0.25}
    return {"scheduler": "Exponential"} | given | more


def test_exponential_falls_by_its_rate_every_decay_steps():
    # 0.8 / 4 ^ (step / 4): a half each two steps, 1 / sqrt(2) each step; it never ends.
    half = 0.8 * 0.5**0.5
    expected = [0.8, half, 0.4, half / 2, 0.2, half / 4, 0.1, 0.05, 0.0125]
    assert_rates(rates(exponential(), [0, 1, 2, 3, 4, 5, 6, 8, 12]), expected)


def test_exponential_in_a_staircase_falls_at_multiples_of_decay_steps():
    steps, expected = [0, 1, 3, 4, 7, 8], [0.8, 0.8, 0.8, 0.2, 0.2, 0.05]
    assert_rates(rates(exponential(staircase=True), steps), expected)


@pytest.mark.parametrize(
    ("staircase", "expected"),
    [
        # 0.6 / (1 + 0.5 * step^2 / 4) at steps 0, 1, 2, 3, 4, 8; or with the quotient rounded down
        (False, [0.6, 0.6 / 1.125, 0.6 / 1.5, 0.6 / 2.125, 0.2, 0.6 / 9]),
        (True, [0.6, 0.6, 0.6 / 1.5, 0.6 / 2, 0.2, 0.6 / 9]),
    ],
)
def test_inverse_exponential_time_decay_divides_by_a_power_of_the_step(staircase, expected):
    schedule = {
        "scheduler": "InverseExponentialTimeDecay",
        "initial_learning_rate": 0.6,
        "step_exponent": 2,
        "decay_steps": 4,
        "decay_rate": 0.5,
        "staircase": staircase,
    }
    assert_rates(rates(schedule, [0, 1, 2, 3, 4, 8]), expected)
    # Before its turn in a list its step is below 0, and a root of it no number.
    listed = [{"scheduler": "Constant", "learning_rate": 0.9, "steps": 3}]
    listed.append(schedule | {"step_exponent": 0.5})
    assert_rates(rates(listed, [0, 2, 3]), [0.9, 0.9, 0.6])


def cosine(**more):
    given = {"scheduler": "Cosine", "initial_learning_rate": 0.5, "decay_steps": 6}
    return given | more


@pytest.mark.parametrize("alpha", [0.0, 0.2])
def test_cosine_goes_down_half_a_wave_and_stays(alpha):
    # (1 + cos(pi * step / 6)) / 2 at 0, 1, 2, 3, 4, 6, 7: cosines 1, sqrt(3) / 2, 1/2, 0, -1/2, -1
    wave = np.array([1, (1 + 3**0.5 / 2) / 2, 0.75, 0.5, 0.25, 0, 0])
    expected = 0.5 * ((1 - alpha) * wave + alpha)
    assert_rates(rates(cosine(alpha=alpha), [0, 1, 2, 3, 4, 6, 7]), expected)


def test_linear_with_cycle_begins_again_as_a_polynomial_does():
    schedule = linear(1, 0, 4, cycle=True)
    assert_rates(rates(schedule, [3, 4, 5, 8]), [0.25, 0, 3 / 8, 0])


def test_every_schedule_of_a_list_hands_over_at_its_last_step():
    schedules = [
        linear(0, 1, 2),
        cosine(),  # as long as its decay_steps, 6
        cosine(steps=3),  # broken off half way down
        exponential(steps=2),
        {"scheduler": "PiecewiseConstant", "boundaries": [1], "values": [0.9, 0.7], "steps": 4},
        {"scheduler": "Constant", "learning_rate": 0.6},
    ]
    starts = {2: 0.5, 8: 0.5, 11: 0.8, 13: 0.9, 17: 0.6}
    ends = {1: 0.5, 7: 0.5 * (1 - 3**0.5 / 2) / 2, 10: 0.5 * 0.75, 12: 0.8 * 0.5**0.5, 16: 0.7}
    expected = {0: 0.0, **starts, **ends, 14: 0.9, 15: 0.7, 1000: 0.6}
    assert_rates(rates(schedules, list(expected)), list(expected.values()))
    # All from step 0: the cosine at step 2, the second at the end of its way, 0.8 / 4^(11 / 4), ...
    expected = {1: 0.5, 2: 0.5 * 0.75, 8: 0.0, 11: 0.8 / 4**2.75, 13: 0.7, 17: 0.6}
    actual = rates(schedules, list(expected), disable_lr_steps_reset=True)
    assert_rates(actual, list(expected.values()))


WARM_UP_AND_DECAY = [linear(0, 1, 4), linear(1, 0, 10)]


def test_each_schedule_of_a_list_begins_at_its_own_first_step():
    # 0, 1/4, 2/4, 3/4 | 1, 9/10, ..., 1/10, 0 at step 14, held
    steps = [0, 1, 3, 4, 5, 13, 14, 15, 1000]
    expected = [0, 0.25, 0.75, 1, 0.9, 0.1, 0, 0, 0]
    assert_rates(rates(WARM_UP_AND_DECAY, steps), expected)


def test_without_the_reset_every_schedule_counts_from_step_0():
    # As google-research/bert: at step 4 the decay has already gone 4 of its 10 steps.
    steps = [0, 3, 4, 5, 9, 10, 11]
    expected = [0, 0.75, 0.6, 0.5, 0.1, 0, 0]
    assert_rates(rates(WARM_UP_AND_DECAY, steps, disable_lr_steps_reset=True), expected)


def test_three_schedules_and_a_constant_between():
    schedules = [
        linear(0, 1, 2),
        {"scheduler": "Constant", "learning_rate": 0.5, "steps": 3},
        linear(0.4, 0.2, 2),
    ]
    # 0, 1/2 | 0.5, 0.5, 0.5 | 0.4, 0.3, 0.2, held
    expected = [0, 0.5, 0.5, 0.5, 0.5, 0.4, 0.3, 0.2, 0.2]
    assert_rates(rates(schedules, range(9)), expected)
    # Counted from step 0: the last is over (2 steps) when its turn comes.
    expected = [0, 0.5, 0.5, 0.5, 0.5, 0.2, 0.2, 0.2, 0.2]
    assert_rates(rates(schedules, range(9), disable_lr_steps_reset=True), expected)


def test_a_list_of_one_is_that_schedule():
    steps = [0, 2, 4, 7]
    np.testing.assert_array_equal(rates([linear(1, 0, 4)], steps), rates(linear(1, 0, 4), steps))


@settings(max_examples=15, deadline=None)
@given(
    warm_up=st.integers(1, 40),
    decay=st.integers(1, 40),
    peak=st.floats(1e-6, 1.0),
    disable=st.booleans(),
)
def test_warm_up_rises_and_decay_falls_for_any_lengths(warm_up, decay, peak, disable):
    schedules = [linear(0, peak, warm_up), linear(peak, 0, decay)]
    values = rates(schedules, range(warm_up + decay + 3), disable)
    assert values[0] == 0 and values.max() <= peak * (1 + 1e-6) and values.min() >= 0
    assert np.all(np.diff(values[:warm_up]) > 0)
    assert np.all(np.diff(values[warm_up:]) <= 0)
    assert np.all(values[warm_up + decay :] == 0)


def test_the_rate_is_the_same_inside_a_traced_function():
    cfg = OptimizerParams.model_validate({"learning_rate": WARM_UP_AND_DECAY})
    schedule = make_schedule(cfg, keras.ops)
    traced = tf.function(schedule, autograph=False)
    steps = [tf.constant(step, tf.float32) for step in range(16)]
    # To a rounding: the graph may multiply by a reciprocal where single operations divide.
    assert_rates([traced(step) for step in steps], [schedule(step) for step in steps])


# ---- A number with warmup_ratio and decay --------------------------------------------------------


def with_words(num_steps, **values):
    """OptimizerParams of the keys that a file has, over a training of num_steps."""
    return with_end(OptimizerParams.model_validate(values), num_steps)


@settings(max_examples=30, deadline=None)
@given(
    num_steps=st.integers(1, 400),
    percent=st.integers(0, 100),
    decay=st.sampled_from([None, "constant", "linear", "cosine"]),
    peak=st.floats(1e-6, 1.0),
    end=st.sampled_from([0.0, 0.02, 0.5]),
)
def test_warm_up_and_decay_are_the_formulas_of_the_field(num_steps, percent, decay, peak, end):
    warm_up = num_steps * percent // 100  # whole steps
    words = {"warmup_ratio": percent / 100, "decay": decay, "decay_end": end}
    cfg = with_words(num_steps, learning_rate=peak, **words)
    step = np.arange(num_steps, dtype=np.float64)
    share = (step - warm_up) / max(num_steps - warm_up, 1)  # of the decay, from 0
    falling = {"linear": 1 - share, "cosine": (1 + np.cos(np.pi * share)) / 2}
    falling = {name: end + (1 - end) * fall for name, fall in falling.items()}
    expected = peak * np.where(
        step < warm_up, step / max(warm_up, 1), falling.get(decay, np.ones_like(step))
    )
    np.testing.assert_allclose(make_schedule(cfg)(step), expected, rtol=1e-12, atol=1e-15)
    if decay in ("linear", "cosine") and warm_up < num_steps:
        last = make_schedule(cfg)(np.array(num_steps))
        assert last == pytest.approx(end * peak, abs=1e-12)
    assert notes_on_schedule(cfg, num_steps) == []


@pytest.mark.parametrize(
    ("values", "schedules"),
    [
        # The lists that params_bert_minilm_sst2.yaml had: 10% of 3,156 are 315.6.
        ({"decay": "linear"}, [linear(0, 1e-4, 315), linear(1e-4, 0, 2841)]),
        (
            {"decay": "cosine"},
            [
                linear(0, 1e-4, 315),
                {"scheduler": "Cosine", "initial_learning_rate": 1e-4, "decay_steps": 2841},
            ],
        ),
        ({}, [linear(0, 1e-4, 315), {"scheduler": "Constant", "learning_rate": 1e-4}]),
        ({"decay": "linear", "warmup_ratio": 0}, [linear(1e-4, 0, 3156)]),
        (
            {"decay": "linear", "decay_end": 0.25},
            [linear(0, 1e-4, 315), linear(1e-4, 2.5e-5, 2841)],
        ),
        ({"decay": "linear", "warmup_ratio": 1}, [linear(0, 1e-4, 3156)]),
    ],
)
def test_warm_up_and_decay_are_the_list_that_a_file_could_have(values, schedules):
    cfg = with_words(3156, **({"learning_rate": 1e-4, "warmup_ratio": 0.1} | values))
    assert cfg == OptimizerParams.model_validate({"learning_rate": schedules})


def test_a_share_is_the_decimal_that_is_written():
    # The product of floats is 28.999999999999996.
    cfg = with_words(100, learning_rate=1, warmup_ratio=0.29)
    assert cfg.learning_rate[0].steps == 29


@pytest.mark.parametrize("values", [{}, {"decay": "constant"}, {"warmup_ratio": 0}])
def test_a_number_alone_stays_constant(values):
    assert with_words(100, learning_rate=1e-4, **values).learning_rate == 1e-4
    assert not OptimizerParams(**values).needs_end


def test_a_rate_that_falls_to_an_unknown_end_is_refused():
    with pytest.raises(UserError, match="need the step at which training ends"):
        make_schedule(OptimizerParams(decay="linear"))


# ---- Schedule and length of training -------------------------------------------------------------

WARM_UP = linear(0, 1e-4, 10)
COSINE = {"scheduler": "Cosine", "initial_learning_rate": 1e-4, "decay_steps": 30}
CONSTANT = {"scheduler": "Constant", "learning_rate": 1e-4}
NO_LEARNING = {"scheduler": "PiecewiseConstant", "boundaries": [9], "values": [1e-4, 0]}


@pytest.mark.parametrize(
    ("learning_rate", "last_step", "text"),
    [
        # The update of step n, from 0, has the rate of step n: those of 10 to 39 have the last one.
        (
            linear(1e-4, 0, 10),
            40,
            "step 10 and training at step 40: the rate is 0 in 30 of 40 steps;",
        ),
        ([WARM_UP, linear(1e-4, 0, 30)], 50, "step 40 .* 50: the rate is 0 in 10 of 50 steps;"),
        ([WARM_UP, COSINE], 41, "step 40 .* 41: the rate is 0 in 1 of 41 steps;"),
        (NO_LEARNING, 30, "step 10 .* 30: the rate is 0 in 20 of 30 steps;"),
        # 1e-4 * 4 / 10 at the fifth step
        ([WARM_UP, CONSTANT], 5, "step 10 .* 5: the rate is still rising, at 4e-05 of 0.0001"),
        ([WARM_UP, linear(1e-4, 0, 30)], 10, "step 40 .* 10: the rate is still rising, at 9e-05"),
        # 1e-4 * (1 - 4 / 10)
        (linear(1e-4, 0, 10), 5, "step 10 .* 5: the last rate is 6e-05, not 0"),
    ],
)
def test_a_schedule_that_ends_at_another_step_than_training_is_told(learning_rate, last_step, text):
    cfg = OptimizerParams.model_validate({"learning_rate": learning_rate})
    (note,) = notes_on_schedule(cfg, last_step)
    assert re.search(text, note)


@pytest.mark.parametrize(
    ("learning_rate", "last_step"),
    [
        (1e-4, 7),
        (0.0, 7),  # nothing is trained on purpose
        (CONSTANT, 7),
        (WARM_UP, 90),  # the rate stays after the warm-up
        ([WARM_UP, CONSTANT], 11),
        ([WARM_UP, linear(1e-4, 0, 30)], 40),
        (linear(1e-4, 5e-5, 10), 40),
        (linear(1e-4, 0, 10, cycle=True), 40),
        ([WARM_UP, COSINE], 40),
        (COSINE | {"alpha": 0.5}, 10**12),
    ],
)
def test_a_schedule_that_fits_the_training_is_not_mentioned(learning_rate, last_step):
    cfg = OptimizerParams.model_validate({"learning_rate": learning_rate})
    assert notes_on_schedule(cfg, last_step) == []


def test_schedules_that_all_count_from_step_0_end_where_the_last_of_them_does():
    # Google's BERT: the decay of 30 steps runs during the warm-up, and ends at step 30, not 40.
    learning_rate = [WARM_UP, linear(1e-4, 0, 30)]
    values = {"learning_rate": learning_rate, "disable_lr_steps_reset": True}
    cfg = OptimizerParams.model_validate(values)
    assert notes_on_schedule(cfg, 30) == []
    assert "the rate is 0 in 10 of 40 steps" in notes_on_schedule(cfg, 40)[0]
