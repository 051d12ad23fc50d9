# SPDX-License-Identifier: Apache-2.0
"""AdamW against NumPy in float64 and against one step of the original Cerebras program."""

import json

import numpy as np
import pytest
import tensorflow as tf

from common.optimizers.adamw import AdamW
from common.params import OptimizerParams

SHAPES = {  # distinct primes
    "embeddings/word_embeddings": (7, 3),
    "pooler/kernel": (3, 5),
    "pooler/bias": (5,),
    "embeddings/layer_norm/gamma": (3,),
    "encoder/layer_0/attention/output/bias": (3,),
}
DECAYED = {"embeddings/word_embeddings", "pooler/kernel"}


def settings(**values):
    """OptimizerParams with numbers that differ from each other and from the defaults."""
    given = {"learning_rate": 0.01, "beta1": 0.8, "beta2": 0.98, "epsilon": 1e-3}
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


def adamw_in_float64(weights, gradients, cfg, rates, decayed=frozenset(DECAYED)):
    """The formula of ../shared/fixtures/README.md, word for word.

    weights: {name: float64}; gradients: list of such, for each step; rates: float for each step.
    Returns weights, m, v after the last step.
    """
    w = {name: array.copy() for name, array in weights.items()}
    m = {name: np.zeros_like(array) for name, array in weights.items()}
    v = {name: np.zeros_like(array) for name, array in weights.items()}
    for t, (gradient_of, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        scale = 1.0
        if cfg.max_gradient_norm is not None:
            scale = cfg.max_gradient_norm / max(norm_of(gradient_of), cfg.max_gradient_norm)
        for name in w:
            g = gradient_of[name] * scale
            m[name] = cfg.beta1 * m[name] + (1 - cfg.beta1) * g
            v[name] = cfg.beta2 * v[name] + (1 - cfg.beta2) * g**2
            u = m[name] / (np.sqrt(v[name]) + cfg.epsilon)
            if cfg.use_bias_correction:
                u *= np.sqrt(1 - cfg.beta2**t) / (1 - cfg.beta1**t)
            if name in decayed:
                u += cfg.weight_decay_rate * w[name]
            w[name] = w[name] - rate * u
    return w, m, v


def make(cfg, weights):
    return AdamW({name: tf.Variable(w, dtype=tf.float32) for name, w in weights.items()}, cfg)


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


# ---- The formula ---------------------------------------------------------------------------------


@pytest.mark.parametrize("use_bias_correction", [False, True])
@pytest.mark.parametrize("max_gradient_norm", [None, 20.0, 0.5])
@pytest.mark.parametrize("weight_decay_rate", [0.0, 0.3])
def test_five_steps_match_numpy_in_float64(
    use_bias_correction, max_gradient_norm, weight_decay_rate
):
    cfg = settings(
        use_bias_correction=use_bias_correction,
        max_gradient_norm=max_gradient_norm,
        weight_decay_rate=weight_decay_rate,
    )
    weights, gradients = random_weights(), random_gradients(5)
    norms = [norm_of(gradient_of) for gradient_of in gradients]
    assert norms[0] < 20.0 < norms[-1] and norms[0] > 0.5  # 20 clips some steps, 0.5 all
    optimizer = make(cfg, weights)
    for step, gradient_of in enumerate(gradients):
        report = apply(optimizer, gradient_of)
        assert float(report["train/unclipped_grad_norm"]) == pytest.approx(norms[step], rel=1e-6)
        assert float(report["train/lr"]) == pytest.approx(0.01)
        assert int(optimizer.step) == step + 1
    w, m, v = adamw_in_float64(weights, gradients, cfg, rates=[0.01] * 5)
    assert_close(arrays(optimizer.weights), w)
    assert_close(arrays(optimizer.m), m)
    assert_close(arrays(optimizer.v), v, rtol=1e-4)  # 1 - beta2 in float32: 0.02 to 1e-6


def test_a_schedule_is_read_at_the_step_before_the_update():
    schedule = {"scheduler": "Linear", "initial_learning_rate": 0, "end_learning_rate": 1}
    cfg = settings(learning_rate=schedule | {"steps": 4})
    weights, gradients = random_weights(), random_gradients(3)
    optimizer = make(cfg, weights)
    rates = [float(apply(optimizer, gradients[0])["train/lr"])]
    assert_equal_bits(  # warm-up begins at 0: the first update moves nothing
        arrays(optimizer.weights), {name: w.astype(np.float32) for name, w in weights.items()}
    )
    rates += [float(apply(optimizer, gradient_of)["train/lr"]) for gradient_of in gradients[1:]]
    assert rates == [0, 0.25, 0.5]  # steps 0, 1, 2 of 4
    assert_close(
        arrays(optimizer.weights), adamw_in_float64(weights, gradients, cfg, rates)[0], atol=1e-5
    )


def test_the_first_step_without_bias_correction_is_3_16_times_the_rate():
    # (1 - 0.9) g / sqrt((1 - 0.999) g^2) = 0.1 / sqrt(0.001) = 3.1623, whatever g is.
    cfg = OptimizerParams.model_validate({"learning_rate": 0.01, "epsilon": 1e-12})
    optimizer = make(cfg, {"pooler/bias": np.zeros(3)})
    apply(optimizer, {"pooler/bias": np.array([-5.0, 0.01, 400.0])})
    update = optimizer.weights["pooler/bias"].numpy()
    np.testing.assert_allclose(update, [0.031623, -0.031623, -0.031623], rtol=2e-5)


def test_clipping_takes_all_gradients_together():
    cfg = settings(max_gradient_norm=2.5, beta1=0.0)  # m is the clipped gradient
    optimizer = make(cfg, {"pooler/kernel": np.zeros((1, 1)), "pooler/bias": np.zeros(1)})
    report = apply(optimizer, {"pooler/kernel": np.full((1, 1), 3.0), "pooler/bias": [4.0]})
    assert float(report["train/unclipped_grad_norm"]) == 5.0
    assert optimizer.m["pooler/kernel"].numpy() == [[1.5]]  # 3 * 2.5 / 5
    assert optimizer.m["pooler/bias"].numpy() == [2.0]


def test_gradients_of_zero_are_not_divided_by_their_norm():
    optimizer = make(settings(max_gradient_norm=1.0), random_weights())
    before = arrays(optimizer.weights)
    apply(optimizer, {name: np.zeros(shape) for name, shape in SHAPES.items()})
    assert_equal_bits(arrays(optimizer.weights), before)


# ---- Weight decay --------------------------------------------------------------------------------


def test_biases_and_layer_norms_do_not_decay():
    cfg = settings(weight_decay_rate=0.5, learning_rate=0.1)
    weights = random_weights()
    optimizer = make(cfg, weights)
    assert optimizer.decayed == DECAYED
    apply(optimizer, {name: np.zeros(shape) for name, shape in SHAPES.items()})
    for name, before in weights.items():
        factor = 1 - 0.1 * 0.5 if name in DECAYED else 1.0
        expected = before.astype(np.float32) * factor
        np.testing.assert_allclose(optimizer.weights[name].numpy(), expected, rtol=1e-6)


def test_exclusions_are_regular_expressions_searched_in_the_name():
    names = ["pooler/kernel", "pooler/bias", "classifier/kernel", "encoder/layer_11/x/kernel"]
    weights = {name: np.zeros(2) for name in names}
    cfg = settings(weight_decay_rate=0.1, exclude_from_weight_decay=[r"layer_\d+", "^class"])
    assert make(cfg, weights).decayed == {"pooler/kernel", "pooler/bias"}
    assert make(settings(exclude_from_weight_decay=[]), weights).decayed == set(names)


# ---- Sparse gradients ----------------------------------------------------------------------------


def test_rows_that_occur_twice_are_added_before_they_are_squared():
    name = "embeddings/word_embeddings"
    table = np.random.default_rng(5).normal(size=(7, 3))
    rows, values = [4, 1, 4, 4], np.random.default_rng(6).normal(size=(4, 3))
    dense = np.zeros((7, 3), np.float32)
    for row, value in zip(rows, values.astype(np.float32), strict=True):
        dense[row] += value
    cfg = settings(max_gradient_norm=0.5, weight_decay_rate=0.1)
    sparse_optimizer, dense_optimizer = make(cfg, {name: table}), make(cfg, {name: table})
    for _ in range(2):
        slices = tf.IndexedSlices(tf.constant(values, tf.float32), tf.constant(rows), (7, 3))
        sparse = sparse_optimizer.apply([slices])
        expected = apply(dense_optimizer, {name: dense})
    norm = float(expected["train/unclipped_grad_norm"])
    assert float(sparse["train/unclipped_grad_norm"]) == pytest.approx(norm, rel=1e-6)
    for slot in ("weights", "m", "v"):
        actual, wanted = (
            getattr(optimizer, slot)[name].numpy()
            for optimizer in (sparse_optimizer, dense_optimizer)
        )
        np.testing.assert_allclose(actual, wanted, rtol=1e-6, atol=1e-9)  # order of three additions


# ---- State ---------------------------------------------------------------------------------------


def test_the_state_has_every_slot_by_its_weight_and_the_global_step():
    optimizer = make(settings(), random_weights())
    slots = {f"adamw/{slot}/{name}" for slot in "mv" for name in SHAPES}
    assert set(optimizer.state) == slots | {"global_step"}
    assert optimizer.state["global_step"].dtype == tf.int64
    apply(optimizer, random_gradients(1)[0])
    assert int(optimizer.state["global_step"]) == 1
    m = optimizer.state["adamw/m/pooler/bias"].numpy()
    np.testing.assert_array_equal(m, optimizer.m["pooler/bias"].numpy())
    assert np.abs(m).max() > 0


def test_a_dynamic_loss_scale_adds_its_counters_to_the_state():
    state = make(settings(loss_scaling_factor="dynamic"), random_weights()).state
    own = {name for name in state if not name.startswith("adamw/")}
    counters = {f"loss_scale/{name}" for name in ("factor", "good_steps", "steps", "overflows")}
    assert own == counters | {"global_step"}


def test_an_optimizer_with_the_state_of_another_continues_with_the_same_bits():
    cfg = settings(use_bias_correction=True, weight_decay_rate=0.1, max_gradient_norm=3.0)
    weights, gradients = random_weights(), random_gradients(6)
    through = make(cfg, weights)
    for gradient_of in gradients[:3]:
        apply(through, gradient_of)
    resumed = make(cfg, arrays(through.weights))
    for name, variable in resumed.state.items():
        variable.assign(through.state[name])
    for gradient_of in gradients[3:]:
        apply(through, gradient_of)
        apply(resumed, gradient_of)
    assert_equal_bits(arrays(resumed.weights), arrays(through.weights))
    assert_equal_bits(arrays(resumed.state), arrays(through.state))


def test_one_step_inside_a_traced_function_equals_one_outside():
    cfg = settings(use_bias_correction=True, max_gradient_norm=1.0)
    weights, gradients = random_weights(), random_gradients(3)
    eager, traced = make(cfg, weights), make(cfg, weights)
    step = tf.function(lambda *gradients: traced.apply(gradients), autograph=False)
    for gradient_of in gradients:
        apply(eager, gradient_of)
        step(*(tf.constant(g, tf.float32) for g in gradient_of.values()))
    assert int(traced.step) == 3
    assert_close(arrays(traced.weights), arrays(eager.weights), rtol=1e-6)


# ---- The original program ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original(shared_dir):
    """One step of the original's Trainer: see ../shared/fixtures/README.md.

    Returns dict: `expected` of reference.json, and {name: float32} before, after, m, v.
    """
    folder = shared_dir / "fixtures" / "cerebras_tf"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}")
    reference = json.loads((folder / "reference.json").read_text())
    before = tf.train.load_checkpoint(str(folder / "model.ckpt-1"))
    after = tf.train.load_checkpoint(str(folder / "classifier" / "model.ckpt-1"))
    fresh = {
        name: np.array(reference["classifier"][f"cls_output_{name.rpartition('/')[2]}"], np.float32)
        for name in reference["classifier"]["cls_output_variables"]
    }
    names = sorted(reference["adamw_step"]["update"])
    return {
        "expected": reference["adamw_step"],
        "before": {n: fresh[n] if n in fresh else before.get_tensor(n) for n in names},
        "after": {name: after.get_tensor(name) for name in names},
        "m": {name: after.get_tensor(f"{name}/AdamW") for name in names},
        "v": {name: after.get_tensor(f"{name}/AdamW_1") for name in names},
    }


def test_one_step_is_that_of_the_original_program(original):
    expected = original["expected"]
    given = {key: value for key, value in expected["settings"].items() if key != "dropout"}
    cfg = OptimizerParams.model_validate(given)
    optimizer = make(cfg, original["before"])
    assert optimizer.decayed == set(expected["variables_with_weight_decay"])

    # m began at 0, so the clipped gradient was m / (1 - beta1); before clipping it had this norm.
    norm = expected["unclipped_global_norm"]
    gradient_of = {name: m.astype(np.float64) / 0.1 * norm for name, m in original["m"].items()}
    report = apply(optimizer, gradient_of)
    assert float(report["train/unclipped_grad_norm"]) == pytest.approx(norm, rel=1e-5)
    for slot in ("m", "v"):
        # v is a square of m, both float32: relative 1e-4 where it is not nearly 0.
        assert_close(arrays(getattr(optimizer, slot)), original[slot], rtol=1e-4, atol=1e-9)
    for name, weight in optimizer.weights.items():
        figures = expected["update"][name]
        update = weight.numpy().astype(np.float64) - original["before"][name]
        assert np.abs(weight.numpy() - original["after"][name]).max() < 1e-6, name
        np.testing.assert_allclose(update.ravel()[:4], figures["first4"], rtol=0, atol=1e-6)
        # The original's sums are of float32 differences: 1e-4 relative, as the fixture says.
        assert np.linalg.norm(update) == pytest.approx(figures["l2"], rel=1e-4, abs=1e-6), name
