# SPDX-License-Identifier: Apache-2.0
"""One training step: its programs, what it reports, and updates from several batches."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from common.optimizers.factory import make_optimizer
from common.params import OptimizerParams
from common.training.train_step import make_train_step, one_program_per_shape
from input.batches import make_batches, row_lengths
from model import make_model, model_fn
from tests.reference.tiny_bert import tiny_params
from tests.reference.toy_rows import (
    MAX_SEQUENCE_LENGTH,
    TOKENIZER,
    toy_tokens,
    toy_train_batches,
)


def test_a_step_is_compiled_once_for_every_shape():
    traced = []

    @one_program_per_shape
    def step(features, factor):
        traced.append(features["input_ids"].shape)
        return tf.reduce_sum(features["input_ids"]) * factor

    for length in (2, 3, 2, 3, 2):
        features = {"input_ids": tf.fill((5, length), 1)}
        assert int(step(features, tf.constant(7))) == 5 * length * 7
    assert traced == [(5, 2), (5, 3)]


def tiny_training(dropout_rate=0.1, runconfig=None, model=None, **optimizer):
    """The tiny network, its optimizer and its training step."""
    keras.utils.set_random_seed(1)
    names = ("dropout_rate", "attention_dropout_rate", "cls_dropout_rate")
    rates = dict.fromkeys(names, dropout_rate)
    params = tiny_params(num_classes=2, num_hidden_layers=1, **rates, **(model or {}))
    params = params.with_runconfig(**(runconfig or {}))
    model = make_model(params)
    weights = {name: w.value for name, w in model.weights_by_name().items()}
    given = {"learning_rate": 3e-3, "epsilon": 1e-6, "use_bias_correction": True} | optimizer
    cfg = OptimizerParams.model_validate(given)
    made = make_optimizer(weights, cfg, params.model.num_hidden_layers)
    return model, made, make_train_step(model_fn, params, model, made)


def test_the_loss_falls_on_a_problem_that_can_be_learnt():
    _, optimizer, train_step = tiny_training()
    tokens = toy_tokens(40)
    losses = []
    for features, targets in toy_train_batches(tokens, 8, 0, 200):
        losses.append(float(train_step(features, targets)["train/cost_cls"]))
    assert int(optimizer.step) == 200
    assert losses[0] == pytest.approx(np.log(2), abs=0.05)  # guessing between two classes
    assert np.mean(losses[-10:]) < 0.3


def test_an_array_of_labels_is_taken_as_a_dict_of_targets_is():
    losses = []
    for targets_of in (
        dict,
        lambda targets: targets["labels"],
    ):  # an input function of a user's own
        _, _, train_step = tiny_training()
        batches = toy_train_batches(toy_tokens(40), 8, 0, 3)
        losses.append([float(train_step(x, targets_of(y))["train/cost_cls"]) for x, y in batches])
    assert losses[0] == losses[1]


def test_a_step_reports_what_the_original_reports_and_moves_every_weight():
    model, _, train_step = tiny_training(learning_rate=0.25, max_gradient_norm=1.0)
    before = {name: w.numpy() for name, w in model.weights_by_name().items()}
    for features, targets in toy_train_batches(toy_tokens(40), 8, 0, 2):
        figures = train_step(features, targets)
    assert set(figures) == {
        "train/cost_cls",
        "train/lr",
        "train/unclipped_grad_norm",
        "train/loss_scale",
    }
    assert float(figures["train/lr"]) == 0.25 and float(figures["train/loss_scale"]) == 1
    assert int(model.clock.step) == 1  # dropout is drawn anew in each step: 0, then 1
    for name, weight in model.weights_by_name().items():
        assert np.abs(weight.numpy() - before[name]).max() > 0, name


# ---- Updates from several batches ----------------------------------------------------------------


def batches_of(tokens, rows, lengths):
    """rows: int [steps, B]; lengths: int [steps]."""
    return make_batches(
        tokens,
        TOKENIZER,
        np.asarray(rows, np.int32),
        np.asarray(lengths, np.int32),
        MAX_SEQUENCE_LENGTH,
        with_weights=False,
    )


def test_four_batches_of_8_make_the_update_of_one_of_32():
    tokens = toy_tokens(64)
    longest = row_lengths(tokens, MAX_SEQUENCE_LENGTH)
    # The same rows in each update; those of 8 are sorted by length, and the short ones padded less.
    order = [half[np.argsort(longest[half], kind="stable")] for half in np.split(np.arange(64), 2)]
    eighths = np.concatenate(order).reshape(8, 8)
    lengths = np.where(longest[eighths].max(axis=1) <= 8, 8, MAX_SEQUENCE_LENGTH)
    assert len(set(lengths[:4])) == 2
    settings = {"dropout_rate": 0.0, "weight_decay_rate": 0.1, "max_gradient_norm": 0.1}
    one, optimizer_of_one, train_step = tiny_training(**settings)
    losses = [
        float(train_step(*batch)["train/cost_cls"])
        for batch in batches_of(tokens, np.arange(64).reshape(2, 32), [MAX_SEQUENCE_LENGTH] * 2)
    ]
    four, optimizer_of_four, train_step = tiny_training(grad_accum_steps=4, **settings)
    figures = [train_step(*batch) for batch in batches_of(tokens, eighths, lengths)]
    assert [f is None for f in figures] == [True, True, True, False] * 2
    assert int(optimizer_of_four.step) == int(optimizer_of_one.step) == 2
    reported = [float(figures[i]["train/cost_cls"]) for i in (3, 7)]
    np.testing.assert_allclose(reported, losses, rtol=0, atol=1e-6)
    for slot, expected in optimizer_of_one.slots.items():
        for name, value in expected.items():
            actual = optimizer_of_four.slots[slot][name].numpy()
            np.testing.assert_allclose(actual, value.numpy(), rtol=0, atol=1e-6, err_msg=name)
    largest = 0.0
    for name, weight in one.weights_by_name().items():
        # A key bias has no gradient but rounding, which Adam would blow up.
        if not name.endswith("key/bias"):
            difference = np.abs(four.weights_by_name()[name].numpy() - weight.numpy()).max()
            largest = max(largest, float(difference))
    print(f"largest difference of a weight: {largest:.1e}")  # shown by pytest -s
    assert largest < 1e-6


def test_each_batch_of_an_update_has_dropout_masks_of_its_own():
    tokens = toy_tokens(8)
    rows, lengths = np.tile(np.arange(8), (4, 1)), [MAX_SEQUENCE_LENGTH] * 4
    model, _, train_step = tiny_training(grad_accum_steps=2, learning_rate=0.0)
    clock, losses = [], []
    for batch in batches_of(tokens, rows, lengths):
        figures = train_step(*batch)
        clock.append(int(model.clock.step))
        losses += [] if figures is None else [float(figures["train/cost_cls"])]
    assert clock == [0, 1, 2, 3]
    _, _, train_step = tiny_training(learning_rate=0.0)
    alone = [
        float(train_step(*batch)["train/cost_cls"]) for batch in batches_of(tokens, rows, lengths)
    ]
    assert len(set(alone)) == 4  # the same rows and weights
    np.testing.assert_allclose(losses, [np.mean(alone[:2]), np.mean(alone[2:])], rtol=1e-6)


def test_batches_grow_at_the_step_that_is_given_and_the_updates_are_those_of_each_number():
    tokens, settings = toy_tokens(40), {"dropout_rate": 0.0, "max_gradient_norm": 0.1}
    lengths = [MAX_SEQUENCE_LENGTH] * 5
    batches = list(batches_of(tokens, np.arange(40).reshape(5, 8), lengths))
    # Two updates of a batch, then one of three.
    growth = {"grad_accum_schedule": [[0, 1], [2, 3]]}
    growing, optimizer, train_step = tiny_training(**growth, **settings)
    clock, figures = [], []
    for batch in batches:
        figures.append(train_step(*batch))
        clock.append(int(growing.clock.step))
    assert [f is None for f in figures] == [False, False, True, True, False]
    assert clock == [0, 1, 2, 3, 4] and int(optimizer.step) == 3
    # The same updates one after the other: two by themselves, then a mean over 24 rows.
    plain, _, train_step = tiny_training(**settings)
    losses = [float(train_step(*batch)["train/cost_cls"]) for batch in batches[:2]]
    (whole,) = batches_of(tokens, np.arange(16, 40).reshape(1, 24), lengths[:1])
    losses.append(float(train_step(*whole)["train/cost_cls"]))
    actual = [float(figures[n]["train/cost_cls"]) for n in (0, 1, 4)]
    np.testing.assert_allclose(actual, losses, rtol=0, atol=1e-6)
    for name, weight in plain.weights_by_name().items():
        if not name.endswith("key/bias"):  # whose gradient is rounding, which Adam would blow up
            actual = growing.weights_by_name()[name].numpy()
            np.testing.assert_allclose(actual, weight.numpy(), rtol=0, atol=1e-5, err_msg=name)


# ---- Figures of gradients ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grad_accum_steps", "policy"), [(1, "float32"), (2, "float32"), (2, "mixed_bfloat16")]
)
def test_figures_of_gradients_come_at_steps_with_a_summary(grad_accum_steps, policy):
    model, optimizer, train_step = tiny_training(
        model={"mixed_precision": policy},
        runconfig={"save_summary_steps": 2},
        optimizer_type="sgd",
        learning_rate=1.0,
        loss_scaling_factor=4,
        grad_accum_steps=grad_accum_steps,
        log_grads=True,
        log_hists=True,
        ws_summary=True,
    )
    kernels = {n for n in optimizer.weights if n.endswith("/kernel")}
    biases = {n for n in optimizer.weights if n.endswith("/bias")}
    expected = {f"{what}_kernel_grads/{n}" for n in kernels for what in ("norm", "sparsity")}
    expected |= {f"denormal_kernel_grads/{n}" for n in kernels}
    expected |= {f"{what}_bias_grads/{n}" for n in biases for what in ("norm", "sparsity")}
    expected |= {f"denormal_bias_grads/{n}" for n in biases}
    expected |= {"train/grad_num_zeros", "train/params_norm", "histograms"}
    usual = {"train/cost_cls", "train/lr", "train/unclipped_grad_norm", "train/loss_scale"}
    batches = list(toy_train_batches(toy_tokens(40), 8, 0, 4 * grad_accum_steps))
    for step in range(1, 5):
        before = {name: w.numpy() for name, w in model.weights_by_name().items()}
        for _ in range(grad_accum_steps):
            figures = train_step(*batches.pop(0))
        assert set(figures) == usual | (expected if step % 2 == 0 else set())
    # The gradients are what sgd at a rate of 1 took off the weights.
    gradients = {name: before[name] - w.numpy() for name, w in model.weights_by_name().items()}
    for name in ("pooler/kernel", "classifier/bias"):
        norm = 4 * np.linalg.norm(gradients[name])  # times the loss scale
        kind = name.rpartition("/")[2]
        assert float(figures[f"norm_{kind}_grads/{name}"]) == pytest.approx(norm, rel=1e-3)
        counts = figures["histograms"][f"{kind}_grads/{name}"].numpy()[:, 2]
        assert counts.sum() == gradients[name].size
    zeros = sum(np.sum(gradient == 0) for gradient in gradients.values())  # rows that did not occur
    assert 0 < float(figures["train/grad_num_zeros"]) <= zeros
    norm = np.sqrt(sum(np.sum(np.square(w, dtype=np.float64)) for w in before.values()))
    assert float(figures["train/params_norm"]) == pytest.approx(norm, rel=1e-5)
