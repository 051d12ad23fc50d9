# SPDX-License-Identifier: Apache-2.0
"""Regression from features to predictions: a task in one file."""

import numpy as np
import pytest
import tensorflow as tf

from common.BaseModel import PREDICT, TRAIN
from common.tasks.regression import RegressionTask
from model import TASKS, make_model, model_fn
from tests.reference.tiny_bert import random_features, randomize, tiny_params

LABELS = np.array([0.5, -1.0, 2.0], np.float32)


def regression_params(**network):
    return tiny_params(num_classes=1, **network)


def documented_features():
    features = random_features(batch=3, tokens=7)
    features["input_mask"] = 1 - features.pop("padding_mask")
    return features


@pytest.fixture(scope="module")
def model():
    model = make_model(regression_params(), ("value",))
    randomize(model)
    return model


def test_the_params_name_the_task_and_its_head_has_one_output(model):
    assert TASKS["regression"] is RegressionTask and type(model) is RegressionTask
    assert model.weights_by_name()["classifier/kernel"].shape[-1] == 1
    assert model.checkpoint_config() == {"task": "regression", "label_names": ("value",)}


@pytest.mark.parametrize("labels", [LABELS, {"labels": LABELS}])
def test_the_loss_is_the_mean_square_of_an_array_as_of_named_targets(model, labels):
    spec = model_fn(documented_features(), labels, TRAIN, regression_params(), model)
    values = np.asarray(spec.predictions["logits"], np.float64)[:, 0]
    assert float(spec.loss) == pytest.approx(np.mean((values - LABELS) ** 2), rel=1e-5)
    assert len(spec.trainable_variables) == len(model.weights)


def test_r_drop_adds_half_alpha_times_the_square_of_the_difference():
    model = make_model(regression_params(r_drop_alpha=3.0, dropout_rate=0.1))
    pairs = np.array([[[1.0], [3.0]], [[0.0], [0.0]]], np.float32)  # labels 2 and 1
    loss = model.build_total_loss({"logits": pairs}, {"labels": np.array([2.0, 1.0])})
    # Means of the squares: (1 + 1) / 2 in both passes; differences 2 and 0: 3 / 2 * (4 + 0) / 2.
    assert float(loss) == pytest.approx(1.0 + 3.0, rel=1e-6)


def test_a_row_is_predicted_reported_and_served_as_one_value(model):
    spec = model_fn(documented_features(), None, PREDICT, regression_params(), model)
    logits = spec.predictions["logits"].numpy()
    records = model.predictions({"logits": logits})
    assert [record["value"] for record in records] == logits[:, 0].tolist()
    assert model.shorten(records[0]) == [f"{logits[0, 0]:.4f}"]
    served = model.export_outputs({"logits": tf.constant(logits)})
    np.testing.assert_array_equal(served["value"], logits[:, 0])
    metrics = model.build_eval_metric_ops()
    metrics.update({"logits": logits}, {"labels": LABELS}, np.arange(3))
    assert metrics.compute()["loss"] == pytest.approx(np.mean((logits[:, 0] - LABELS) ** 2.0))
    assert metrics.report()["num_examples"] == 3
