# SPDX-License-Identifier: Apache-2.0
"""What a classifier gains by pre-training: trains it from fresh weights and from a checkpoint.

    python benchmarks/pretraining_gain.py --params FILE.yaml --checkpoint_path DIR [--seeds 3]

Runs `run.py --mode train_and_eval` with each seed, both ways in turns, into --model_dir, and prints
accuracy and loss of the last evaluations. `make pretrain-demo` ends with it.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FIGURES = {"accuracy": "eval/accuracy_cls", "loss": "loss"}


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--params", required=True)
    add("--checkpoint_path", required=True, help="of a pre-training")
    add("--model_dir", type=Path, default=Path("model_dir/gain"))
    add("--data_dir")
    add("--seeds", type=int, default=3)
    return parser


def train(args, name, seed):
    """Trains with a seed. Returns {name of a figure: float} of the last evaluation."""
    model_dir = args.model_dir / f"{name}_{seed}"
    command = [sys.executable, "run.py", "--mode", "train_and_eval", "--params", args.params]
    command += ["--model_dir", str(model_dir), "--override", f"runconfig.tf_random_seed={seed}"]
    if args.data_dir is not None:
        command += ["--data_dir", args.data_dir]
    if name == "pre-trained":
        command += ["--checkpoint_path", args.checkpoint_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    lines = map(json.loads, (model_dir / "metrics.jsonl").read_text("utf-8").splitlines())
    last = [line for line in lines if line["split"] == "eval"][-1]
    return {figure: last[key] for figure, key in FIGURES.items()}


def table(results):
    """Yields the lines of a table. results: {name: [{name of a figure: float}]} by seed."""
    for figure in FIGURES:
        means = []
        for name, runs in results.items():
            values = [run[figure] for run in runs]
            means.append(statistics.mean(values))
            yield f"{figure:9}{name:12}{means[-1]:8.4f}   {'  '.join(f'{v:.4f}' for v in values)}"
        yield f"{'':9}{'gained':12}{means[1] - means[0]:+8.4f}"


def main():
    args = make_parser().parse_args()
    results = {"fresh": [], "pre-trained": []}
    for seed in range(1, args.seeds + 1):
        for name, runs in results.items():
            runs.append(train(args, name, seed))
            print(f"{name}, seed {seed}: accuracy {runs[-1]['accuracy']:.4f}", flush=True)
    print(f"\n{'':21}{'mean':>8}   each seed", *table(results), sep="\n")


if __name__ == "__main__":
    main()
