# SPDX-License-Identifier: Apache-2.0
"""Measures training steps of this network under JAX, for a machine with a GPU.

    python -m venv .venv-jax
    .venv-jax/bin/pip install "jax[cuda12]" keras==3.15.1 pydantic PyYAML safetensors
    .venv-jax/bin/python benchmarks/gpu_jax.py [--network base] [--precision bfloat16]

It needs no TensorFlow: the layers are this project's, over keras.ops, the optimizer is Keras' AdamW
with the same settings, and JAX compiles the whole step, one program per shape. As `input/` needs
TensorFlow and the cost of a step depends on lengths alone, rows are random ids with the lengths of
SST-2. Prints for each packing the examples/s: the median of the blocks, and the blocks in brackets.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np

from common.params import Params
from input.epoch_plan import EpochPlan, choose_bucket_lengths
from input.packing import PackedPlan
from model import make_model

NETWORKS = {
    "base": {"num_hidden_layers": 12, "hidden_size": 768, "num_heads": 12, "filter_size": 3072},
    "minilm": {"num_hidden_layers": 6, "hidden_size": 384, "num_heads": 12, "filter_size": 1536},
    "tiny": {"num_hidden_layers": 2, "hidden_size": 32, "num_heads": 2, "filter_size": 64},
}
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
PACKINGS = ("none", "buckets", "packed")
VOCAB_SIZE = 30522
# Tokens of SST-2's training rows, with [CLS] and [SEP]: the quantiles 0, 0.05, ..., 1. Mean 13.3.
LENGTHS = (3, 4, 4, 5, 5, 6, 6, 7, 8, 9, 10, 11, 12, 14, 16, 18, 20, 23, 27, 33, 66)


def make_params(network, precision):
    rows = {
        "data_processor": "Sst2DataProcessor",
        "data_dir": "none",
        "max_sequence_length": 72,
        "batch_size": 32,
    }
    network = NETWORKS[network] | {"vocab_size": VOCAB_SIZE, "max_position_embeddings": 512}
    dropout = dict.fromkeys(("dropout_rate", "attention_dropout_rate", "cls_dropout_rate"), 0.1)
    values = {
        "train_input": rows,
        "model": network | dropout | {"mixed_precision": PRECISIONS[precision]},
        "runconfig": {"tf_random_seed": 1},
    }
    return Params.model_validate(values).complete(None, {"num_cls_classes": 2})


def row_lengths(num_rows, generator):
    """Draws lengths from the distribution of SST-2: int [num_rows]."""
    places = generator.uniform(0, len(LENGTHS) - 1, num_rows)
    return np.interp(places, np.arange(len(LENGTHS)), LENGTHS).round().astype(int)


def make_batches(packing, batch_size, num_steps, length, generator):
    """Returns list of (features, labels), and the share of real tokens."""
    lengths = np.minimum(row_lengths(200 * batch_size, generator), length)
    buckets = [length] if packing == "none" else choose_bucket_lengths(lengths, 8)
    plan = EpochPlan(lengths, batch_size, buckets, shuffle=True, seed=1)
    if packing == "packed":
        rows, starts, shapes = PackedPlan(plan, 4).steps(0, num_steps)
    else:
        rows, tokens = plan.steps(0, num_steps)
        shapes = np.stack([np.full_like(tokens, batch_size), tokens], axis=1)
    batches = []
    for step in range(num_steps):
        counts = lengths[rows[step]]
        begin = starts[step] if packing == "packed" else np.arange(batch_size) * shapes[step][1]
        mask = np.zeros(shapes[step].prod(), np.int32)
        for first, count in zip(begin, counts, strict=True):
            mask[first : first + count] = 1
        mask = mask.reshape(shapes[step])
        ids = generator.integers(1000, VOCAB_SIZE, mask.shape, dtype=np.int32) * mask
        features = {"input_ids": ids, "segment_ids": np.zeros_like(ids), "padding_mask": mask}
        if packing == "packed":
            features["starts"] = begin.astype(np.int32)
        batches.append((features, generator.integers(0, 2, batch_size, dtype=np.int32)))
    return batches, lengths[rows].sum() / shapes.prod(axis=1).sum()


def make_step(model, optimizer):
    """Returns the compiled step(state, features, labels) -> (loss, state), and the first state."""

    def loss_of(weights, step, features, labels):
        pairs = [*zip(model.trainable_variables, weights, strict=True), (model.clock.step, step)]
        with keras.StatelessScope(pairs):
            logits = model(features, training=True)
            return model.build_total_loss(logits, labels)

    def train_step(state, features, labels):
        weights, slots, step = state
        loss, gradients = jax.value_and_grad(loss_of)(weights, step, features, labels)
        weights, slots = optimizer.stateless_apply(slots, gradients, weights)
        return loss, (weights, slots, step + 1)

    optimizer.build(model.trainable_variables)
    weights = [variable.value for variable in model.trainable_variables]
    slots = [variable.value for variable in optimizer.variables]
    state = weights, slots, np.int32(0)
    return jax.jit(train_step, donate_argnums=0), state


def measure(args, packing, precision):
    """Returns a dict of figures."""
    keras.utils.set_random_seed(1)
    generator = np.random.default_rng(1)
    batches, real = make_batches(packing, args.batch_size, args.steps, args.length, generator)
    model = make_model(make_params(args.network, precision))
    optimizer = keras.optimizers.AdamW(5e-5, weight_decay=0.01, epsilon=1e-6, global_clipnorm=1.0)
    step, state = make_step(model, optimizer)
    batches = jax.device_put(batches)
    started = time.perf_counter()
    rates, loss = [], None
    for block in range(args.blocks + 1):  # the first compiles
        begun = time.perf_counter()
        for features, labels in batches:
            loss, state = step(state, features, labels)
        loss = float(loss)  # waits for the device
        seconds = time.perf_counter() - begun
        if block:
            rates.append(args.batch_size * len(batches) / seconds)
        else:
            compiled = time.perf_counter() - started
    shapes = {tuple(features["input_ids"].shape) for features, _ in batches}
    return {
        "network": args.network,
        "packing": packing,
        "precision": precision,
        "examples_per_second": statistics.median(rates),
        "blocks": rates,
        "real_tokens": float(real),
        "programs": len(shapes),
        "compile_seconds": compiled,
        "loss": loss,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--network", choices=NETWORKS, default="base")
    add("--packing", choices=PACKINGS, action="append")
    add("--precision", choices=PRECISIONS, action="append")
    add("--batch_size", type=int, default=32)
    add("--length", type=int, default=128, help="to pad to, with --packing none")
    add("--steps", type=int, default=50, help="of a block")
    add("--blocks", type=int, default=3)
    add("--json", help="file to write the figures to")
    args = parser.parse_args()
    device = jax.devices()[0]
    print(f"{device.device_kind}, JAX {jax.__version__}, Keras {keras.__version__}")
    results = []
    for precision in args.precision or PRECISIONS:
        for packing in args.packing or PACKINGS:
            result = measure(args, packing, precision)
            results.append(result)
            blocks = " ".join(f"{rate:.0f}" for rate in result["blocks"])
            print(
                f"{args.network:7} {packing:8} {precision:9}"
                f"{result['examples_per_second']:10.1f} examples/s [{blocks}], "
                f"{result['real_tokens']:.0%} of the tokens real, {result['programs']} programs, "
                f"compiled in {result['compile_seconds']:.0f} s, loss {result['loss']:.3f}",
                flush=True,
            )
    if args.json:
        content = {"device": device.device_kind, "results": results}
        Path(args.json).write_text(json.dumps(content, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
