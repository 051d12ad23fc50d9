# SPDX-License-Identifier: Apache-2.0
"""One measurement of this project; `bench.py` starts it, by the protocol of `worker.py`.

    python benchmarks/ours.py train --packing packed ...      examples of training steps
    python benchmarks/ours.py infer ...                       sentences, from raw text to logits
    python benchmarks/ours.py tokenize ...                    sentences, from TFDS's files to ids
    python benchmarks/ours.py ceiling --network base ...      FLOP of matrix products alone
    python benchmarks/ours.py rows --out FILE ...             the rows, for peers to read

It calls the functions that `run.py` calls.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.platform.huge_pages import use_huge_pages
from common.platform.machine_code import set_xla_flags

if __name__ == "__main__":
    use_huge_pages()
    set_xla_flags()

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import numpy as np
import tensorflow as tf

import data
from benchmarks.worker import Gate
from common.checkpoints.load import load_weights, open_checkpoint
from common.metrics.row_metrics import RowMetrics
from common.optimizers.factory import optimizer_of
from common.platform.streams import take_streams
from common.reports.listener import Listener
from common.signals import Control
from common.training.checks import set_up
from common.training.inference import Inference
from common.training.loop import train
from common.training.session import Session
from common.training.train_step import make_train_step
from common.validate import graph
from input.token_cache import ROWS_PER_CALL, tokenize_rows
from model import make_model, model_fn
from utils import get_params

PARAMS = Path(__file__).parent / "params.yaml"
NETWORKS = {  # those without weights of their own; "minilm" has the size of its checkpoint
    "base": {"num_hidden_layers": 12, "hidden_size": 768, "num_heads": 12, "filter_size": 3072},
    "tiny": {"num_hidden_layers": 2, "hidden_size": 32, "num_heads": 2, "filter_size": 64},
}
SIZES = {"minilm": (384, 1536), "base": (768, 3072), "tiny": (32, 64)}  # D and F
PROCESSORS = {"sst2": "Sst2DataProcessor", "mnli": "MnliDataProcessor"}
TYPICAL = 0.01  # relative difference of a mean that still counts as equal
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("task", choices=("train", "infer", "tokenize", "ceiling", "rows"))
    add("--network", choices=SIZES, default="minilm")
    add("--data", choices=PROCESSORS, default="sst2")
    add("--dataset", help="another data set with the same features, such as sample_glue/sst2")
    add("--data_dir", default="~/tensorflow_datasets")
    add("--weights", help="folder of a checkpoint, with its vocab.txt")
    add("--cache_dir", help="folder of the token cache")
    add("--packing", choices=("none", "buckets", "packed"), default="buckets")
    add("--length", type=int, default=128)
    add("--batch_size", type=int, default=32)
    add("--num_streams", type=int, default=1)
    add("--lazy", action="store_true", help="optimizer.lazy_word_embeddings")
    add("--precision", choices=PRECISIONS, default="float32")
    add("--steps", type=int, default=10, help="of a block")
    add("--sentences", type=int, help="infer: the first N of the validation split")
    add("--out", help="rows: the file; the validation split's is FILE.validation")
    return parser


def params_of(args):
    """Returns the complete Params and the Checkpoint (None: random weights), as in `run.py`."""
    overrides = {
        "train_input.data_processor": PROCESSORS[args.data],
        "train_input.data_dir": args.data_dir,
        "train_input.max_sequence_length": args.length,
        "train_input.batch_size": args.batch_size,
        "train_input.packing": args.packing,
        "runconfig.save_summary_steps": args.steps,
        "runconfig.log_step_count_steps": args.steps,
        "model.mixed_precision": PRECISIONS[args.precision],
        "runconfig.num_streams": args.num_streams,
        "optimizer.lazy_word_embeddings": args.lazy,
    }
    if args.dataset is not None:
        overrides["train_input.dataset"] = args.dataset
    if args.cache_dir is not None:
        overrides["train_input.cache_dir"] = args.cache_dir
    checkpoint = None
    if args.network in NETWORKS:
        overrides |= {f"model.{key}": value for key, value in NETWORKS[args.network].items()}
        overrides["model.max_position_embeddings"] = 512
        overrides["train_input.vocab_file"] = str(Path(args.weights) / "vocab.txt")
    else:
        checkpoint = open_checkpoint(args.weights)
    config = {} if checkpoint is None else checkpoint.config
    params = get_params(PARAMS, overrides)
    params = params.with_runconfig(num_streams=take_streams(params.runconfig))
    params, *_ = data.complete_params(params, config, str(PARAMS))
    return params, checkpoint


def network_of(params, checkpoint):
    set_up(params.runconfig)
    model = make_model(params)
    if checkpoint is not None:
        load_weights(model, checkpoint)
    return model


class LastFigures(Listener):
    """Stores the figures of the last line."""

    def __init__(self):
        self.values = {}

    def on_figures(self, split, step, values, histograms=None, facts=None):
        del split, step, histograms, facts
        self.values = values


def measure_training(args, gate):
    """Measures blocks of training steps in the loop, each on the batches of `typical_stretch`.

    Only the shapes of these batches are compiled.
    """
    params, checkpoint = params_of(args)
    model = network_of(params, checkpoint)
    optimizer = optimizer_of(model, params)
    steps_per_epoch = data.train_input_fn(params, 0, 1).num_rows // args.batch_size
    epoch = data.train_input_fn(params, 0, steps_per_epoch)
    flops_of = flops_of_steps(params, epoch)
    flops = np.array([flops_of[tuple(shape)] for shape in epoch.shapes.tolist()])
    first = typical_stretch(flops, epoch.shapes, args.steps)
    batches = data.train_input_fn(params, first, first + args.steps)
    model.prepare_training(batches.targets)
    step = make_train_step(model_fn, params, model, optimizer)
    for features, targets in one_of_each_shape(batches):
        step(features, targets)  # compiles
    gate.facts |= {
        "shapes": np.unique(epoch.shapes, axis=0).tolist(),
        "real_tokens": epoch.num_real / epoch.num_computed,
        "flops_per_epoch": float(flops.sum()),
        "steps_per_epoch": len(epoch),
    }
    rows, flops = args.steps * args.batch_size, float(flops[first : first + args.steps].sum())
    run_blocks(
        step, batches, params.runconfig, args.steps, gate, rows, model.loss_figures, flops=flops
    )


def run_blocks(step, batches, run, num_steps, gate, count, losses, **facts):
    """Trains for ever on the batches, in the loop of a training; a block is num_steps steps.

    losses: `loss_figures` of the model.
    """
    figures, done = LastFigures(), 0

    def gated_step(features, targets):
        nonlocal done
        if done % num_steps == 0:
            if done:
                values = figures.values
                wait = values.get("train/input_wait")  # known from the third step on
                known = {} if wait is None else {"input_wait": wait}
                loss = values[losses[0]]
                gate.end(count, loss=loss, **known, **facts)
            gate.begin()
        done += 1
        return step(features, targets)

    endless = batches.dataset.repeat()
    train(
        gated_step,
        endless,
        0,
        sys.maxsize,
        run,
        figures,
        Control(),
        save=lambda step: None,
        is_ahead=True,
        loss_figures=losses,
    )


def typical_stretch(flops, shapes, steps):
    """Returns the first of those consecutive steps that represent the epoch best.

    Their mean FLOP is within TYPICAL of the epoch's, or the nearest where none is that near. Among
    such stretches one with the fewest shapes to compile is chosen, then the nearest.

    flops: float [steps of the epoch]. shapes: int [steps of the epoch, 2].
    """
    means = np.convolve(flops, np.full(steps, 1.0 / steps), mode="valid")
    off = np.abs(means / flops.mean() - 1.0)
    like = np.flatnonzero(off <= max(TYPICAL, off.min()))
    kinds = [len(np.unique(shapes[first : first + steps], axis=0)) for first in like]
    return int(like[np.lexsort((off[like], kinds))[0]])


def one_of_each_shape(batches):
    """Returns one batch of each shape, the smallest shape first."""
    batch_of_shape = {}
    wanted = {tuple(shape) for shape in batches.shapes.tolist()}
    for features, targets in batches:
        batch_of_shape.setdefault(tuple(features["input_ids"].shape), (features, targets))
        if len(batch_of_shape) == len(wanted):
            break
    return [batch_of_shape[shape] for shape in sorted(batch_of_shape)]


def flops_of_steps(params, batches):
    """Returns {shape: FLOP of the matrix products of a training step}, counted in graphs.

    With T fixed, FLOP are linear in the number of long rows R, so the smallest and the largest R
    determine the others. With R fixed, they are a polynomial of second degree in T.
    """
    shapes = np.unique(batches.shapes, axis=0)
    varying = 0 if len(np.unique(shapes[:, 0])) > 1 else 1
    degree = min(2 - (varying == 0), len(shapes) - 1)
    places = np.linspace(0, len(shapes) - 1, degree + 1).round().astype(int)
    counted = [
        count_flops(params, tuple(shapes[place].tolist()), batches.num_packed) for place in places
    ]
    fit = np.polynomial.Polynomial.fit(shapes[places, varying], counted, degree)
    return {tuple(shape.tolist()): float(fit(shape[varying])) for shape in shapes}


def count_flops(params, shape, num_packed):
    """Counts the forward products three times, as each has two of the same size in the backward
    pass, whose tracing would take twice as long."""
    with tf.Graph().as_default():
        model = make_model(params)
        return 3 * graph.trace_predict_step(model_fn, params, model, shape, num_packed).flops


def measure_inference(args, gate):
    """Measures passes over the validation split: text -> tokens -> batches -> logits."""
    params, checkpoint = params_of(args)
    model = network_of(params, checkpoint)
    inference = Inference(Session(params, make_model, model_fn, data), model)
    cfg = params.predict_input
    source = data.get_source(cfg)
    texts = source.read_texts(source.processor.eval_splits[0])[: args.sentences]

    def classify():
        batches, _ = data.predict_input_fn(params, texts)
        return inference.collect(batches, RowMetrics, "predict")["texts"].outputs["logits"]

    classify()  # compiles
    gate.repeat(lambda: {"mean": float(classify().mean())}, len(texts))


def measure_tokenizing(args, gate):
    """Measures tokenising of the training split, which a run does once for the token cache."""
    params, _ = params_of(args)
    cfg = params.train_input
    source = data.get_source(cfg)
    tokenizer = data.get_tokenizer(cfg)
    rows = source.read(source.processor.train_split, ROWS_PER_CALL)
    num_texts = len(source.processor.text_keys)
    tokenize_rows(rows.take(2), tokenizer, num_texts)

    def tokenize():
        return {"tokens": len(tokenize_rows(rows, tokenizer, num_texts).ids)}

    gate.repeat(tokenize, source.num_rows(source.processor.train_split) * num_texts)


def measure_ceiling(args, gate):
    """Measures the matrix products of one encoder layer's training step, and nothing else.

    Four D x D and two D x F forward, twice as many backward, at batch_size x length tokens, with
    the transpositions of TensorFlow's gradients. `count` is FLOP.
    """
    dtype = {"float32": tf.float32, "bfloat16": tf.bfloat16}[args.precision]
    hidden, filters = SIZES[args.network]
    tokens = args.batch_size * args.length

    def normal(*shape):
        return tf.cast(tf.random.normal(shape), dtype)

    x, wide = normal(tokens, hidden), normal(tokens, filters)
    square, expand, project = (
        normal(hidden, hidden), normal(hidden, filters), normal(filters, hidden)
    )  # fmt: skip
    products = []
    for source, kernel, times in ((x, square, 4), (x, expand, 1), (wide, project, 1)):
        upstream = wide if kernel is expand else x
        kinds = (
            (source, kernel, {}),
            (upstream, kernel, {"transpose_b": True}),
            (source, upstream, {"transpose_a": True}),
        )
        products += [kind for kind in kinds for _ in range(times)]
    flops = 2 * tokens * sum(3 * times for times in (4,)) * hidden * hidden
    flops += 2 * tokens * 3 * 2 * hidden * filters

    def all_products():
        for _ in range(args.steps):
            for a, b, order in products:
                product = tf.matmul(a, b, **order)
        return {"mean": float(tf.reduce_mean(tf.cast(product, tf.float32)))}

    all_products()
    gate.repeat(all_products, flops * args.steps)


def write_rows(args):
    """Writes label and texts, separated by tabs; the training rows are shuffled."""
    params, _ = params_of(args)
    cfg = params.train_input
    source = data.get_source(cfg)
    names = {
        source.processor.train_split: Path(args.out),
        source.processor.eval_splits[0]: Path(f"{args.out}.validation"),
    }
    for split, path in names.items():
        batches = source.read(split, 1024).as_numpy_iterator()
        labels = [int(label) for _, targets in batches for label in targets["labels"]]
        texts = source.read_texts(split)
        order = np.arange(len(texts))
        if split == source.processor.train_split:
            order = np.random.default_rng(1).permutation(order)
        lines = ["\t".join([str(labels[i]), *map(one_line, texts[i])]) + "\n" for i in order]
        path.write_text("".join(lines), encoding="utf-8")


def one_line(text):
    return " ".join(text.split())


MEASURES = {
    "train": measure_training,
    "infer": measure_inference,
    "tokenize": measure_tokenizing,
    "ceiling": measure_ceiling,
}


def main(argv=None):
    args = make_parser().parse_args(argv)
    if args.task == "rows":
        write_rows(args)
        return
    gate = Gate({"versions": {"tensorflow": tf.__version__}})
    with gate.serving():
        MEASURES[args.task](args, gate)


if __name__ == "__main__":
    main()
