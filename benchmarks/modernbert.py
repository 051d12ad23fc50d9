# SPDX-License-Identifier: Apache-2.0
"""A training step of ModernBERT on long rows, beside transformers on PyTorch: seconds and memory.

    python benchmarks/modernbert.py --peer .venv-hf/bin/python [--only "4 rows"] [--blocks 5]

6 layers of 384, every third with full attention and the others within 128 tokens, random weights, a
vocabulary of 50,368, AdamW, clipping at 1, no dropout, rows without padding. Groups: 4 rows of
1,024 tokens; one row of 512, 1,024, 2,048 and 4,096 tokens; and the same with local layers alone
but for the first, so that what grows faster than the tokens is that one layer. `FLOP` are those of
the matrix products of our forward pass, counted in the graph.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import bench
from benchmarks.bench import HERE, Bench, Spec, flags

LENGTHS = (512, 1024, 2048, 4096)
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
VOCABULARY = 50_368
NETWORK = {
    "backbone": "modernbert",
    "num_hidden_layers": 6,
    "hidden_size": 384,
    "num_heads": 6,
    "filter_size": 576,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 8192,
    "encoder_nonlinearity": "gelu_erf",
    "pooler_type": "mean",
    "dropout_rate": 0.0,
    "attention_dropout_rate": 0.0,
    "cls_dropout_rate": 0.0,
    "weight_initialization_seed": 1,
}


def plan(has_peer):
    """Returns the Specs: of 4 rows in both precisions, of one row in float32."""
    specs = []

    def add(group, rows, tokens, precision, every=3):
        given = {"rows": rows, "tokens": tokens, "precision": precision, "every": every}
        label = f"{rows} x {tokens}, {precision}" + ("" if every == 3 else ", local layers")
        specs.append(Spec(group, "ours", "train", label, flags(**given), 6.0, "tokens/s"))
        if has_peer:
            specs.append(Spec(group, "hf", "train", label, flags(**given), 6.0, "tokens/s"))

    for precision in PRECISIONS:
        add(f"4 rows, {precision}", 4, 1024, precision)
    for every in (3, 100):
        for tokens in LENGTHS:
            add(f"1 row of {tokens}, float32, every {every}", 1, tokens, "float32", every)
    return specs


def measure_ours(args):
    import os

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    from common.platform.huge_pages import use_huge_pages
    from common.platform.machine_code import set_xla_flags

    use_huge_pages()
    set_xla_flags()
    import numpy as np
    import tensorflow as tf

    from benchmarks.worker import Gate
    from common.optimizers.factory import optimizer_of
    from common.params import Params
    from common.training.checks import set_up
    from common.training.train_step import make_train_step
    from common.validate import graph
    from model import make_model, model_fn

    rows = {"max_sequence_length": args.tokens, "batch_size": args.rows}
    precision = {"mixed_precision": PRECISIONS[args.precision]}
    params = Params.model_validate(
        {
            "train_input": {"data_processor": "Sst2DataProcessor", "data_dir": "none", **rows},
            "model": NETWORK | {"global_attention_every": args.every} | precision,
            "optimizer": {"max_gradient_norm": 1.0, "weight_decay_rate": 0.01},
            "runconfig": {"tf_random_seed": 1},
        }
    ).complete(None, {"num_cls_classes": 2})
    gate = Gate({"versions": {"tensorflow": tf.__version__}})
    with gate.serving():
        set_up(params.runconfig)
        shape = args.rows, args.tokens
        with tf.Graph().as_default():
            traced = graph.trace_predict_step(model_fn, params, make_model(params), shape)
            gate.facts["flops"] = int(traced.flops)
        network = make_model(params)
        step = make_train_step(model_fn, params, network, optimizer_of(network, params))
        generator = np.random.default_rng(0)
        features = {
            "input_ids": tf.constant(generator.integers(5, VOCABULARY, shape), tf.int32),
            "input_mask": tf.zeros(shape, tf.int32),
            "segment_ids": tf.zeros(shape, tf.int32),
        }
        labels = tf.constant(generator.integers(0, 2, args.rows), tf.int32)

        def work():
            for _ in range(args.steps):
                loss = float(step(features, labels)["train/cost_cls"])
            return {"loss": loss}

        work()  # compiles
        gate.repeat(work, args.steps * args.rows * args.tokens)


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("who", nargs="?", choices=("ours",), help="one process of a measurement")
    add("--peer", help="a Python with benchmarks/requirements-hf.txt")
    add("--only", default="", help="groups whose name begins so")
    add("--blocks", type=int, default=bench.BLOCKS)
    add("--rows", type=int, default=4, help=argparse.SUPPRESS)
    add("--tokens", type=int, default=1024, help=argparse.SUPPRESS)
    add("--every", type=int, default=3, help=argparse.SUPPRESS)
    add("--precision", choices=PRECISIONS, default="float32", help=argparse.SUPPRESS)
    add("--steps", type=int, default=3, help=argparse.SUPPRESS)
    return parser


def main():
    args = make_parser().parse_args()
    if args.who == "ours":
        measure_ours(args)
        return 0

    def command_of(spec):
        if spec.who == "ours":
            return [sys.executable, str(HERE / "modernbert.py"), "ours", *spec.flags]
        return [args.peer, str(HERE / "peer_hf_modernbert.py"), *spec.flags]

    logs = Path(tempfile.mkdtemp(prefix="bench-logs-"))
    print(f"{bench.machine_facts()['processor']}, logs in {logs}\n{bench.HEAD}", flush=True)
    specs = [spec for spec in plan(args.peer) if spec.group.startswith(args.only)]
    results = Bench(args.blocks, logs, command_of, lambda line: print(line, flush=True)).run(specs)
    for result in results:
        if "flops" in result.facts:
            print(f"{result.facts['flops'] / 1e9:8.1f} GFLOP  {result.spec.label}")
    for group in dict.fromkeys(spec.group for spec in specs):
        pair = [r for r in results if r.spec.group == group and r.blocks and r.fault is None]
        if len(pair) == 2:
            ours, peer = pair
            memory = ours.facts["peak_mib"] / peer.facts["peak_mib"]
            turns = " ".join(f"{each:.2f}" for each in bench.ratios_in_turns(ours, peer))
            print(
                f"{bench.turn_by_turn(ours, peer):.2f} times the speed [{turns}], "
                f"{memory:.2f} of the memory: {ours.spec.label}"
            )
    return int(any(result.fault is not None for result in results))


if __name__ == "__main__":
    sys.exit(main())
