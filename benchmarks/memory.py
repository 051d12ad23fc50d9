# SPDX-License-Identifier: Apache-2.0
"""Measures memory and time of a training step, with and without `model.recompute` and `freeze`.

    python benchmarks/memory.py [--layers 12] [--batch_size 32] [--tokens 128]

BERT-base's width in float32, each setting in its own process. Memory is the peak of the whole
process, including TensorFlow, weights and optimizer. Time is that of the second step.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WIDTH = {"hidden_size": 768, "num_heads": 12, "filter_size": 3072, "vocab_size": 30522}


def measure(layers, batch_size, tokens, model):
    """Runs two steps. Returns {"peak_mb", "seconds", "loss"}."""
    import os

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import numpy as np
    import tensorflow as tf

    from common.optimizers.factory import optimizer_of
    from common.params import Params
    from common.training.train_step import make_train_step
    from model import make_model, model_fn

    rows = {"max_sequence_length": tokens, "batch_size": batch_size}
    params = Params.model_validate(
        {
            "train_input": {"data_processor": "Sst2DataProcessor", "data_dir": "none", **rows},
            "model": {
                **WIDTH,
                "num_hidden_layers": layers,
                "attention_dropout_rate": 0.1,
                "weight_initialization_seed": 1,
                **model,
            },
            "optimizer": {"max_gradient_norm": 1.0, "weight_decay_rate": 0.01},
            "runconfig": {"tf_random_seed": 1},
        }
    ).complete(None, {"num_cls_classes": 2})
    network = make_model(params)
    optimizer = optimizer_of(network, params)
    train_step = make_train_step(model_fn, params, network, optimizer)
    generator = np.random.default_rng(0)
    shape = (batch_size, tokens)
    features = {
        "input_ids": tf.constant(generator.integers(0, 30522, shape), tf.int32),
        "input_mask": tf.zeros(shape, tf.int32),
        "segment_ids": tf.zeros(shape, tf.int32),
    }
    labels = tf.constant(generator.integers(0, 2, batch_size), tf.int32)
    for _ in range(2):  # the first compiles
        started = time.monotonic()
        loss = float(train_step(features, labels)["train/cost_cls"])
        seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux: KiB
    return {"peak_mb": round(peak), "seconds": round(seconds, 2), "loss": loss}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--model", type=json.loads, help="measure this setting alone, in JSON")
    args = parser.parse_args()
    if args.model is not None:
        print(json.dumps(measure(args.layers, args.batch_size, args.tokens, args.model)))
        return
    frozen = ["embeddings", f"layers:{2 * args.layers // 3}"]
    for model in ({}, {"recompute": True}, {"freeze": frozen}):
        sizes = ("layers", "batch_size", "tokens")
        flags = [f"--{name}={getattr(args, name)}" for name in sizes]
        command = [sys.executable, __file__, *flags, f"--model={json.dumps(model)}"]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        lines = (result.stdout if result.returncode == 0 else result.stderr).splitlines()
        print(f"{json.dumps(model):48} {lines[-1]}", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
