# SPDX-License-Identifier: Apache-2.0
"""The same training by run.py and by `fit` of api.py, in turns: seconds of each.

    python benchmarks/fit.py --weights DIR [--rounds 5] [--num_epochs 2]

total: of the process, from its start to its end, with the import of TensorFlow. training: the
seconds of its Result. The same bits are trained; `pages` is `fit` with the pages of 2 MB for which
run.py starts itself again (docs/performance.md).
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARAMS = "configs/params_bert_minilm_sample.yaml"
FIT = """
import json, sys
from api import Classifier
params, weights, model_dir, overrides = sys.argv[1:]
Classifier(weights, params=params).fit(model_dir=model_dir, overrides=json.loads(overrides))
"""
PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--weights", required=True)
    add("--params", default=PARAMS)
    add("--rounds", type=int, default=5)
    add("--num_epochs", type=int, default=2)
    add("--max_train_samples", type=int, default=2603)
    return parser


def commands_of(args, data_dir, model_dir):
    """Returns {name: (command, its environment beside this one's)}."""
    overrides = {
        "*_input.data_dir": str(data_dir),
        "train_input.max_train_samples": args.max_train_samples,
        "runconfig.num_epochs": args.num_epochs,
    }
    by_run = [sys.executable, "run.py", "--mode", "train_and_eval", "--params", args.params]
    by_run += ["--checkpoint_path", args.weights, "--model_dir", str(model_dir)]
    for key, value in overrides.items():
        by_run += ["--override", f"{key}={value}"]
    by_fit = [sys.executable, "-c", FIT, args.params, args.weights, str(model_dir)]
    by_fit.append(json.dumps(overrides))
    return {"run.py": (by_run, {}), "fit": (by_fit, {}), "pages": (by_fit, PAGES)}


def measure(command, environment, model_dir):
    """Runs a command. Returns {"total": seconds, "training": seconds}, SHA-256 of the weights."""
    started = time.monotonic()
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True
    )
    total = time.monotonic() - started
    if done.returncode != 0:
        sys.exit(done.stderr)
    (result,) = model_dir.glob("runs/*/result-*.json")
    seconds = {"total": total, "training": json.loads(result.read_text("utf-8"))["seconds"]}
    *_, last = sorted(model_dir.glob("checkpoint-*/weights.safetensors"), key=os.path.getmtime)
    return seconds, hashlib.sha256(last.read_bytes()).hexdigest()


def table(results):
    """Yields the lines of a table. results: {name: [{what: seconds}]} by round."""
    for what in ("total", "training"):
        of_run = [seconds[what] for seconds in results["run.py"]]
        for name, rounds in results.items():
            found = [seconds[what] for seconds in rounds]
            ratio = statistics.median(a / b for a, b in zip(found, of_run, strict=True))
            each = "  ".join(f"{seconds:.1f}" for seconds in found)
            yield f"{what:10}{name:8}{statistics.median(found):8.1f}{ratio:8.3f}   {each}"


def main():
    args = make_parser().parse_args()
    results, hashes = {}, set()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(-1, args.rounds):  # the first one, which makes the data, does not count
            for name in ("run.py", "fit", "pages"):
                model_dir = Path(folder) / f"{name}_{number}"
                command, environment = commands_of(args, Path(folder) / "data", model_dir)[name]
                seconds, weights = measure(command, environment, model_dir)
                hashes.add(weights)
                if number >= 0:
                    results.setdefault(name, []).append(seconds)
    print(f"{'':18}{'median':>8}{'ratio':>8}   each round, seconds", *table(results), sep="\n")
    print("equal weights" if len(hashes) == 1 else f"{len(hashes)} different weights")


if __name__ == "__main__":
    main()
