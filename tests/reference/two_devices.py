# SPDX-License-Identifier: Apache-2.0
"""Trains the tiny network on one device and on two, and prints by how much they differ, as JSON.

A program of its own: how many logical devices there are is settled before TensorFlow's first use.

    python -m tests.reference.two_devices [grad_accum_steps]
"""

import json
import sys

import keras
import numpy as np

from common.optimizers.factory import make_optimizer
from common.params import OptimizerParams, RunParams
from common.training.distribution import ONE_DEVICE, make_distribution
from common.training.train_step import make_train_step
from model import make_model, model_fn
from tests.reference.tiny_bert import randomize, tiny_params
from tests.reference.toy_rows import toy_tokens, toy_train_batches

# Attention dropout acts on [B, 2 heads, 11, 11]: 242 numbers a row, which is no multiple of four.
RATES = {"dropout_rate": 0.2, "attention_dropout_rate": 0.3, "cls_dropout_rate": 0.2}
NUM_UPDATES = 3


def train(distribution, **optimizer):
    """Returns the weights of each replica, {name: array}, and the losses."""
    keras.utils.set_random_seed(1)
    params = tiny_params(num_classes=2, num_hidden_layers=1, class_weights=[0.5, 3.0], **RATES)
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
    losses, batches = [], NUM_UPDATES * cfg.grad_accum_steps
    for features, labels in toy_train_batches(toy_tokens(60), 6, 0, batches):
        figures = step(features, labels)
        if figures is not None:
            losses.append(float(figures["train/cost_cls"]))
    return [
        {name: w.numpy() for name, w in each.weights_by_name().items()} for each, _ in replicas
    ], losses


def largest_difference(one, other):
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


def main(grad_accum_steps=1):
    two = make_distribution(RunParams(enable_distributed=True, num_devices=2))
    (first,), losses = train(ONE_DEVICE, grad_accum_steps=int(grad_accum_steps))
    (second, third), losses_of_two = train(two, grad_accum_steps=int(grad_accum_steps))
    found = {
        "devices": [name[-len("CPU:0") :] for name in two.devices],
        "replicas": largest_difference(second, third),
        "one": largest_difference(first, second),
        "loss": float(np.abs(np.subtract(losses, losses_of_two)).max()),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
