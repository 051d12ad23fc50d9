# SPDX-License-Identifier: Apache-2.0
"""Adam and AdamW against NumPy in float64, and AdamW against one step of the original program."""

import json

import numpy as np
import pytest
import tensorflow as tf

from common.params import OptimizerParams
from tests.reference.optimizer_steps import (
    apply,
    arrays,
    assert_close,
    check_against_float64,
    make,
    settings,
)

MOMENTS = {"m": 0.0, "v": 0.0}


def adamw_in_float64(g, slots, rate, cfg, t):
    """The formula of ../shared/fixtures/README.md; decay is added by `steps_in_float64`."""
    slots["m"] = cfg.beta1 * slots["m"] + (1 - cfg.beta1) * g
    slots["v"] = cfg.beta2 * slots["v"] + (1 - cfg.beta2) * g**2
    u = slots["m"] / (np.sqrt(slots["v"]) + cfg.epsilon)
    if cfg.use_bias_correction or cfg.optimizer_type == "adam":
        u *= np.sqrt(1 - cfg.beta2**t) / (1 - cfg.beta1**t)
    return rate * u


@pytest.mark.parametrize("use_bias_correction", [False, True])
@pytest.mark.parametrize("max_gradient_norm", [None, 20.0, 0.5])  # some steps clipped, or all
@pytest.mark.parametrize("weight_decay_rate", [0.0, 0.3])
def test_five_steps_of_adamw_match_numpy_in_float64(
    use_bias_correction, max_gradient_norm, weight_decay_rate
):
    cfg = settings(
        use_bias_correction=use_bias_correction,
        max_gradient_norm=max_gradient_norm,
        weight_decay_rate=weight_decay_rate,
    )
    check_against_float64(adamw_in_float64, MOMENTS, cfg)


@pytest.mark.parametrize("beta1", [0.0, 0.8])
def test_five_steps_of_adam_match_numpy_in_float64(beta1):
    cfg = settings(optimizer_type="adam", beta1=beta1)
    check_against_float64(adamw_in_float64, MOMENTS, cfg)


@pytest.mark.parametrize("beta2", [0.999, 0.99999])
def test_the_first_step_of_adam_is_the_rate_itself(beta2):
    # (1 - beta1) g / (1 - beta1) / sqrt((1 - beta2) g^2 / (1 - beta2)) = 1, to float32's digits:
    # 1 - 0.99999 as a difference of float32 numbers would be off by 0.002.
    cfg = OptimizerParams(optimizer_type="adam", learning_rate=0.01, epsilon=1e-20, beta2=beta2)
    optimizer = make(cfg, {"pooler/bias": np.zeros(3)})
    apply(optimizer, {"pooler/bias": np.array([-5.0, 0.01, 400.0])})
    update = optimizer.weights["pooler/bias"].numpy()
    np.testing.assert_allclose(update, [0.01, -0.01, -0.01], rtol=1e-6)


def test_the_first_step_without_bias_correction_is_3_16_times_the_rate():
    # (1 - 0.9) g / sqrt((1 - 0.999) g^2) = 0.1 / sqrt(0.001) = 3.1623, whatever g is.
    cfg = OptimizerParams.model_validate({"learning_rate": 0.01, "epsilon": 1e-12})
    optimizer = make(cfg, {"pooler/bias": np.zeros(3)})
    apply(optimizer, {"pooler/bias": np.array([-5.0, 0.01, 400.0])})
    update = optimizer.weights["pooler/bias"].numpy()
    np.testing.assert_allclose(update, np.array([1, -1, -1]) * 0.01 * 0.1 / 0.001**0.5, rtol=1e-6)


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
        assert_close(arrays(optimizer.slots[slot]), original[slot], rtol=1e-6, atol=1e-12)
    for name, weight in optimizer.weights.items():
        figures = expected["update"][name]
        update = weight.numpy().astype(np.float64) - original["before"][name]
        assert np.abs(weight.numpy() - original["after"][name]).max() < 1e-6, name
        np.testing.assert_allclose(update.ravel()[:4], figures["first4"], rtol=0, atol=1e-6)
        # The original's sums are of float32 differences: 1e-4 relative, as the fixture says.
        assert np.linalg.norm(update) == pytest.approx(figures["l2"], rel=1e-4, abs=1e-6), name
