# SPDX-License-Identifier: Apache-2.0
"""Measures masked-word training beside Hugging Face and KerasHub, in turns, in tokens a second.

    python benchmarks/pretraining.py TEXT... [--peers] [--only GROUP] [--blocks N]

TEXT are plain text files, with a document a line. Three groups:

    minilm, base   rows of 128 tokens without padding, 32 a step; logits of the predicted places
    documents      each line is a row of at most 128 tokens: ours packed, Hugging Face's padded to
                   the longest of a batch, in random order and grouped by length

Tokens are those of the text with their special ones; padding does not count. Every process trains
from random weights with AdamW, dropout 0.1, masks of 15%. `ours` is also one of the processes.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import bench
from benchmarks.bench import HERE, Bench, Spec, flags

LENGTH, BATCH = 128, 32
PRECISION = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
NETWORKS = {
    "minilm": {"num_hidden_layers": 6, "hidden_size": 384, "num_heads": 12, "filter_size": 1536},
    "base": {"num_hidden_layers": 12, "hidden_size": 768, "num_heads": 12, "filter_size": 3072},
}
UNIT = "tokens/s"


def plan(peers):
    """Returns the Specs. Memory decides whether a group's processes can be ready together."""
    specs = []
    for network, gib, steps in (("minilm", 4.0, 4), ("base", 8.0, 2)):
        group = f"{network}, full rows of {LENGTH}, bfloat16"
        given = {"network": network, "steps": steps, "rows": "full"}
        for streams in (1, 2):
            label = f"{network}, full rows{bench.in_streams(streams)}"
            words = flags(**given, packing="none", num_streams=streams)
            specs.append(Spec(group, "ours", "train", label, words, gib, UNIT))
        if peers:
            for who in ("hf", "keras_hub"):
                label = f"{network}, full rows"
                specs.append(Spec(group, who, "train", label, flags(**given), gib, UNIT))
    group = "minilm, a line is a row, bfloat16"
    given = {"network": "minilm", "rows": "lines"}
    words = flags(**given, packing="packed", num_streams=2, steps=8)
    specs.append(Spec(group, "ours", "train", "minilm, lines, packed", words, 3.0, UNIT))
    if peers:
        for order, steps in (("random", 6), ("grouped", 50)):
            for precision in ("bfloat16", "float32") if order == "random" else ("bfloat16",):
                words = flags(**given, order=order, precision=precision, steps=steps)
                label = f"minilm, lines, {order}, {precision}"
                specs.append(Spec(group, "hf", "train", label, words, 4.0, UNIT))
    return specs


# ---- This project's process ----------------------------------------------------------------------


def measure_ours(args):
    """Measures blocks of training steps in the loop of a training."""
    from benchmarks import ours
    from benchmarks.worker import Gate

    overrides = {
        "train_input.data_processor": "DocumentDataProcessor",
        "train_input.train_documents": str(Path(args.folder) / "lines.txt"),
        "train_input.data_dir": None,
        "train_input.cache_dir": str(Path(args.folder) / "tokens"),
        "train_input.sentence_pairs": "none",
        "train_input.duplicates": "keep",
        "train_input.allow_cross_document_examples": args.rows == "full",
        "train_input.vocab_file": args.vocab,
        "train_input.max_sequence_length": LENGTH,
        "train_input.batch_size": BATCH,
        "train_input.packing": args.packing,
        "model.cls_dropout_rate": None,
        "model.disable_nsp": True,
        "model.max_position_embeddings": 512,
        "model.mixed_precision": PRECISION[args.precision],
        "runconfig.save_summary_steps": args.steps,
        "runconfig.log_step_count_steps": args.steps,
        "runconfig.num_streams": args.num_streams,
        "optimizer.learning_rate": 1e-4,
    }
    overrides |= {f"model.{key}": value for key, value in NETWORKS[args.network].items()}
    gate = Gate({"versions": {"tensorflow": ours.tf.__version__}})
    with gate.serving():
        params = ours.get_params(ours.PARAMS, overrides)
        params = params.with_runconfig(num_streams=ours.take_streams(params.runconfig))
        params, *_ = ours.data.complete_params(params, {}, str(ours.PARAMS))
        model = ours.network_of(params, None)
        batches = ours.data.train_input_fn(params, 0, 1000)
        model.prepare_training(batches.targets)
        optimizer = ours.optimizer_of(model, params)
        step = ours.make_train_step(ours.model_fn, params, model, optimizer)
        step(*next(iter(batches)))  # compiles
        (rows, length), *others = batches.distinct_shapes
        assert not others, f"more than one shape to compile: {others}"
        count = args.steps * batches.share_real * rows * length
        ours.run_blocks(
            step, batches, params.runconfig, args.steps, gate, count, model.loss_figures
        )


# ---- The command line ----------------------------------------------------------------------------


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("text", nargs="+", help="text files, or `ours` for one process of a measurement")
    add("--vocab", required=True, help="vocab.txt")
    add("--peers", action="store_true")
    add("--only", default="", help="groups whose name begins so")
    add("--blocks", type=int, default=bench.BLOCKS)
    add("--hf_python", default=".venv-hf/bin/python")
    add("--keras_hub_python", default=".venv-kh/bin/python")
    for name, default in (("network", None), ("rows", None), ("packing", "none"), ("folder", None)):
        add(f"--{name}", default=default, help=argparse.SUPPRESS)
    add("--precision", default="bfloat16", help=argparse.SUPPRESS)
    add("--num_streams", type=int, default=1, help=argparse.SUPPRESS)
    add("--steps", type=int, default=4, help=argparse.SUPPRESS)
    return parser


def write_lines(paths, folder):
    """Writes lines.txt, whose documents are the lines of the files, with a blank line between."""
    with open(Path(folder) / "lines.txt", "w", encoding="utf-8") as out:
        for path in paths:
            for line in Path(path).read_text("utf-8").splitlines():
                if line.strip():
                    out.write(f"{line.strip()}\n\n")


def main():
    args = make_parser().parse_args()
    if args.text == ["ours"]:
        measure_ours(args)
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        write_lines(args.text, folder)
        python = {
            "ours": sys.executable, "hf": args.hf_python, "keras_hub": args.keras_hub_python
        }  # fmt: skip
        script = {
            "ours": [str(HERE / "pretraining.py"), "ours"],
            "hf": [str(HERE / "peer_hf_mlm.py")],
            "keras_hub": [str(HERE / "peer_keras_hub_mlm.py")],
        }

        def command_of(spec):
            given = ["--folder", folder, "--vocab", args.vocab, *spec.flags]
            return [python[spec.who], *script[spec.who], *given]

        specs = [spec for spec in plan(args.peers) if spec.group.startswith(args.only)]
        logs = Path(tempfile.mkdtemp(prefix="bench-logs-"))
        print(f"{bench.machine_facts()['processor']}, logs in {logs}\n{bench.HEAD}", flush=True)
        results = Bench(args.blocks, logs, command_of, lambda line: print(line, flush=True)).run(
            specs
        )
        print(*ratios(results), sep="\n")
        return int(any(result.fault is not None for result in results))


def ratios(results):
    """Yields a line for each peer's figure: the fastest of ours in its group to it."""
    for group in dict.fromkeys(result.spec.group for result in results):
        here = [r for r in results if r.spec.group == group and r.blocks]
        ours = [r for r in here if r.spec.who == "ours"]
        for peer in here:
            if ours and peer.spec.who != "ours":
                best = max(ours, key=lambda r: r.figure)
                memory = peer.facts.get("peak_mib", 0) / best.facts["peak_mib"]
                in_turns = bench.turn_by_turn(best, peer)
                yield (
                    f"{best.figure / peer.figure:8.2f}  ({in_turns:.2f} turn by turn) "
                    f"{best.spec.name} to {peer.spec.name}; memory of theirs to ours {memory:.2f}"
                )


if __name__ == "__main__":
    sys.exit(main())
