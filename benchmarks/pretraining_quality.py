# SPDX-License-Identifier: Apache-2.0
"""What a fresh network learns of a text in a given time, beside the Trainer of Hugging Face.

    python benchmarks/pretraining_quality.py --text FILE... --held_out FILE --vocab vocab.txt \\
        [--seconds 1200] [--only ours|hf] [--out model_dir/quality]

Ours is `configs/params_bert_minilm_pretrain_text.yaml`, the other the recipe of transformers'
run_mlm.py; one runs after the other. Both train on the same rows of 128 tokens, in the same
vocabulary, with masks of their own, and are scored on the same rows with the same masks. Seconds
are those of training: no start, no evaluation, no save. Writes quality.json and quality.png into
the folder; --only adds to what is there.
"""

import argparse
import json
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils import get_params  # noqa: E402 - after the path

CONFIG = "configs/params_bert_minilm_pretrain_text.yaml"
NAMES = {"ours": "this project", "hf": "transformers' Trainer"}
COLORS = {"ours": "#0072B2", "hf": "#E69F00"}


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--text", nargs="+", required=True, help="files to train on")
    add("--held_out", nargs="+", required=True, help="files to score")
    add("--vocab", required=True, help="vocab.txt")
    add("--seconds", type=float, default=1200.0, help="of training, for each")
    add("--evaluations", type=int, default=12, help="about so many points of a curve")
    add("--only", choices=NAMES, help="run this one")
    add("--out", type=Path, default=Path("model_dir/quality"))
    add("--override", action="append", default=[], help="KEY=VALUE of our params, as of run.py")
    add("--hf_python", default=".venv-hf/bin/python")
    add("--hf_batch_size", type=int, default=32)
    add("--hf_learning_rate", type=float, default=1e-4, help="BERT's; run_mlm.py's own is 5e-5")
    return parser


# ---- This project --------------------------------------------------------------------------------


def overrides_of(args):
    """Returns {key: value} of the params."""
    given = {
        "train_input.train_documents": args.text,
        "train_input.eval_documents": args.held_out,
        "*_input.vocab_file": args.vocab,
        "*_input.cache_dir": str(args.out / "tokens"),
        "*_input.packing": "none",
        "runconfig.max_seconds": args.seconds,
    }
    return given | {key: yaml.safe_load(value) for key, value in map(split_override, args.override)}


def split_override(text):
    key, _, value = text.partition("=")
    return key, value


def run_ours(args):
    """Returns the points of the curve, and facts: dict."""
    folder = args.out / "ours"
    if folder.exists():
        shutil.rmtree(folder)  # of an earlier measurement, which would be resumed
    command = [sys.executable, "run.py", "--mode", "train_and_eval", "--params", CONFIG]
    command += ["--model_dir", str(folder)]
    for key, value in overrides_of(args).items():
        command += ["--override", f"{key}={json.dumps(value)}"]
    subprocess.run(command, cwd=ROOT, check=True)
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    batch_size = get_params(ROOT / CONFIG, overrides_of(args)).train_input.batch_size
    curve = curve_of([json.loads(line) for line in lines], batch_size)
    return curve, {"steps": curve[-1]["step"], "batch_size": batch_size}


def curve_of(lines, batch_size):
    """Returns the evaluations of metrics.jsonl: list of {"seconds", "step", "loss"}.

    What passes before a line of training is training. Before the first one a program is compiled,
    too, so that its steps count with the rate of that line.
    """
    curve, seconds, last = [], None, None
    for line in lines:
        now = datetime.fromisoformat(line["time"]).timestamp()
        if line["split"] == "train":
            if seconds is None:
                seconds = line["step"] * batch_size / line["train/examples_per_second"]
            else:
                seconds += now - last
        else:
            curve.append({"seconds": seconds, "step": line["step"], "loss": line["loss"]})
        last = now
    return curve


# ---- What both read ------------------------------------------------------------------------------


def write_rows(args, path):
    """Writes arrays of our rows, R of T tokens with P to predict, for the other program.

    train <int32>[R, T], without masks and padded; eval_ids <int32>[R, T], masked; eval_positions,
    eval_words <int32>[R, P] and eval_weights <float32>[R, P], as `input/masking.py` says.
    Returns the complete params of the network.
    """
    import data
    from input.row_stores import TRAIN, open_row_store

    params = get_params(ROOT / CONFIG, overrides_of(args) | {"runconfig.mode": "train_and_eval"})
    params, *_ = data.complete_params(params, {}, CONFIG)
    cfg = params.train_input
    tokenizer = data.get_tokenizer(cfg)
    store = open_row_store(cfg, TRAIN, tokenizer, data.get_layout(cfg))
    tokens = store.read(np.arange(len(store)))
    train = np.full((len(store), cfg.max_sequence_length), tokenizer.pad_id, np.int32)
    for row, ids in zip(train, np.split(tokens.ids, tokens.offsets[1:-1]), strict=True):
        row[: len(ids) + 2] = [tokenizer.cls_id, *ids, tokenizer.sep_id]
    batches = data.eval_input_fn(params)["validation"]
    parts = [
        (f["input_ids"], f["masked_lm_positions"], t["masked_lm_ids"], t["masked_lm_weights"])
        for f, t, *_ in batches
    ]
    names = ("eval_ids", "eval_positions", "eval_words", "eval_weights")
    columns = zip(*parts, strict=True)
    arrays = {name: np.concatenate(part) for name, part in zip(names, columns, strict=True)}
    np.savez(path, train=train, **arrays)
    return params.model


# ---- The other program ---------------------------------------------------------------------------


def run_hf(args):
    """Returns the points of the curve, and facts: dict."""
    rows = args.out / "rows.npz"
    model = write_rows(args, rows)
    network = {
        "num_hidden_layers": model.num_hidden_layers,
        "hidden_size": model.hidden_size,
        "num_attention_heads": model.num_heads,
        "intermediate_size": model.filter_size,
        "vocab_size": model.vocab_size,
    }
    flags = {
        "rows": rows,
        "vocab": args.vocab,
        "network": json.dumps(network),
        "seconds": args.seconds,
        "evaluations": args.evaluations,
        "batch_size": args.hf_batch_size,
        "learning_rate": args.hf_learning_rate,
        "precision": "float32" if model.mixed_precision == "float32" else "bfloat16",
    }
    command = [args.hf_python, str(ROOT / "benchmarks" / "peer_hf_pretraining.py")]
    for name, value in flags.items():
        command += [f"--{name}", str(value)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    *points, last = map(json.loads, done.stdout.splitlines())
    return points, last["facts"] | {"learning_rate": args.hf_learning_rate}


# ---- The figure ----------------------------------------------------------------------------------


def draw(results, path):
    """Draws the held-out loss of each curve beside the minutes of training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for who, result in results.items():
        points = result["curve"]
        minutes = [point["seconds"] / 60 for point in points]
        losses = [point["loss"] for point in points]
        label = f"{NAMES[who]}: {losses[-1]:.3f} after {points[-1]['step']:,} steps"
        axes.plot(minutes, losses, "o-", markersize=3, color=COLORS[who], label=label)
    axes.set_xlabel("minutes of training")
    axes.set_ylabel("loss of the masked words, held-out text")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=130)


def main():
    args = make_parser().parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "quality.json"
    results = json.loads(path.read_text("utf-8")) if args.only and path.exists() else {}
    for who, measure in {"ours": run_ours, "hf": run_hf}.items():
        if args.only in (None, who):
            curve, facts = measure(args)
            results[who] = {"curve": curve, "facts": facts}
            path.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
            draw(results, path.with_suffix(".png"))
    for who, result in results.items():
        last = result["curve"][-1]
        print(
            f"{NAMES[who]}: loss {last['loss']:.4f} after {last['step']:,} steps in "
            f"{last['seconds']:.0f} s of training"
        )
    print(path.with_suffix(".png"))


if __name__ == "__main__":
    sys.exit(main())
