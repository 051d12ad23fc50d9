# SPDX-License-Identifier: Apache-2.0
"""Calibration after training: the temperature of Guo et al. 2017, and where it is used."""

import csv
import json
import shutil

import numpy as np
import pytest

from common.checkpoints import store
from common.checkpoints.formats import ours
from common.checkpoints.load import open_checkpoint
from common.errors import UserError
from common.metrics.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE
from common.metrics.regression import RegressionMetrics
from common.training.exporter import export_checkpoint
from common.training.predictor import predict
from tests.reference.tiny_bert import randomize
from tests.reference.toy_session import (
    LABELS,
    SPLITS,
    VOCAB,
    logits_in_rows,
    make_evaluator,
    make_params,
    make_session,
    make_trainer,
    metrics_in_numpy,
    train,
)


@pytest.fixture(scope="module")
def calibrated(trained, tmp_path_factory):
    """A copy of `trained` with another network, whose run has been ended again.

    Its random weights are right more often than not, and too sure of it.
    """
    model_dir = tmp_path_factory.mktemp("calibrated")
    shutil.copytree(trained, model_dir, dirs_exist_ok=True)
    model = make_session(make_params(model_dir)).new_model()
    weights = randomize(model)
    logits = np.concatenate([logits_in_rows(model, tokens) for tokens in SPLITS.values()])
    labels = np.concatenate([tokens.targets["labels"] for tokens in SPLITS.values()])
    margins = logits[:, 1] - logits[:, 0]
    middle = np.sort(margins)[10:12].mean()  # of 21: no row is as probable for both classes
    scale = 30 * np.sign(np.mean((margins - middle) * (2 * labels - 1)))
    bias = weights["classifier/bias"] + np.array([middle, 0])
    weights["classifier/kernel"] *= np.float32(scale)
    weights["classifier/bias"] = (scale * bias).astype(np.float32)
    path = model_dir / "checkpoint-12"
    state = {name: tensor.read() for name, tensor in ours.read_state(path).items()}
    ours.save_checkpoint(model_dir, 12, weights, state, ours.read_config(path), VOCAB)
    values = {"mode": "train_and_eval", "save_checkpoints_steps": 4}
    train(model_dir, max_steps=12, calibrate_temperature=True, **values)
    return model_dir


def test_a_task_without_probabilities_is_refused_before_training(tmp_path):
    trainer = make_trainer(make_params(tmp_path, max_steps=2, calibrate_temperature=True))
    trainer.model.build_eval_metric_ops = RegressionMetrics
    with pytest.raises(UserError, match="BertClassifierModel gives no probabilities"):
        trainer.train()
    assert store.list_checkpoints(tmp_path) == []


def test_the_temperature_is_the_likeliest_and_is_kept_with_the_checkpoint(calibrated):
    path = calibrated / "checkpoint-12"
    assert store.fault_in(path) is None
    temperature = ours.read_config(path)["temperature"]
    inference = make_evaluator(make_params(calibrated, mode="eval")).inference
    inference.load(open_checkpoint(path))
    assert inference.model.temperature == temperature
    assert MIN_TEMPERATURE < temperature < MAX_TEMPERATURE
    logits = np.concatenate([logits_in_rows(inference.model, tokens) for tokens in SPLITS.values()])
    labels = np.concatenate([tokens.targets["labels"] for tokens in SPLITS.values()])
    facts = json.loads((calibrated / "eval" / "calibration.json").read_text())["checkpoint-12"]
    losses = {t: metrics_in_numpy(logits / t, labels)["loss"] for t in (1.0, temperature)}
    # Float32 logits near 30, which are 2e-6 apart.
    assert facts["before"]["loss"] == pytest.approx(losses[1.0], abs=5e-6)
    assert facts["after"]["loss"] == pytest.approx(losses[temperature], abs=5e-6)
    for factor in (0.9, 1.1):
        loss = metrics_in_numpy(logits / (factor * temperature), labels)["loss"]
        assert loss > losses[temperature]
    assert facts["num_examples"] == len(labels)
    # Hand-made: bins of 1/15 by confidence.
    probabilities = np.exp(logits / temperature)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    confidence, hits = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    error = 0.0
    for n in range(15):
        inside = (confidence > n / 15) & (confidence <= (n + 1) / 15)
        error += abs(confidence[inside].sum() - hits[inside].sum()) / len(labels)
    assert facts["after"]["expected_calibration_error"] == pytest.approx(error, abs=1e-6)
    for step in (4, 8):  # neither the last nor the best
        assert "temperature" not in ours.read_config(calibrated / f"checkpoint-{step}")


def test_predictions_have_the_calibrated_probabilities(calibrated, tmp_path):
    params = make_params(tmp_path, mode="predict")
    inference = make_evaluator(params, checkpoint=open_checkpoint(calibrated)).inference
    predict(inference.session, inference)
    logits = np.load(tmp_path / "predict" / "predictions_tf_0.npz")["arr_0"].astype(np.float64)
    scaled = np.exp(logits / inference.model.temperature)
    expected = scaled / scaled.sum(axis=1, keepdims=True)
    with open(tmp_path / "predict" / "predictions_tf_0.tsv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    actual = [[float(row[f"p_{name}"]) for name in LABELS] for row in rows]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)  # six decimals


def test_an_export_has_the_temperature_in_its_weights(calibrated, tmp_path):
    params = make_params(tmp_path, mode="export")
    evaluator = make_evaluator(params, checkpoint=open_checkpoint(calibrated))
    export_checkpoint(evaluator, "huggingface", tmp_path / "exported")
    exported = open_checkpoint(tmp_path / "exported")
    weights = ours.read_weights(calibrated / "checkpoint-12")
    temperature = ours.read_config(calibrated / "checkpoint-12")["temperature"]
    for name, tensor in weights.items():
        factor = temperature if name.startswith("classifier/") else 1.0
        np.testing.assert_array_equal(
            np.asarray(exported.weights[name]), tensor.read() / np.float32(factor)
        )
