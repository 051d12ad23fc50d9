# SPDX-License-Identifier: Apache-2.0
"""What optimizers share, mostly by AdamW: clipping, decay, rates by layer, averages, state."""

import numpy as np
import pytest
import tensorflow as tf

from common.optimizers.factory import OPTIMIZERS
from tests.reference.optimizer_steps import (
    DECAYED,
    SHAPES,
    apply,
    arrays,
    assert_close,
    assert_equal_bits,
    check_against_float64,
    make,
    norm_of,
    random_gradients,
    random_weights,
    settings,
)


def plain(gradient, slots, rate, cfg, t):
    """The rule of sgd, which shows what stands around a rule."""
    return rate * gradient


# ---- Rate, step and report -----------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_type_moves_weights_and_counts_and_reports(name):
    weights = random_weights()
    optimizer = make(settings(optimizer_type=name.upper()), weights)
    assert optimizer.name == name
    for step, gradient_of in enumerate(random_gradients(2)):
        report = apply(optimizer, gradient_of)
        norm = norm_of(gradient_of)
        assert float(report["train/unclipped_grad_norm"]) == pytest.approx(norm, rel=1e-6)
        assert float(report["train/lr"]) == pytest.approx(0.01)
        assert float(report["train/loss_scale"]) == 1
        assert int(optimizer.step) == step + 1
    assert all((w.numpy() != weights[name]).all() for name, w in optimizer.weights.items())


def test_without_log_summaries_nothing_is_reported():
    assert apply(make(settings(log_summaries=False), random_weights()), random_weights(1)) == {}


def test_a_schedule_is_read_at_the_step_before_the_update():
    schedule = {"scheduler": "Linear", "initial_learning_rate": 0, "end_learning_rate": 1}
    cfg = settings(optimizer_type="sgd", learning_rate=schedule | {"steps": 4})
    weights, gradients = random_weights(), random_gradients(3)
    optimizer = make(cfg, weights)
    rates = [float(apply(optimizer, gradients[0])["train/lr"])]
    assert_equal_bits(  # warm-up begins at 0: the first update moves nothing
        arrays(optimizer.weights), {name: w.astype(np.float32) for name, w in weights.items()}
    )
    rates += [float(apply(optimizer, gradient_of)["train/lr"]) for gradient_of in gradients[1:]]
    assert rates == [0, 0.25, 0.5]  # steps 0, 1, 2 of 4
    expected = {
        name: w - sum(r * g[name] for r, g in zip(rates, gradients, strict=True))
        for name, w in weights.items()
    }
    assert_close(arrays(optimizer.weights), expected)


# ---- Clipping ------------------------------------------------------------------------------------


def test_clipping_takes_all_gradients_together():
    cfg = settings(max_gradient_norm=2.5, beta1=0.0)  # m is the clipped gradient
    optimizer = make(cfg, {"pooler/kernel": np.zeros((1, 1)), "pooler/bias": np.zeros(1)})
    report = apply(optimizer, {"pooler/kernel": np.full((1, 1), 3.0), "pooler/bias": [4.0]})
    assert float(report["train/unclipped_grad_norm"]) == 5.0
    assert optimizer.slots["m"]["pooler/kernel"].numpy() == [[1.5]]  # 3 * 2.5 / 5
    assert optimizer.slots["m"]["pooler/bias"].numpy() == [2.0]


def test_gradients_of_zero_are_not_divided_by_their_norm():
    optimizer = make(settings(max_gradient_norm=1.0), random_weights())
    before = arrays(optimizer.weights)
    apply(optimizer, {name: np.zeros(shape) for name, shape in SHAPES.items()})
    assert_equal_bits(arrays(optimizer.weights), before)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_clipping_by_value_cuts_every_element_of_the_unscaled_gradient(name):
    cfg = settings(optimizer_type=name, max_gradient_value=2.0, loss_scaling_factor=4)
    optimizer, expected = (
        make(cfg, {"x": np.zeros(4)}),
        make(settings(optimizer_type=name), {"x": np.zeros(4)}),
    )
    report = apply(optimizer, {"x": 4 * np.array([0.5, -1.5, 2.5, -30.0])})
    apply(expected, {"x": np.array([0.5, -1.5, 2.0, -2.0])})
    assert_equal_bits(arrays(optimizer.weights), arrays(expected.weights))
    norm = np.sqrt(0.25 + 2.25 + 6.25 + 900)
    assert float(report["train/unclipped_grad_norm"]) == pytest.approx(norm, rel=1e-6)


def test_five_steps_clipped_by_value_match_numpy_in_float64():
    check_against_float64(plain, {}, settings(optimizer_type="sgd", max_gradient_value=0.7))


# ---- Weight decay --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_biases_and_layer_norms_do_not_decay(name):
    cfg = settings(optimizer_type=name, weight_decay_rate=0.5, learning_rate=0.1)
    weights = random_weights()
    optimizer = make(cfg, weights)
    assert optimizer.decayed == DECAYED
    apply(optimizer, {name: np.zeros(shape) for name, shape in SHAPES.items()})
    # The step of lamb is the rate times the weight, however small its decay.
    decay = 1.0 if name == "lamb" else 0.5
    for name, before in weights.items():
        factor = 1 - 0.1 * decay if name in DECAYED else 1.0
        expected = before.astype(np.float32) * factor
        np.testing.assert_allclose(optimizer.weights[name].numpy(), expected, rtol=1e-6)


def test_exclusions_are_regular_expressions_searched_in_the_name():
    names = ["pooler/kernel", "pooler/bias", "classifier/kernel", "encoder/layer_11/x/kernel"]
    weights = {name: np.zeros(2) for name in names}
    cfg = settings(weight_decay_rate=0.1, exclude_from_weight_decay=[r"layer_\d+", "^class"])
    assert make(cfg, weights).decayed == {"pooler/kernel", "pooler/bias"}
    assert make(settings(exclude_from_weight_decay=[]), weights).decayed == set(names)


# ---- Rates by layer ------------------------------------------------------------------------------


def test_the_rate_falls_by_a_factor_from_each_layer_to_the_one_below():
    names = [
        "classifier/bias",
        "pooler/kernel",
        "encoder/final_layer_norm/gamma",
        "encoder/layer_11/attention/query/kernel",
        "encoder/layer_10/feed_forward/expand/bias",
        "encoder/layer_0/attention_layer_norm/beta",
        "embeddings/word_embeddings",
        "embeddings/layer_norm/gamma",
    ]
    expected = [1, 1, 1, 0.5, 0.5**2, 0.5**12, 0.5**13, 0.5**13]
    cfg = settings(optimizer_type="sgd", learning_rate=1.0, layer_wise_lr_decay=0.5)
    optimizer = make(cfg, {name: np.zeros(2) for name in names}, num_layers=12)
    apply(optimizer, {name: -np.ones(2) for name in names})
    moved = [weight.numpy()[0] for weight in optimizer.weights.values()]
    np.testing.assert_array_equal(moved, expected)  # powers of two


def test_weights_decay_by_the_rate_of_their_layer():
    cfg = settings(layer_wise_lr_decay=0.5, weight_decay_rate=0.25, learning_rate=0.5)
    names = ["classifier/kernel", "encoder/layer_0/x/kernel", "embeddings/word_embeddings"]
    optimizer = make(cfg, {name: np.full(2, 16.0) for name in names}, num_layers=1)
    apply(optimizer, {name: np.zeros(2) for name in names})
    left = [weight.numpy()[0] for weight in optimizer.weights.values()]
    assert left == [16 - 2, 16 - 1, 16 - 0.5]  # 16 * 0.5 * 0.25 = 2, and its half and quarter


def test_five_steps_with_a_rate_for_each_layer_match_numpy_in_float64():
    cfg = settings(optimizer_type="sgd", layer_wise_lr_decay=0.6, weight_decay_rate=0.3)
    check_against_float64(plain, {}, cfg)


# ---- Averages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.9, 0.3])  # warm-up throughout; from the 4th step on 0.3
def test_averages_of_five_steps_match_numpy_in_float64(decay):
    assert (1 + 3) / (10 + 3) > 0.3 > (1 + 2) / (10 + 2)
    cfg = settings(optimizer_type="sgd", moving_average_decay=decay, weight_decay_rate=0.1)
    check_against_float64(plain, {}, cfg)


def test_averages_by_hand():
    # Weights 0, 1, 2, 3; d = 2/11, then 3/12, then 0.3 (4/13 is more).
    cfg = settings(optimizer_type="sgd", learning_rate=1.0, moving_average_decay=0.3)
    optimizer = make(cfg, {"x": np.zeros(1)})
    expected = 0.0
    for d, weight in ((2 / 11, 1.0), (3 / 12, 2.0), (0.3, 3.0)):
        apply(optimizer, {"x": -np.ones(1)})
        expected = d * expected + (1 - d) * weight
        assert optimizer.weights["x"].numpy() == [weight]
        np.testing.assert_allclose(optimizer.averages["x"].numpy(), [expected], rtol=1e-6)


def test_averaged_weights_stand_in_for_the_weights_and_give_way_again():
    optimizer = make(settings(moving_average_decay=0.9), random_weights())
    apply(optimizer, random_gradients(1)[0])
    raw, averages = arrays(optimizer.weights), arrays(optimizer.averages)
    assert all((raw[name] != averages[name]).all() for name in raw)
    with pytest.raises(KeyError), optimizer.averaged_weights():  # also where evaluation breaks off
        assert_equal_bits(arrays(optimizer.weights), averages)
        raise KeyError
    assert_equal_bits(arrays(optimizer.weights), raw)
    assert_equal_bits(arrays(optimizer.averages), averages)


def test_without_averages_the_weights_stay_their_own_place_holders():
    optimizer = make(settings(), random_weights())
    before = arrays(optimizer.weights)
    with optimizer.averaged_weights():
        assert_equal_bits(arrays(optimizer.weights), before)
    assert optimizer.averages == {} and not any(n.startswith("raw/") for n in optimizer.state)


# ---- Numbers that are not finite -----------------------------------------------------------------


def test_the_weight_nearest_to_the_loss_is_named_with_the_step_at_which_it_went_wrong():
    optimizer = make(settings(), random_weights())
    good, bad = random_gradients(1)[0], random_gradients(1)[0]
    apply(optimizer, good)
    assert optimizer.first_nonfinite() is None
    for name in ("embeddings/word_embeddings", "encoder/layer_0/attention/output/bias"):
        bad[name] = bad[name] * np.nan
    apply(optimizer, bad)
    expected = (2, "encoder/layer_0/attention/output/bias")
    assert optimizer.first_nonfinite() == expected
    bad["pooler/bias"] = np.full(5, np.inf)
    apply(optimizer, bad)  # everything after the first
    assert optimizer.first_nonfinite() == expected


def test_a_step_that_is_skipped_does_not_hide_a_later_one():
    optimizer = make(settings(loss_scaling_factor="dynamic"), random_weights())
    bad = random_gradients(1)[0] | {"pooler/bias": np.full(5, np.inf)}
    for gradient_of in (bad, random_gradients(1)[0], bad):
        apply(optimizer, gradient_of)
    assert optimizer.first_nonfinite() == (3, "pooler/bias")


# ---- Gradients of 16 bits ------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer_type", OPTIMIZERS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradients_of_16_bits_make_the_update_of_the_same_numbers_in_float32(optimizer_type, dtype):
    cfg = settings(optimizer_type=optimizer_type, max_gradient_norm=0.5, moving_average_decay=0.9)
    narrow_optimizer, wide_optimizer = (make(cfg, random_weights()) for _ in range(2))
    for gradients in random_gradients(2):
        narrow = {name: tf.cast(each, dtype) for name, each in gradients.items()}
        wide = {name: tf.cast(each, "float32").numpy() for name, each in narrow.items()}
        report = narrow_optimizer.apply([narrow[name] for name in narrow_optimizer.weights])
        # A sum in 16 bits would stop growing.
        assert float(report["train/unclipped_grad_norm"]) == pytest.approx(norm_of(wide), rel=1e-6)
        apply(wide_optimizer, wide)
    for kind in ("weights", "averages"):
        for name, expected in getattr(wide_optimizer, kind).items():
            actual = getattr(narrow_optimizer, kind)[name].numpy()
            np.testing.assert_allclose(actual, expected.numpy(), rtol=1e-6, atol=1e-8)


# ---- Sparse gradients ----------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer_type", OPTIMIZERS)
@pytest.mark.parametrize("rows", [[4, 1, 4, 4], [4, 1, 4, 4, 0, 6, 6]])  # fewer than the table's 7
def test_rows_that_occur_twice_are_added_before_they_are_squared(optimizer_type, rows):
    name = "embeddings/word_embeddings"
    table, values = (np.random.default_rng(n).normal(size=(n, 3)) for n in (7, len(rows)))
    dense = np.zeros((7, 3), np.float32)
    for row, value in zip(rows, values.astype(np.float32), strict=True):
        dense[row] += value
    cfg = settings(
        optimizer_type=optimizer_type,
        max_gradient_norm=0.5,
        max_gradient_value=0.2,
        weight_decay_rate=0.1,
        moving_average_decay=0.9,
    )
    sparse_optimizer, dense_optimizer = make(cfg, {name: table}), make(cfg, {name: table})
    for _ in range(2):
        slices = tf.IndexedSlices(tf.constant(values, tf.float32), tf.constant(rows), (7, 3))
        sparse = sparse_optimizer.apply([slices])
        expected = apply(dense_optimizer, {name: dense})
    norm = float(expected["train/unclipped_grad_norm"])
    assert float(sparse["train/unclipped_grad_norm"]) == pytest.approx(norm, rel=1e-6)
    kept, expected = (
        {"weight": o.weights, "average": o.averages, **o.slots}
        for o in (sparse_optimizer, dense_optimizer)
    )
    for kind, variables in kept.items():  # the order of three additions may differ
        wanted = expected[kind][name].numpy()
        np.testing.assert_allclose(variables[name].numpy(), wanted, rtol=1e-6, atol=1e-9)


# ---- Lazy rows -----------------------------------------------------------------------------------


def lazy_and_plain(optimizer_type, moving_average_decay=None, name="embeddings/word_embeddings"):
    """Two optimizers of the same table of 7 rows, all decayed."""
    values = {
        "optimizer_type": optimizer_type,
        "moving_average_decay": moving_average_decay,
        "max_gradient_norm": 0.5,
        "weight_decay_rate": 0.1,
    }
    table = {name: np.random.default_rng(0).normal(size=(7, 3))}
    return [make(settings(lazy_word_embeddings=lazy, **values), table) for lazy in (True, False)]


def slices_of(rows, seed):
    values = np.random.default_rng(seed).normal(size=(len(rows), 3))
    return tf.IndexedSlices(tf.constant(values, tf.float32), tf.constant(rows), (7, 3))


@pytest.mark.parametrize("is_dense", [False, True])  # as several batches or devices make it
@pytest.mark.parametrize("moving_average_decay", [None, 0.9])
@pytest.mark.parametrize("optimizer_type", [name for name in OPTIMIZERS if name != "lamb"])
def test_a_lazy_update_is_a_plain_one_whose_other_rows_are_put_back(
    optimizer_type, moving_average_decay, is_dense
):
    lazy, plain = lazy_and_plain(optimizer_type, moving_average_decay)
    (name,) = plain.weights
    average = plain.weights[name].numpy()
    for t, rows in enumerate([[4, 1, 4], [0, 1, 0], [6, 4]], start=1):
        slices = slices_of(rows, seed=t)
        lazy.apply([tf.convert_to_tensor(slices) if is_dense else slices])
        variables = [plain.weights[name], *(slot[name] for slot in plain.slots.values())]
        before = [variable.numpy() for variable in variables]
        plain.apply([slices])
        others = [row for row in range(7) if row not in rows]
        for variable, old in zip(variables, before, strict=True):
            new = variable.numpy()
            assert (new[rows] != old[rows]).all()
            new[others] = old[others]
            variable.assign(new)
        share = 1 - min(0.9, (1 + t) / (10 + t))
        average = average + share * (plain.weights[name].numpy() - average)
    assert_equal_bits(arrays(lazy.weights), arrays(plain.weights))
    for slot, expected in plain.slots.items():
        assert_equal_bits(arrays(lazy.slots[slot]), arrays(expected))
    if moving_average_decay is not None:  # of every row, as the weight is where it was put
        assert_close(arrays(lazy.averages), {name: average})


def test_only_the_word_table_is_lazy():
    lazy, plain = lazy_and_plain("adamw", name="embeddings/position_embeddings")
    for optimizer in (lazy, plain):
        optimizer.apply([slices_of([4, 1, 4], seed=1)])
    assert_equal_bits(arrays(lazy.weights), arrays(plain.weights))


@pytest.mark.parametrize("moving_average_decay", [None, 0.9])
def test_a_compiled_lazy_update_equals_one_operation_by_operation(moving_average_decay, compiled):
    (traced, _), (eager, _) = (lazy_and_plain("adamw", moving_average_decay) for _ in range(2))

    @tf.function(autograph=False)
    def step(values, rows):
        traced.apply([tf.IndexedSlices(values, rows, (7, 3))])

    for seed, rows in enumerate([[4, 1, 4], [0, 1, 0], [6, 4, 5]]):
        slices = slices_of(rows, seed)
        step(slices.values, slices.indices)
        tf.config.run_functions_eagerly(True)
        eager.apply([slices])
        tf.config.run_functions_eagerly(False)
    for kind in ("weights", "averages", "state"):
        actual, expected = (arrays(getattr(each, kind)) for each in (traced, eager))
        assert_close(actual, expected, rtol=1e-6, atol=1e-9)


def test_a_table_is_read_without_a_copy_after_a_lazy_update(compiled):
    lazy, _ = lazy_and_plain("adamw")
    lazy.apply([slices_of([4, 1, 4], seed=1)])
    for variable in lazy.state.values():
        reads = [memoryview(variable.read_value()) for _ in range(2)]
        assert np.shares_memory(*reads)


# ---- State ---------------------------------------------------------------------------------------


SLOTS = {
    "sgd": [],
    "momentum": ["velocity"],
    "adam": ["m", "v"],
    "adamw": ["m", "v"],
    "lamb": ["m", "v"],
    "rmsprop": ["mean_square", "velocity"],
}


@pytest.mark.parametrize("optimizer_type", OPTIMIZERS)
def test_the_state_has_every_slot_by_its_weight_and_the_global_step(optimizer_type):
    cfg = settings(optimizer_type=optimizer_type, moving_average_decay=0.5)
    slots = {f"{optimizer_type}/{slot}/{name}" for slot in SLOTS[optimizer_type] for name in SHAPES}
    raw = {f"raw/{name}" for name in SHAPES}
    assert set(make(cfg, random_weights()).state) == slots | raw | {"global_step"}


def test_the_state_is_what_the_steps_change():
    optimizer = make(settings(), random_weights())
    assert optimizer.state["global_step"].dtype == tf.int64
    apply(optimizer, random_gradients(1)[0])
    assert int(optimizer.state["global_step"]) == 1
    m = optimizer.state["adamw/m/pooler/bias"].numpy()
    np.testing.assert_array_equal(m, optimizer.slots["m"]["pooler/bias"].numpy())
    assert np.abs(m).max() > 0


def test_a_dynamic_loss_scale_adds_its_counters_to_the_state():
    state = make(settings(loss_scaling_factor="dynamic"), random_weights()).state
    own = {name for name in state if not name.startswith("adamw/")}
    counters = {f"loss_scale/{name}" for name in ("factor", "steps", "overflows")}
    assert own == counters | {"global_step"}


@pytest.mark.parametrize("optimizer_type", OPTIMIZERS)
@pytest.mark.parametrize("moving_average_decay", [None, 0.9])
def test_an_optimizer_with_the_state_of_another_continues_with_the_same_bits(
    optimizer_type, moving_average_decay
):
    cfg = settings(
        optimizer_type=optimizer_type,
        moving_average_decay=moving_average_decay,
        use_bias_correction=True,
        weight_decay_rate=0.1,
        max_gradient_norm=3.0,
    )
    weights, gradients = random_weights(), random_gradients(6)
    through = make(cfg, weights)
    for gradient_of in gradients[:3]:
        apply(through, gradient_of)
    # What a checkpoint's weights are: the averages where there are any.
    resumed = make(cfg, arrays(through.averages or through.weights))
    for name, variable in resumed.state.items():
        variable.assign(through.state[name])
    for gradient_of in gradients[3:]:
        apply(through, gradient_of)
        apply(resumed, gradient_of)
    assert_equal_bits(arrays(resumed.weights), arrays(through.weights))
    assert_equal_bits(arrays(resumed.state), arrays(through.state))
    assert_equal_bits(arrays(resumed.averages), arrays(through.averages))


# ---- The compiled update -------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer_type", OPTIMIZERS)
def test_steps_compiled_into_one_program_equal_steps_operation_by_operation(
    optimizer_type, compiled
):
    cfg = settings(
        optimizer_type=optimizer_type,
        weight_decay_rate=0.1,
        max_gradient_norm=1.0,
        moving_average_decay=0.9,
        loss_scaling_factor="dynamic",
    )
    name = "pooler/kernel"
    weights = {name: random_weights()[name]}
    gradients = [{name: gradient_of[name]} for gradient_of in random_gradients(3)]
    gradients[1] = {name: gradients[1][name] * np.inf}  # skipped
    traced, eager = make(cfg, weights), make(cfg, weights)
    step = tf.function(lambda *gradients: traced.apply(gradients), autograph=False)
    for gradient_of in gradients:
        step(*(tf.constant(g, tf.float32) for g in gradient_of.values()))
        tf.config.run_functions_eagerly(True)
        apply(eager, gradient_of)
        tf.config.run_functions_eagerly(False)
    assert int(traced.step) == 3
    assert np.isfinite(traced.weights[name].numpy()).all()
    assert_close(arrays(traced.weights), arrays(eager.weights), rtol=1e-6)
    assert_close(arrays(traced.state), arrays(eager.state), rtol=1e-6)
    assert_close(arrays(traced.averages), arrays(eager.averages), rtol=1e-6)
    assert (traced.weights[name].numpy() != weights[name].astype(np.float32)).all()
