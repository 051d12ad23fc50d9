# SPDX-License-Identifier: Apache-2.0
"""Grid, random draws and Optuna's TPE beside each other: 12 trials each, on 600 rows of the sample.

    python benchmarks/search_methods.py --weights DIR [--model_dir DIR] [--seeds 3] [--trials 12]

Each search is an experiment of its own below --model_dir, once with each seed, which is that of the
draws and of the trainings: 12 trainings times 3 methods times 3 seeds. Started again, it goes on.
Prints the best accuracy after 4, 8 and 12 trials, mean and deviation over the seeds.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
METHODS = ("grid", "random", "bayes")
RATES = [1e-5, 2e-5, 4e-5, 8e-5, 1.5e-4, 3e-4]  # of the grid
LISTED = {"optimizer.learning_rate": {"values": RATES}}
DRAWN = {
    "optimizer.learning_rate": {
        "distribution": "log_uniform_values",
        "min": RATES[0],
        "max": RATES[-1],
    }
}


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--weights", required=True)
    add("--model_dir", type=Path, default=Path("model_dir/search_methods"))
    add("--seeds", type=int, default=3)
    add("--trials", type=int, default=12)
    return parser


def experiment_of(method, seed, trials):
    """Returns what the file of an experiment says: dict."""
    return {
        "experiment": f"{method}_{seed}",
        "base": "configs/params_bert_minilm_sample.yaml",
        "method": method,
        "metric": {"name": "eval/accuracy_cls", "goal": "maximize"},
        "seeds": [seed],
        "random_seed": seed,
        "run_cap": trials,
        "parameters": {
            **(LISTED if method == "grid" else DRAWN),
            "train_input.batch_size": {"values": [16, 32]},
            "train_input.max_train_samples": {"value": 600},
        },
    }


def search(args, method, seed):
    """Makes an experiment, or what is left of it. Returns the figure of each trial, in order."""
    args.model_dir.mkdir(parents=True, exist_ok=True)
    folder = args.model_dir / f"{method}_{seed}"
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(experiment_of(method, seed, args.trials)))
    command = [sys.executable, "run.py", "--mode", "experiment", "--params", str(path.absolute())]
    command += ["--model_dir", str(folder.absolute()), "--checkpoint_path", args.weights]
    command += ["--data_dir", str((args.model_dir / "data").absolute())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    events = map(json.loads, (folder / "experiment.jsonl").read_text("utf-8").splitlines())
    figures = {each["combination"]: each["figure"] for each in events if each["event"] == "result"}
    return [figures[number] for number in sorted(figures)]


def table(results):
    """Yields the lines of a table. results: {method: [figures of the trials]} by seed."""
    trials = len(next(iter(results.values()))[0])
    after = sorted({max(1, trials * part // 3) for part in (1, 2, 3)})
    yield f"{'best after':10}" + "".join(f"{number:>18}" for number in after)
    for method, searches in results.items():
        cells = []
        for number in after:
            best = [max(figures[:number]) for figures in searches]
            spread = statistics.stdev(best) if len(best) > 1 else 0.0
            cells.append(f"{statistics.mean(best):.4f} +- {spread:.4f}")
        yield f"{method:10}" + "".join(f"{cell:>18}" for cell in cells)


def main():
    args = make_parser().parse_args()
    results = {}
    for seed in range(1, args.seeds + 1):
        for method in METHODS:
            figures = search(args, method, seed)
            results.setdefault(method, []).append(figures)
            print(method, seed, "  ".join(f"{figure:.4f}" for figure in figures), flush=True)
    print("", *table(results), sep="\n")


if __name__ == "__main__":
    main()
