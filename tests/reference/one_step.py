# SPDX-License-Identifier: Apache-2.0
"""A training step of a task here beside that of transformers and torch in fine_tuning_step.json."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from common.BaseModel import PREDICT, TRAIN
from common.checkpoints.formats.huggingface import huggingface_tensors
from common.checkpoints.load import load_weights, open_checkpoint
from common.optimizers.factory import make_optimizer
from common.params import OptimizerParams
from common.training.train_step import make_train_step
from model import make_model, model_fn
from tests.reference.tiny_bert import save_head

STEP = json.loads(Path(__file__).with_name("fine_tuning_step.json").read_text())


def adamw(weights):
    """The optimizer of the step; torch's epsilon is corrected for the step, ours not."""
    settings = STEP["settings"]
    section = {
        "learning_rate": settings["lr"],
        "beta1": settings["betas"][0],
        "beta2": settings["betas"][1],
        "epsilon": settings["eps"] * (1 - settings["betas"][1]) ** 0.5,
        "use_bias_correction": True,
        "weight_decay_rate": settings["weight_decay"],
        "max_gradient_norm": settings["clip"],
    }
    return make_optimizer(weights, OptimizerParams.model_validate(section))


def check_one_step(params, folder):
    """Asserts that a step ends with the weights of transformers, from a checkpoint of its.

    params: tiny Params of a task of the file. folder: Path to write the checkpoint in.
    """
    step = STEP[params.task]
    checkpoint = open_checkpoint(save_head(folder, params.task))
    assert checkpoint.config["task"] == params.task
    model = make_model(params, checkpoint.config.get("label_names") or ())
    assert not load_weights(model, checkpoint).fresh
    weights = {name: weight.value for name, weight in model.weights_by_name().items()}
    started = huggingface_tensors({name: weight.numpy() for name, weight in weights.items()})
    train_step = make_train_step(model_fn, params, model, adamw(weights))
    features = {name: tf.constant(rows, tf.int32) for name, rows in step["features"].items()}
    batch = {
        "input_ids": features["input_ids"],
        "input_mask": 1 - features["attention_mask"],
        "segment_ids": features["token_type_ids"],
    }
    targets = {  # no label is -1 here, -100 there
        name: tf.constant(np.maximum(each, -1), model.targets.specs[name].dtype)
        for name, each in step["targets"].items()
    }
    for name, output in model.build_model(dict(batch), PREDICT).items():
        np.testing.assert_allclose(output, step["outputs"][name], rtol=0, atol=1e-6)
    figures = train_step(dict(batch), targets)
    # Float32 against float32 by another program.
    assert float(figures[model.loss_figures[0]]) == pytest.approx(step["loss"], rel=1e-6)
    norm = float(figures["train/unclipped_grad_norm"])
    assert norm == pytest.approx(step["gradient_norm"], rel=1e-5)
    ended = huggingface_tensors({name: weight.numpy() for name, weight in weights.items()})
    assert set(ended) == set(step["weights_after"])
    expected = {name: np.array(weight) for name, weight in step["weights_after"].items()}
    difference, update = (
        float(np.sqrt(np.mean(np.concatenate([each.ravel() for each in arrays]) ** 2)))
        for arrays in (
            [ended[name] - expected[name] for name in expected],
            [expected[name] - started[name].astype(np.float64) for name in expected],
        )
    )
    print(f"weights after the step: rms {difference:.1e} of updates of {update:.1e}")  # pytest -s
    assert update > 5e-5
    assert difference < 1e-8  # weights near 0.1 are 7e-9 apart
    outputs = model.build_model(dict(batch), TRAIN)
    after = float(model.build_total_loss(outputs, targets))
    assert after == pytest.approx(step["loss_after"], rel=1e-5)
