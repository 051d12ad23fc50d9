# SPDX-License-Identifier: Apache-2.0
"""One measurement of KerasHub's BertTextClassifier on TensorFlow, started by `bench.py`.

    .venv-kh/bin/python benchmarks/peer_keras_hub.py train --rows FILE --weights DIR --length 128
    .venv-kh/bin/python benchmarks/peer_keras_hub.py infer | start ...

Uses `fit` and `predict` of Keras on raw text; its preprocessor pads to `--length`.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import keras_hub
import numpy as np
import tensorflow as tf
from worker import Finished, Gate, StepGate, read_rows

MOST_ROWS = 16_000


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("task", choices=("train", "infer", "start"))
    add("--rows", required=True)
    add("--weights", required=True)
    add("--network", choices=("minilm", "base"), default="minilm")
    add("--length", type=int, default=128)
    add("--batch_size", type=int, default=32)
    add("--precision", choices=("float32", "bfloat16"), default="float32")
    add("--steps", type=int, default=5, help="of a block")
    add("--warmup", type=int, default=2)
    return parser


def make_classifier(args, num_labels):
    keras.utils.set_random_seed(1)
    if args.precision == "bfloat16":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    models = keras_hub.models
    if args.network == "minilm":  # KerasHub reads Hugging Face's folders
        backbone = models.BertBackbone.from_preset(args.weights)
    else:
        backbone = models.BertBackbone(
            vocabulary_size=30522,
            num_layers=12,
            num_heads=12,
            hidden_dim=768,
            intermediate_dim=3072,
            dropout=0.1,
        )
    preprocessor = models.BertTextClassifierPreprocessor(
        models.BertTokenizer(str(Path(args.weights) / "vocab.txt"), lowercase=True),
        sequence_length=args.length,
    )
    classifier = models.BertTextClassifier(
        backbone, num_classes=num_labels, preprocessor=preprocessor, dropout=0.1
    )
    optimizer = keras.optimizers.AdamW(5e-5, weight_decay=0.01, global_clipnorm=1.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    classifier.compile(optimizer, loss, metrics=[])
    return classifier


def fit(args, after_step, num_rows):
    texts, labels = read_rows(args.rows)
    texts, num_labels = [text for text, *_ in texts][:num_rows], len(set(labels))

    class AfterStep(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            after_step()

    rows = tf.data.Dataset.from_tensor_slices((texts, np.array(labels[:num_rows], np.int32)))
    rows = rows.repeat().batch(args.batch_size)
    make_classifier(args, num_labels).fit(
        rows, epochs=1, steps_per_epoch=1_000_000, verbose=0, callbacks=[AfterStep()]
    )


def measure_inference(args, gate):
    texts, labels = read_rows(f"{args.rows}.validation")
    classifier = make_classifier(args, len(set(labels)))
    texts = tf.data.Dataset.from_tensor_slices([text for text, *_ in texts])

    def classify():
        return classifier.predict(texts.batch(args.batch_size), verbose=0)

    classify()
    gate.repeat(lambda: {"mean": float(classify().mean())}, len(labels))


def measure_start(args):
    def after_step():
        block = {"first_step": time.time(), "processor_seconds": time.process_time()}
        print(json.dumps(block), flush=True)
        raise Finished

    try:
        fit(args, after_step, args.batch_size)
    except Finished:
        sys.exit()


def main():
    args = make_parser().parse_args()
    if args.task == "start":
        measure_start(args)
    gate = Gate({"versions": {"keras_hub": keras_hub.__version__, "keras": keras.__version__}})
    with gate.serving():
        if args.task == "train":
            steps = StepGate(gate, args.warmup, args.steps, args.batch_size)
            fit(args, steps.after_step, MOST_ROWS)
        else:
            measure_inference(args, gate)


if __name__ == "__main__":
    main()
