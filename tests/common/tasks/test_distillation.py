# SPDX-License-Identifier: Apache-2.0
"""The losses of a task that learns from a teacher, against NumPy in float64."""

import keras
import numpy as np
import pytest

from common.BaseModel import EVAL, PREDICT, TRAIN
from common.params.distillation import DistillationParams
from model import make_model, model_fn
from tests.reference.tiny_bert import random_features, randomize, tiny_params

TEMPERATURE, SOFT, HARD = 3.0, 0.7, 0.4


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return (
        x
        - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - x.max(-1, keepdims=True)
    )


def divergence(logits, teacher, temperature):
    """T^2 KL(softmax(teacher / T) || softmax(logits / T)) of each row."""
    ours, theirs = (log_softmax(np.asarray(x) / temperature) for x in (logits, teacher))
    return temperature**2 * (np.exp(theirs) * (theirs - ours)).sum(-1)


def distilling(task=None, num_classes=3, teacher_network=None, **keys):
    """Params of a tiny training with a teacher, whose network may be another."""
    network = keys.pop("network", {})
    params = tiny_params(num_classes, task=task, **network)
    params = params.model_copy(
        update={
            "runconfig": params.runconfig.model_copy(update={"mode": "train"}),
            "distillation": DistillationParams(
                teacher="none",
                temperature=TEMPERATURE,
                soft_weight=SOFT,
                hard_weight=HARD,
                **keys,
            ),
        }
    )
    of_teacher = tiny_params(num_classes, task=task, **(teacher_network or {}))
    return params.with_teacher(of_teacher)


def documented_features(batch=4):
    features = random_features(batch=batch, tokens=7)
    features["input_mask"] = 1 - features.pop("padding_mask")
    return features


def losses_of(params, targets, model=None):
    """The named losses of a training step and the outputs."""
    model = model or made(params)
    spec = model_fn(documented_features(), targets, TRAIN, params, model)
    return dict(zip(model.loss_figures, map(float, spec.losses), strict=True)), spec.predictions


def made(params):
    model = make_model(params)
    randomize(model)
    return model


def test_the_loss_is_the_tasks_own_and_the_divergence_from_the_teacher():
    params, generator = distilling(), np.random.default_rng(1)
    teacher, labels = generator.normal(size=(4, 3)).astype(np.float32), np.array([0, 2, 1, 1])
    losses, outputs = losses_of(params, {"labels": labels, "teacher_logits": teacher})
    logits = np.asarray(outputs["logits"], np.float64)
    hard = -log_softmax(logits)[np.arange(4), labels].mean()
    soft = divergence(logits, teacher, TEMPERATURE).mean()
    assert losses["train/cost_hard"] == pytest.approx(hard, rel=1e-5)
    assert losses["train/cost_soft"] == pytest.approx(soft, rel=1e-5)
    assert losses["train/cost"] == pytest.approx(HARD * hard + SOFT * soft, rel=1e-5)


def test_two_classes_by_hand():
    params = distilling(num_classes=2)
    model = made(params)
    outputs = {"logits": np.array([[0.0, 0.0]], np.float32)}
    teacher = np.array([[3 * np.log(3.0), 0.0]], np.float32)  # at T = 3: 3/4 and 1/4
    # 9 (3/4 log(3/4 / 1/2) + 1/4 log(1/4 / 1/2)) = 9 (0.75 log 1.5 - 0.25 log 2)
    soft = model.build_soft_loss(outputs, {"teacher_logits": teacher})
    assert float(soft) == pytest.approx(9 * (0.75 * np.log(1.5) - 0.25 * np.log(2)), rel=1e-5)


def test_the_gradient_is_t_times_the_difference_of_the_distributions():
    tf = pytest.importorskip("tensorflow")
    model, generator = made(distilling()), np.random.default_rng(2)
    logits, teacher = generator.normal(size=(2, 5, 3)).astype(np.float32)
    with tf.GradientTape() as tape:
        variable = tf.Variable(logits)
        loss = model.build_soft_loss({"logits": variable}, {"teacher_logits": teacher})
    p, q = (np.exp(log_softmax(x / TEMPERATURE)) for x in (teacher, logits))
    expected = TEMPERATURE * (q - p) / 5  # Hinton et al. 2015, equation 2, times T^2
    np.testing.assert_allclose(tape.gradient(loss, variable), expected, rtol=0, atol=1e-6)


def test_both_passes_of_r_drop_learn_from_the_teacher():
    params = distilling(network={"r_drop_alpha": 2.0, "dropout_rate": 0.1})
    generator = np.random.default_rng(3)
    pairs, teacher = generator.normal(size=(5, 2, 3)), generator.normal(size=(5, 3))
    soft = made(params).build_soft_loss(
        {"logits": pairs.astype(np.float32)}, {"teacher_logits": teacher.astype(np.float32)}
    )
    of_both = [divergence(pairs[:, n], teacher, TEMPERATURE).mean() for n in (0, 1)]
    assert float(soft) == pytest.approx(np.mean(of_both), rel=1e-5)


def test_each_label_of_several_has_its_own_divergence():
    params, generator = distilling("multi_label"), np.random.default_rng(4)
    teacher = generator.normal(size=(4, 3)).astype(np.float32)
    labels = generator.integers(0, 2, (4, 3)).astype(np.float32)
    losses, outputs = losses_of(params, {"labels": labels, "teacher_logits": teacher})
    p, q = (
        1 / (1 + np.exp(-np.asarray(x, np.float64) / TEMPERATURE))
        for x in (teacher, outputs["logits"])
    )
    terms = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    assert losses["train/cost_soft"] == pytest.approx(TEMPERATURE**2 * terms.mean(), rel=1e-5)


def test_a_regression_learns_the_teachers_number():
    params = distilling("regression", num_classes=1)
    teacher = np.array([[1.0], [2.0], [-1.0], [0.0]], np.float32)
    targets = {"labels": np.zeros(4, np.float32), "teacher_logits": teacher}
    losses, outputs = losses_of(params, targets)
    difference = np.asarray(outputs["logits"], np.float64) - teacher
    assert losses["train/cost_soft"] == pytest.approx(np.mean(difference**2), rel=1e-5)


def test_a_teacher_that_computes_gives_what_its_kept_outputs_give():
    labels = np.array([0, 2, 1, 1])
    params = distilling(teacher_outputs="computed", teacher_network={"hidden_size": 8})
    model = made(params)
    teacher = model.teacher.network
    randomize(teacher, seed=9)
    answers = teacher.build_model(documented_features(), PREDICT)["logits"]
    losses, _ = losses_of(params, {"labels": labels}, model)
    kept = distilling()
    targets = {"labels": labels, "teacher_logits": np.asarray(answers)}
    expected, _ = losses_of(kept, targets)
    assert losses == pytest.approx(expected, rel=1e-6)
    # Programs that are kept read the teacher's weights, too, and no checkpoint has them.
    assert "teacher/encoder/layer_1/attention/key/kernel" in model.loss_variables()
    assert not any("teacher" in name for name in model.weights_by_name())


def test_the_teacher_is_neither_trained_nor_a_part_of_the_network():
    keras.utils.set_random_seed(1)
    plain = make_model(tiny_params(3))
    model = made(distilling(teacher_outputs="computed"))
    assert model.weights_by_name().keys() == plain.weights_by_name().keys()
    assert len(model.trainable_weights) == len(plain.trainable_weights)
    assert not model.teacher.network.trainable_weights
    # The bits of the fresh weights are those of the task alone.
    keras.utils.set_random_seed(1)
    fresh = make_model(distilling(teacher_outputs="computed")).weights_by_name()
    for name, weight in plain.weights_by_name().items():
        np.testing.assert_array_equal(np.asarray(weight), np.asarray(fresh[name]))


def test_outside_training_it_is_the_task_alone():
    params = distilling()
    model = made(params)
    assert isinstance(model, keras.Model) and model.task == "classification"
    spec = model_fn(documented_features(), np.array([0, 2, 1, 1]), EVAL, params, model)
    assert set(spec.predictions) == {"logits"} and len(spec.losses) == 1
    evaluated = params.with_runconfig(mode="eval")
    assert type(make_model(evaluated)).__name__ == "BertClassifierModel"
