# SPDX-License-Identifier: Apache-2.0
"""What the TensorFlow model computes, for the twin to be held against.

    .venv/bin/python tests/cs/tensorflow_side.py FOLDER [MINILM_FOLDER DATA_FOLDER]

writes a folder for each case: params.json, and arrays.safetensors with the weights, one batch,
its outputs and losses, the gradient of every weight, and the weights after one update; and
rates.json, learning rates. The environment of the SDK has no TensorFlow, so this is a program of
its own.
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import data
from common.BaseModel import EVAL, TRAIN
from common.checkpoints.load import load_weights, open_checkpoint
from common.optimizers.factory import make_optimizer
from common.optimizers.schedules import make_schedule
from common.params import OptimizerParams
from model import make_model, model_fn
from tests.cs.schedules import SCHEDULES, STEPS
from tests.reference.tiny_bert import (
    NUM_CLASSES,
    VOCAB_SIZE,
    random_features,
    randomize,
    tiny_params,
)
from utils import get_params

OPTIMIZER = {
    "learning_rate": 0.01,
    "weight_decay_rate": 0.1,
    "epsilon": 1e-6,
    "max_gradient_norm": 0.5,  # below the norms that come up
}

# Case -> (keys of `model`, of `optimizer`), the others being those of tiny_params and OPTIMIZER.
CASES = {
    "plain": ({}, {}),
    "pre_norm": ({"use_pre_normalization": True, "encoder_nonlinearity": "gelu_tanh"}, {}),
    "no_tables": ({"use_position_embedding": False, "use_segment_embedding": False}, {}),
    "fixed_factorized": (
        {"position_embedding_type": "fixed", "embedding_size": 11, "encoder_nonlinearity": "silu"},
        {"layer_wise_lr_decay": 0.5},
    ),
    "no_biases": (
        {
            "use_ffn_bias": False,
            "use_projection_bias_in_attention": False,
            "use_ffn_bias_in_attention": False,
            "attention_type": "dot_product",
            "encoder_nonlinearity": "relu",
        },
        {"max_gradient_norm": None, "max_gradient_value": 0.01},
    ),
    "last": ({"pooler_type": "last", "encoder_nonlinearity": "tanh"}, {"optimizer_type": "adam"}),
    "mean": ({"pooler_type": "mean"}, {"use_bias_correction": True}),
    "max": ({"pooler_type": "max", "label_smoothing": 0.1}, {}),
    "sum": ({"pooler_type": "sum", "focal_gamma": 2.0}, {}),
    "weighted": ({"class_weights": [0.5, 1.0, 1.5, 2.0, 0.25], "freeze": ["embeddings"]}, {}),
    "frozen": ({"freeze": ["layers:1", "pooler"]}, {}),
}

# The same of pre-training.
PRETRAINING = {
    "mlm_nsp": ({"mlm_loss_weight": 0.7}, {}),
    "mlm_own_table": (
        {
            "share_embedding_weights": False,
            "embedding_size": 11,
            "mlm_nonlinearity": "relu",
            "nsp_nonlinearity": "gelu",
            "use_ffn_bias_in_mlm": False,
            "use_output_bias_in_mlm": False,
            "use_nsp_bias": False,
            "mlm_loss_scaling": "batch_size",
        },
        {},
    ),
    "mlm_only": (
        {"disable_nsp": True, "use_pre_normalization": True, "encoder_nonlinearity": "gelu_tanh"},
        {"optimizer_type": "adam"},
    ),
    "mlm_frozen": ({"embedding_size": 5, "freeze": ["embeddings"]}, {}),
}


def write_case(folder, params, model, features, targets):
    """One batch through the network and the optimizer: as the input pipeline has them, but that
    padding is 1 in input_mask."""
    weights = model.weights_by_name()
    arrays = {f"weights/{name}": np.asarray(weight).copy() for name, weight in weights.items()}
    batch = features | targets
    arrays |= {f"batch/{name}": np.array(array) for name, array in batch.items()}
    arrays["batch/padding_mask"] = 1 - arrays.pop("batch/input_mask")
    outputs = model.build_model(features, EVAL)
    arrays |= {f"outputs/{name}": np.array(array) for name, array in outputs.items()}
    with tf.GradientTape() as tape:
        spec = model_fn(features, targets, TRAIN, params, model)
    names = {variable.path.split("/", 1)[1] for variable in model.trainable_weights}
    trained = {name: weights[name].value for name in weights if name in names}
    gradients = [tf.convert_to_tensor(g) for g in tape.gradient(spec.loss, list(trained.values()))]
    arrays["losses"] = np.array([loss.numpy() for loss in spec.losses])
    for name, gradient in zip(trained, gradients, strict=True):
        arrays[f"gradients/{name}"] = gradient.numpy()
    optimizer = make_optimizer(trained, params.optimizer, params.model.num_hidden_layers)
    optimizer.apply(gradients)
    arrays |= {f"updated/{name}": np.asarray(weight).copy() for name, weight in weights.items()}
    folder.mkdir(parents=True)
    save_file({name: np.asarray(array, order="C") for name, array in arrays.items()},
              folder / "arrays.safetensors")  # fmt: skip
    (folder / "params.json").write_text(params.model_dump_json())


def write_tiny(folder, model, optimizer, task=None):
    params = tiny_params(task=task, **model)
    params = params.model_copy(update={"optimizer": OptimizerParams(**OPTIMIZER | optimizer)})
    network = make_model(params)
    randomize(network)
    features = random_features()
    features["input_mask"] = 1 - features.pop("padding_mask")
    targets = {"labels": np.arange(3, dtype=np.int32) % NUM_CLASSES}
    if task is not None:
        features["masked_lm_positions"] = np.array([[0, 2], [1, 3], [0, 0]], np.int32)
        weights = np.array([[1, 1], [1, 1], [1, 0]], np.float32)  # the last 0 is filler
        ids = np.array([[3, 5], [VOCAB_SIZE - 1, 2], [7, 0]], np.int32)
        labels = np.array([0, 1, 1], np.int32)
        targets = {"masked_lm_ids": ids, "masked_lm_weights": weights,
                   "next_sentence_labels": labels}  # fmt: skip
    batch = ({n: tf.constant(a) for n, a in part.items()} for part in (features, targets))
    write_case(folder, params, network, *batch)


def write_minilm(folder, weights, data_dir):
    """Real weights and the first batch of the embedded sample, which is prepared in data_dir."""
    overrides = {
        "*_input.data_dir": data_dir,
        "train_input.packing": "none",
        "model.freeze": [],
        "train_input.batch_size": 8,
        "model.dropout_rate": 0.0,
        "model.attention_dropout_rate": 0.0,
        "model.r_drop_alpha": 0.0,  # there is nothing to it without dropout
        "model.cls_dropout_rate": 0.0,
        "optimizer.learning_rate": 5e-5,
        "optimizer.warmup_ratio": None,
        "optimizer.decay": None,
        "model.mixed_precision": "float32",
    }
    root = Path(__file__).resolve().parents[2]
    path = root / "configs" / "params_bert_minilm_sample.yaml"
    checkpoint = open_checkpoint(weights)
    params = get_params(path, overrides)
    params, *_ = data.complete_params(params, checkpoint.config, path)
    model = make_model(params)
    load_weights(model, checkpoint)
    features, targets = next(iter(data.train_input_fn(params, 0, 1)))
    write_case(folder, params, model, features, targets)


def main(folder, minilm=None, data_dir=None):
    folder = Path(folder)
    for name, (model, optimizer) in CASES.items():
        write_tiny(folder / name, model, optimizer)
    for name, (model, optimizer) in PRETRAINING.items():
        write_tiny(folder / name, model, optimizer, "pretraining")
    rates = {}
    for name, (schedule, overlap) in SCHEDULES.items():
        cfg = OptimizerParams(learning_rate=schedule, disable_lr_steps_reset=overlap)
        rate = make_schedule(cfg, keras.ops)
        rates[name] = [float(rate(tf.constant(step, tf.float32))) for step in STEPS]
    (folder / "rates.json").write_text(json.dumps(rates))
    if minilm is not None:
        write_minilm(folder / "minilm", minilm, data_dir)


if __name__ == "__main__":
    main(*sys.argv[1:])
