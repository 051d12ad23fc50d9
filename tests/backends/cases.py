# SPDX-License-Identifier: Apache-2.0
"""What every backend computes: dropout masks, and each layer, loss and network with its gradients.

    KERAS_BACKEND=jax .venv-backends/bin/python -m tests.backends.cases FILE.npz

writes them for `test_backends.py`. All of it in training, with dropout, from weights and inputs
that NumPy draws. `CASES` maps a name to a function without arguments that returns {name: array}.
"""

import sys
from functools import partial

import keras
import numpy as np
from keras import ops

from common.BaseModel import TRAIN
from common.kernels.dropout_bits import keep
from common.layers.activations import ACTIVATIONS
from common.layers.attention import MultiHeadAttention
from common.layers.dropout import Dropout, DropoutClock
from common.layers.embeddings import BertEmbeddings
from common.layers.encoder import EncoderLayer
from common.layers.feed_forward import FeedForward
from common.layers.layer_norm import LayerNorm
from common.layers.pooling import POOLERS
from common.losses import ClassificationLoss, RegressionLoss, r_drop
from model import make_model
from tests.backends.gradients import value_and_gradients
from tests.reference.tiny_bert import (
    FILTER_SIZE,
    HIDDEN_SIZE,
    NUM_CLASSES,
    NUM_HEADS,
    POSITIONS,
    VOCAB_SIZE,
    pack_rows,
    random_features,
    randomize,
    tiny_params,
)

B, T, D, F = 3, 7, HIDDEN_SIZE, FILTER_SIZE
RATE, SEED, STEP = 0.25, 3, 5


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def make_clock():
    clock = DropoutClock(SEED)
    clock.step.assign(STEP)
    return clock


def run(function, variables=(), **inputs):
    """Returns the output of `function(**inputs)`, and its gradients for a random upstream one."""

    def total(inputs):
        output = function(**inputs)
        upstream = ops.convert_to_tensor(normal(*output.shape, seed=9))
        return ops.sum(output * upstream), {"output": output}

    return value_and_gradients(total, list(variables), inputs)


def run_layer(layer, build_shape, **inputs):
    """As `run`, of a layer with random weights."""
    layer.build(build_shape)
    for i, weight in enumerate(layer.weights):
        weight.assign(0.3 * normal(*weight.shape, seed=100 + i))
    return run(layer, layer.weights, **inputs)


# ---- Dropout -------------------------------------------------------------------------------------


def masks():
    arrays = {}
    for seed, layer, step, share, rate in (
        (0, 1, 0, 0, 0.1),
        (1, 1, 0, 0, 0.1),
        (2**31 - 1, 40, 100_000, 0, 0.1),
        (5, 3, 7, 2, 0.5),
        (5, 3, 7, 3_000_000, 0.9),
    ):
        clock = DropoutClock(seed)
        clock.step.assign(step)
        clock.share = share
        mask = keep(1000, clock.place(layer, (1000,)), rate)
        arrays[f"{seed}, {layer}, {step}, {share}, {rate}"] = ops.convert_to_numpy(mask)
    return arrays


def dropout():
    return run(Dropout(RATE, make_clock()), x=normal(B, T, D), training=True)


def dropout_add(**bias):
    add = Dropout(RATE, make_clock()).add
    return run(add, residual=normal(B, T, D), x=normal(B * T, D, seed=1), training=True, **bias)


# ---- Layers --------------------------------------------------------------------------------------


def embeddings(embedding_size=D, use_layer_norm=True, position_embedding_type="learned", **inputs):
    layer = BertEmbeddings(
        VOCAB_SIZE,
        D,
        POSITIONS,
        embedding_size,
        use_position_embedding=True,
        use_segment_embedding=True,
        position_embedding_type=position_embedding_type,
        use_layer_norm=use_layer_norm,
        layer_norm_epsilon=1e-12,
        dropout_rate=RATE,
        initializer="zeros",
        word_initializer="zeros",
        projection_initializer="zeros",
        clock=make_clock(),
    )
    features = random_features(B, T)
    del features["padding_mask"]
    return run_layer(layer, (None, None), **features, **inputs, training=True)


def feed_forward(**arguments):
    layer = FeedForward(D, F, ACTIVATIONS["gelu_erf"], RATE, "zeros", make_clock(), **arguments)
    x, residual = normal(B, T, D), normal(B, T, D, seed=1)
    return run_layer(layer, (None, None, D), x=x, residual=residual, training=True)


def attention(attention_mask, **arguments):
    layer = MultiHeadAttention(D, NUM_HEADS, RATE, RATE, "zeros", make_clock(), **arguments)
    memory, residual = normal(B, T, D), normal(B, 2, D, seed=1)
    inputs = {"x": memory[:, :2].copy(), "memory": memory, "residual": residual}
    return run_layer(layer, (None, None, D), **inputs, attention_mask=attention_mask, training=True)


def encoder_layer(use_pre_normalization):
    layer = EncoderLayer(
        D,
        NUM_HEADS,
        F,
        ACTIVATIONS["gelu_tanh"],
        dropout_rate=RATE,
        attention_dropout_rate=RATE,
        layer_norm_epsilon=1e-12,
        use_pre_normalization=use_pre_normalization,
        initializer="zeros",
        clock=make_clock(),
    )
    mask = random_features(B, T)["padding_mask"]
    inputs = {"x": normal(B, T, D), "attention_mask": mask}
    return run_layer(layer, (None, None, D), **inputs, training=True)


# ---- Losses and the whole network ----------------------------------------------------------------


def labels_of(num_rows, num_classes):
    if num_classes == 1:  # a regression
        return normal(num_rows, seed=1)
    return np.arange(num_rows, dtype=np.int32) % num_classes


def loss(num_classes=NUM_CLASSES, r_drop_alpha=None, **arguments):
    function = (
        RegressionLoss() if num_classes == 1 else ClassificationLoss(num_classes, **arguments)
    )
    shape = 4, num_classes
    if r_drop_alpha is not None:
        function, shape = partial(r_drop, function, alpha=r_drop_alpha), (4, 2, num_classes)
    return run(function, logits=normal(*shape), labels=labels_of(4, num_classes))


def classifier(num_classes=NUM_CLASSES, is_packed=False, num_streams=1, **keys):
    """Logits, loss and the gradient of every weight, as in a training step."""
    rates = dict.fromkeys(("dropout_rate", "attention_dropout_rate", "cls_dropout_rate"), RATE)
    params = tiny_params(num_classes, **rates, **keys)
    model = make_model(params.with_runconfig(num_streams=num_streams))
    randomize(model)
    model.clock.step.assign(STEP)
    features = random_features(batch=7, tokens=9)
    if is_packed:
        features, _ = pack_rows(features, num_long_rows=5, room=11)
    features["input_mask"] = 1 - features.pop("padding_mask")

    def total(inputs):
        labels = inputs.pop("labels")
        outputs = model.build_model(inputs, TRAIN)
        loss = model.build_total_loss(outputs, {"labels": labels})
        return loss, outputs | {"loss": loss}

    inputs = features | {"labels": labels_of(7, num_classes)}
    return value_and_gradients(total, model.trainable_weights, inputs)


PADDING = random_features(B, T)["padding_mask"]
PAIRS = np.random.default_rng(1).integers(0, 2, (B, 2, T), np.int32)
PLACES = np.random.default_rng(1).integers(0, POSITIONS, (B, T), np.int32)
# A head of an even width, and windows of which a row has several.
MODERNBERT = {"backbone": "modernbert", "num_heads": 1, "local_attention": 2}

CASES = {
    "masks": masks,
    "dropout": dropout,
    "dropout.add": partial(dropout_add, bias=normal(D, seed=2)),
    "dropout.add without bias": partial(dropout_add, bias=None),
    **{name: partial(run, of, x=normal(B, F)) for name, of in ACTIVATIONS.items()},
    **{
        f"{name} with bias": partial(run, of, x=normal(B, F), bias=normal(F, seed=1))
        for name, of in ACTIVATIONS.items()
    },
    "layer norm": lambda: run_layer(LayerNorm(1e-12), (B, T, D), x=normal(B, T, D)),
    "embeddings": embeddings,
    "fixed embeddings": partial(embeddings, position_embedding_type="fixed"),
    "factorized embeddings": partial(embeddings, embedding_size=11),
    "embeddings of packed rows": partial(embeddings, positions=PLACES, use_layer_norm=False),
    "feed-forward": feed_forward,
    "feed-forward without bias": partial(feed_forward, use_ffn_bias=False),
    "attention": partial(attention, PADDING),
    "attention with a mask of pairs": partial(attention, PAIRS),
    "attention without scale and bias": partial(
        attention,
        PADDING,
        attention_type="dot_product",
        use_projection_bias_in_attention=False,
        use_ffn_bias_in_attention=False,
    ),
    "encoder layer": partial(encoder_layer, False),
    "encoder layer, pre-norm": partial(encoder_layer, True),
    **{
        f"pooler {name}": partial(run, pool, x=normal(B, T, D), padding_mask=PADDING)
        for name, pool in POOLERS.items()
    },
    "loss": loss,
    "smoothed loss": partial(loss, label_smoothing=0.1),
    "focal loss": partial(loss, focal_gamma=2.0),
    "weighted, smoothed focal loss": partial(
        loss, class_weights=[0.5, 1.0, 1.5, 2.0, 0.25], label_smoothing=0.1, focal_gamma=0.5
    ),
    "loss with R-Drop": partial(loss, r_drop_alpha=0.7),
    "regression loss": partial(loss, num_classes=1),
    "regression loss with R-Drop": partial(loss, num_classes=1, r_drop_alpha=0.7),
    "classifier": classifier,
    "classifier, recomputed": partial(classifier, recompute=True),
    "classifier, R-Drop, smoothed focal loss": partial(
        classifier, r_drop_alpha=0.7, label_smoothing=0.1, focal_gamma=2.0
    ),
    "classifier, packed rows": partial(classifier, is_packed=True),
    "classifier, packed rows, R-Drop, two streams, recomputed": partial(
        classifier, is_packed=True, r_drop_alpha=0.7, num_streams=2, recompute=True
    ),
    "classifier, pre-norm, mean, frozen": partial(
        classifier,
        use_pre_normalization=True,
        pooler_type="mean",
        freeze=["embeddings", "layers:1"],
    ),
    "regression": partial(classifier, num_classes=1),
    "classifier, RoBERTa": partial(classifier, backbone="roberta"),
    "classifier, ELECTRA": partial(classifier, backbone="electra", embedding_size=4),
    "classifier, ALBERT, packed rows": partial(
        classifier, backbone="albert", embedding_size=4, is_packed=True
    ),
    "classifier, ModernBERT": partial(classifier, **MODERNBERT, pooler_type="mean"),
    "classifier, ModernBERT, packed rows, two streams, recomputed": partial(
        classifier, **MODERNBERT, is_packed=True, num_streams=2, recompute=True
    ),
}


if __name__ == "__main__":
    arrays = {
        f"{case}/{name}": array
        for case, compute in CASES.items()
        for name, array in compute().items()
    }
    np.savez(sys.argv[1], keras=np.array(keras.__version__), **arrays)
