# SPDX-License-Identifier: Apache-2.0
"""Trains the tiny network on one device and on two, and prints by how much they differ, as JSON.

A program of its own: how many logical devices there are is settled before TensorFlow's first use.

    python -m tests.reference.two_devices [grad_accum_steps [task]]
"""

import json
import sys

import keras
import numpy as np
import tensorflow as tf

from common.optimizers.factory import make_optimizer
from common.params import OptimizerParams, RunParams
from common.training.distribution import ONE_DEVICE, make_distribution
from common.training.train_step import make_train_step
from model import make_model, model_fn
from tests.reference.tiny_bert import randomize, tiny_params
from tests.reference.toy_rows import toy_tokens, toy_train_batches

# Attention dropout acts on [B, 2 heads, 11, 11]: 242 numbers a row, which is no multiple of four.
RATES = {"dropout_rate": 0.2, "attention_dropout_rate": 0.3}
NETWORKS = {
    "classification": {"num_classes": 2, "class_weights": [0.5, 3.0], "cls_dropout_rate": 0.2},
    "token_classification": {
        "num_classes": 3,
        "class_weights": [0.5, 3.0, 1.0],
        "encoder_output_dropout_rate": 0.2,
    },
}
NUM_UPDATES = 3


def targets_of(task, features, labels, number):
    """The labels of rows, or of words: a third of the tokens of the first row, all of the last."""
    if task == "classification":
        return labels
    generator = np.random.default_rng(number)
    shape = features["input_ids"].shape
    is_labelled = generator.random(shape) < np.linspace(0.3, 1.0, shape[0])[:, None]
    return {"labels": tf.constant(np.where(is_labelled, generator.integers(0, 3, shape), -1))}


def train(distribution, task, **optimizer):
    """Returns the weights of each replica, {name: array}, and the losses."""
    keras.utils.set_random_seed(1)
    params = tiny_params(task=task, num_hidden_layers=1, **NETWORKS[task], **RATES)
    # epsilon as in the configs: with 1e-8 Adam makes steps of full size from key biases, whose
    # gradients are nothing but rounding (softmax ignores what all keys have in common).
    cfg = OptimizerParams(learning_rate=1e-3, epsilon=1e-6, max_gradient_norm=0.5, **optimizer)

    def build():
        model = make_model(params)
        weights = {name: w.value for name, w in model.weights_by_name().items()}
        return model, make_optimizer(weights, cfg, 1)

    model, made = build()
    randomize(model)
    replicas = []

    def keep(*arguments):
        replicas.extend(type(distribution).replicate(distribution, *arguments))
        return replicas

    distribution.replicate = keep
    step = make_train_step(model_fn, params, model, made, distribution, build)
    del distribution.replicate
    losses, batches = [], cfg.accumulation.batches(NUM_UPDATES)
    toy_batches = toy_train_batches(toy_tokens(60), 6, 0, batches)
    for number, (features, labels) in enumerate(toy_batches):
        figures = step(features, targets_of(task, features, labels, number))
        if figures is not None:
            losses.append(float(figures["train/cost_cls"]))
    return [
        {name: w.numpy() for name, w in each.weights_by_name().items()} for each, _ in replicas
    ], losses


def largest_difference(one, other):
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


def main(grad_accum_steps=1, task="classification"):
    two = make_distribution(RunParams(enable_distributed=True, num_devices=2))
    (first,), losses = train(ONE_DEVICE, task, grad_accum_steps=int(grad_accum_steps))
    (second, third), losses_of_two = train(two, task, grad_accum_steps=int(grad_accum_steps))
    found = {
        "devices": [name[-len("CPU:0") :] for name in two.devices],
        "replicas": largest_difference(second, third),
        "one": largest_difference(first, second),
        "loss": float(np.abs(np.subtract(losses, losses_of_two)).max()),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
