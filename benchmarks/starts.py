# SPDX-License-Identifier: Apache-2.0
"""Runs `run.py` as a user does, and measures the seconds to its first step or to its end.

    python benchmarks/starts.py --kind compiled ...     seconds to the end of the first step
    python benchmarks/starts.py --steps 400 ...         seconds to the end, everything saved

`bench.py` starts it. compiled: an equal run, which is not measured, has written its programs and
tokens before; cold: neither exist.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--kind", choices=("compiled", "cold"), default="cold")
    add("--steps", type=int, default=1)
    add("--packing", default="buckets")
    add("--length", type=int, default=72)
    add("--batch_size", type=int, default=32)
    add("--weights", required=True)
    add("--data_dir", required=True)
    add("--dataset")
    add("--cache_dir", required=True)
    return parser


def command_of(args, model_dir, cache_dir, compile_cache_dir):
    overrides = {
        "runconfig.compile_cache_dir": compile_cache_dir,
        "train_input.packing": args.packing,
        "train_input.max_sequence_length": args.length,
        "train_input.batch_size": args.batch_size,
        "train_input.cache_dir": cache_dir,
    }
    if args.dataset is not None:
        overrides["train_input.dataset"] = args.dataset
    command = [sys.executable, str(ROOT / "run.py"), "--mode", "train"]
    command += ["--params", str(ROOT / "benchmarks" / "params.yaml"), "--model_dir", str(model_dir)]
    command += ["--checkpoint_path", args.weights, "--data_dir", args.data_dir]
    command += ["--steps", str(args.steps)]
    for key, value in overrides.items():
        command += ["--override", f"{key}={value}"]
    return command


def run_and_watch(command, metrics):
    """Runs a command. Returns its processor seconds at the time when `metrics` got its first line.

    Raises:
        CalledProcessError: it failed.
    """
    process, used = subprocess.Popen(command, stdout=sys.stderr), None
    while process.poll() is None:
        if used is None and metrics.exists() and metrics.stat().st_size:
            fields = Path(f"/proc/{process.pid}/stat").read_text("ascii").rpartition(")")[2].split()
            used = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        time.sleep(0.01)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return used


def main():
    args = make_parser().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model_dir = Path(folder) / "model_dir"
        if args.kind == "compiled":
            # Written once, beside the token cache, for all blocks of the same settings.
            programs = Path(f"{args.cache_dir}-{args.packing}-{args.length}-{args.steps}")
            if not programs.exists():
                first = command_of(args, Path(folder) / "first", args.cache_dir, programs)
                subprocess.run(first, check=True, stdout=sys.stderr)
            command = command_of(args, model_dir, args.cache_dir, programs)
        else:
            command = command_of(args, model_dir, *(Path(folder) / name for name in ("t", "p")))
        began = time.time()
        used = run_and_watch(command, model_dir / "metrics.jsonl")
        ended = time.time()
        line = json.loads((model_dir / "metrics.jsonl").read_text("utf-8").splitlines()[0])
        first_step = datetime.fromisoformat(line["time"]).timestamp()
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    block = {"facts": {"peak_mib": round(peak)}}
    if args.steps == 1:
        block |= {"seconds": first_step - began, "processor_seconds": used}
    else:
        block |= {"seconds": ended - began, "count": args.steps * args.batch_size}
    print(json.dumps(block))


if __name__ == "__main__":
    main()
