# SPDX-License-Identifier: Apache-2.0
"""Compares two checkouts of this project on one machine: their results' bits, or their speed.

    python benchmarks/compare_trees.py OLD NEW [--only sample,packed] [--work DIR]
    python benchmarks/compare_trees.py OLD NEW --speed [--pairs 5] [--start_pairs 11]

Every run is `run.py` of its tree, in that tree and with its .venv, with caches and model_dir of its
own below --work. OLD's hashes are stored there under its commit and are not computed again. The
exit code is 1 where a hash differs or a run fails.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import bench

SAMPLE, SST2 = "params_bert_minilm_sample.yaml", "params_bert_minilm_sst2.yaml"
KILLED_AFTER, KILLED_END = 20, 60  # steps
CLOCK = ("time", "per_second", "input_wait")  # in the names of figures that no two runs share
CONSTANT = "{scheduler: Constant, learning_rate: 5e-5}"  # which all versions read alike
ROWS = {"optimizer.learning_rate": CONSTANT, "*_input.max_eval_samples": 200}
SHORT = ROWS | {
    "train_input.batch_size": 16,
    "runconfig.max_steps": KILLED_END,
    "runconfig.save_checkpoints_steps": 10,
    "runconfig.save_summary_steps": 5,
    "runconfig.eval_every_steps": 20,
}
PACKED = ROWS | {
    "model.freeze": "[]",
    "model.mixed_precision": "mixed_bfloat16",
    "train_input.packing": "packed",
    "train_input.batch_size": 32,
    "runconfig.num_streams": 2,
    "runconfig.max_steps": 200,
    "runconfig.save_checkpoints_steps": 100,
    "runconfig.save_summary_steps": 20,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A run to compare.

    Attributes:
        config: str, a file of configs/.
        modes: of `run.py`, one after the other.
        overrides: {dotted key: value}.
        is_sample: whether it trains on the embedded sample; else on --data_dir.
        workers: int. Processes that train together.
        is_killed: whether NEW resumes what was killed in OLD, while OLD's run goes through.
    """

    config: str
    modes: tuple[str, ...]
    overrides: dict
    is_sample: bool = False
    workers: int = 1
    is_killed: bool = False


CASES = {
    "sample": Case(SAMPLE, ("train_and_eval", "predict"), {}, is_sample=True),
    "packed": Case(SST2, ("train", "eval", "predict"), PACKED | {"model.r_drop_alpha": 4.0}),
    "buckets": Case(
        SST2,
        ("train", "eval", "predict"),
        SHORT
        | {
            "model.r_drop_alpha": 0,
            "train_input.packing": "buckets",
            "train_input.num_buckets": 4,
            "optimizer.grad_accum_steps": 2,
            "optimizer.moving_average_decay": 0.99,
        },
    ),
    "workers": Case(
        SAMPLE,
        ("train_and_eval", "predict"),
        SHORT | {"runconfig.max_steps": 20},
        is_sample=True,
        workers=2,
    ),
    "killed": Case(
        SST2,
        ("train_and_eval", "predict"),
        SHORT | {"model.freeze": "[]", "runconfig.best_metric": "eval/loss"},
        is_killed=True,
    ),
}


# ---- Hashes --------------------------------------------------------------------------------------


def digest(*parts):
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(part)
    return hasher.hexdigest()[:16]


def tensor_digests(path):
    """Returns {name: digest of dtype, shape and bytes} of a safetensors file."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    digests = {}
    for name, tensor in header.items():
        if name != "__metadata__":
            begin, end = tensor["data_offsets"]
            kind = json.dumps([tensor["dtype"], tensor["shape"]]).encode()
            digests[name] = digest(kind, data[begin:end])
    return digests


def metrics_digests(text):
    """Returns {"<split> <step> <name>": value} of a metrics.jsonl without what the clock decides.

    A figure that stands there twice has a number behind its name.
    """
    values = {}
    for line in text.splitlines():
        figures = json.loads(line)
        place = f"{figures.pop('split')} {figures.pop('step')}"
        for name, value in figures.items():
            if name == "time" or any(word in name for word in CLOCK[1:]):
                continue
            key, number = f"{place} {name}", 1
            while key in values:
                number += 1
                key = f"{place} {name} ({number})"
            values[key] = repr(value)
    return values


def results_of(model_dir):
    """Returns {"weights", "state", "metrics", "predictions": {name: digest or value}}."""
    steps = [int(path.name.split("-")[1]) for path in model_dir.glob("checkpoint-*")]
    last = model_dir / f"checkpoint-{max(steps)}"
    predictions = {}
    for path in sorted(model_dir.rglob("*.npz")):
        with np.load(path) as arrays:
            for name, array in arrays.items():
                kind = f"{array.dtype} {array.shape}".encode()
                predictions[f"{path.relative_to(model_dir)} {name}"] = digest(kind, array.tobytes())
    return {
        "weights": tensor_digests(last / "weights.safetensors"),
        "state": tensor_digests(last / "training_state.safetensors"),
        "metrics": metrics_digests((model_dir / "metrics.jsonl").read_text("utf-8")),
        "predictions": predictions,
    }


def differences(old, new):
    """Returns the names whose values differ or that only one side has."""
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


# ---- Runs ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Tree:
    """A checkout and the folder below --work that holds what its runs write."""

    root: Path
    folder: Path
    data_dir: Path

    def command(self, case, mode, model_dir):
        data_dir = self.folder / "data" if case.is_sample else self.data_dir
        command = [self.root / ".venv/bin/python", "run.py", f"--mode={mode}"]
        command += [f"--params=configs/{case.config}", f"--model_dir={model_dir}"]
        command += [f"--data_dir={data_dir}"]
        if "train" in mode:
            command.append(f"--checkpoint_path={bench.find_weights(None)}")
        overrides = case.overrides | {
            "runconfig.compile_cache_dir": self.folder / "programs",
            "*_input.cache_dir": self.folder / "tokens",
        }
        return command + [f"--override={key}={value}" for key, value in overrides.items()]

    def start(self, command, log, **environment):
        with log.open("ab") as file:
            return subprocess.Popen(
                command,
                cwd=self.root,
                env=os.environ | environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def run(self, name, mode, model_dir):
        """Runs a mode of a case to its end.

        Raises:
            ChildProcessError: it failed.
        """
        case, log, began = CASES[name], self.folder / f"{name}.log", time.monotonic()
        command = self.command(case, mode, model_dir)
        if case.workers > 1 and "train" in mode:
            command.append("--override=runconfig.multiple_workers=true")
            environments = cluster_environments(case.workers)
        else:
            environments = [{}]
        processes = [self.start(command, log, **each) for each in environments]
        try:
            codes = [process.wait() for process in processes]
        finally:
            for process in processes:
                process.kill()
        if any(codes):
            raise ChildProcessError(f"{name}: {mode} in {self.root} ended with {codes}; see {log}")
        print(f"  {name}: {mode} in {self.root}, {time.monotonic() - began:.0f} s", flush=True)

    def run_and_kill(self, name, model_dir):
        """Trains until a checkpoint in the middle is there, and kills the run."""
        case, log = CASES[name], self.folder / f"{name}.log"
        process = self.start(self.command(case, case.modes[0], model_dir), log)
        while not (model_dir / f"checkpoint-{KILLED_AFTER}").exists():
            if process.poll() is not None:
                raise ChildProcessError(f"{name}: ended before it was killed; see {log}")
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (model_dir / f"checkpoint-{KILLED_END}").exists():
            raise ChildProcessError(f"{name}: the run was over before it was killed")
        print(f"  {name}: killed in {self.root} after step {KILLED_AFTER}", flush=True)

    def results(self, name, begun=None):
        """Runs a case; begun: a killed run's model_dir, from which a copy is resumed."""
        model_dir = self.folder / name
        shutil.rmtree(model_dir, ignore_errors=True)
        if begun is not None:
            shutil.copytree(begun, model_dir)
        for mode in CASES[name].modes:
            self.run(name, mode, model_dir)
        return results_of(model_dir)


def cluster_environments(workers):
    """Returns for each worker the environment that tells it of all, at ports of the loopback."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(workers)]
    addresses = [f"localhost:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    tasks = [{"type": "worker", "index": index} for index in range(workers)]
    cluster = {"worker": addresses}
    return [{"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})} for task in tasks]


def commit_of(root):
    """Returns the commit of a checkout, or None where files differ from it."""
    status = ["git", "-C", root, "status", "--porcelain", "--untracked-files=no"]
    if subprocess.run(status, check=True, capture_output=True).stdout:
        return None
    head = ["git", "-C", root, "rev-parse", "HEAD"]
    return subprocess.run(head, check=True, capture_output=True, text=True).stdout.strip()


def compare(old, new, names, work):
    """Runs cases in both trees and prints what is equal. Returns whether all is."""
    commit, stored = commit_of(old.root), work / "results.json"
    is_equal = True
    for name in names:
        known = json.loads(stored.read_text("utf-8")) if stored.exists() else {}
        key = f"{commit} {name} {digest(repr((CASES[name], str(old.data_dir))).encode())}"
        begun = old.folder / f"{name}-begun" if CASES[name].is_killed else None
        try:
            if key not in known:
                if begun is not None:
                    shutil.rmtree(begun, ignore_errors=True)
                    old.run_and_kill(name, begun)
                known[key] = old.results(name)
                if commit is not None:
                    stored.write_text(json.dumps(known, indent=1), "utf-8")
            results = new.results(name, begun)
        except ChildProcessError as error:
            print(f"{name:8} FAILED   {error}", flush=True)
            is_equal = False
            continue
        for part, expected in known[key].items():
            unequal = differences(expected, results[part])
            whole = [
                digest(json.dumps(x, sort_keys=True).encode()) for x in (expected, results[part])
            ]
            verdict = "equal" if not unequal else "DIFFERENT"
            print(f"{name:8} {part:12} {verdict:10} {whole[0]} {whole[1]} ({len(expected)} values)")
            for each in unequal[:5]:
                print(f"    {each}: {expected.get(each)} / {results[part].get(each)}")
            is_equal = is_equal and not unequal
        sys.stdout.flush()
    return is_equal


# ---- Speed ---------------------------------------------------------------------------------------

RATE_STEPS = 60
STEPS_OF_PACKED = "case packed, 60 steps of run.py"
MEASURED = (  # labels of `bench.plan`
    "minilm, padded to 128, float32",
    "minilm, padded to 128 in 2 streams, float32",
    "minilm, infer, float32",
    "minilm, infer in 2 streams, float32",
    "minilm, infer in 2 streams, bfloat16",
)
STARTS = ("start, minilm, sst2, compiled", "start, minilm, sst2, cold")


def measure_packed_steps(tree):
    """Trains case `packed` for RATE_STEPS steps; prints the block of its later figures."""
    case = CASES["packed"]
    model_dir = tree.folder / "rate"
    shutil.rmtree(model_dir, ignore_errors=True)
    command = [*tree.command(case, "train", model_dir), f"--max_steps={RATE_STEPS}"]
    subprocess.run(command, cwd=tree.root, check=True, stdout=sys.stderr)
    lines = map(json.loads, (model_dir / "metrics.jsonl").read_text("utf-8").splitlines())
    rates = [line["train/examples_per_second"] for line in lines if line["split"] == "train"]
    # Processor seconds of the whole process say nothing of these steps.
    block = {"seconds": 1.0, "count": statistics.median(rates[1:]), "processor_seconds": None}
    print(json.dumps(block))


def speed(trees, pairs, start_pairs, work):
    """Prints for each measurement NEW's speed relative to OLD's, pair by pair, and the median.

    trees: {"old", "new": Tree}. Returns whether every measurement succeeded.
    """
    plan = bench.plan(("train", "infer", "start"), bench.PRECISIONS, peers=False)
    specs = {spec.label: spec for spec in plan}
    specs[STEPS_OF_PACKED] = bench.Spec("", "ours", "epoch", STEPS_OF_PACKED)
    tree_of = {}

    def command_of(spec):
        tree = tree_of[spec]
        python = tree.root / ".venv/bin/python"
        if spec.label.startswith(STEPS_OF_PACKED):
            arguments = [tree.root, tree.root, "--packed_steps", "--work", tree.folder]
            return [python, Path(__file__), *arguments, "--data_dir", tree.data_dir]
        task = [] if bench.is_run(spec) else [spec.task]
        script = "starts.py" if bench.is_run(spec) else "ours.py"
        given = {"weights": bench.find_weights(None), "cache_dir": tree.folder / "tokens"}
        given = bench.flags(**given, data_dir=tree.data_dir)
        return [python, tree.root / "benchmarks" / script, *task, *given, *spec.flags]

    is_whole = True
    for label in (STEPS_OF_PACKED, *MEASURED, *STARTS):
        sides = []
        for side, tree in trees.items():
            sides.append(
                dataclasses.replace(
                    specs[label], group=label, label=f"{label}, {side}", blocks=None
                )
            )
            tree_of[sides[-1]] = tree
        driver = bench.Bench(start_pairs if label in STARTS else pairs, work, command_of)
        old, new = driver.run(sides)
        ratios = bench.ratios_in_turns(new, old)
        if not ratios:
            is_whole = False
            continue
        listed = " ".join(f"{ratio:.3f}" for ratio in ratios)
        print(f"{label}: new to old {statistics.median(ratios):.3f} [{listed}]", flush=True)
    return is_whole


# ---- The command line ----------------------------------------------------------------------------


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("old", type=lambda text: Path(text).resolve())
    add("new", type=lambda text: Path(text).resolve())
    add("--only", help=f"cases, with commas between them, of {', '.join(CASES)}")
    add("--work", type=lambda text: Path(text).resolve(), default=Path("compared").resolve())
    add("--data_dir", help="folder of TFDS data with glue/sst2 (default: found)")
    add("--speed", action="store_true", help="measure speed in turns in place of comparing bits")
    add("--pairs", type=int, default=5)
    add("--start_pairs", type=int, default=11)
    add("--packed_steps", action="store_true", help="print OLD's rate: --speed starts itself so")
    args = parser.parse_args(argv)
    data_dir, dataset = bench.find_data(args.data_dir)
    if dataset is not None:
        raise SystemExit("glue/sst2 is not here; name its folder: --data_dir")
    if args.packed_steps:
        measure_packed_steps(Tree(args.old, args.work, data_dir))
        return 0
    names = args.only.split(",") if args.only else list(CASES)
    if unknown := set(names) - CASES.keys():
        raise SystemExit(f"--only {', '.join(sorted(unknown))}: available: {', '.join(CASES)}")
    old = Tree(args.old, args.work / f"old-{(commit_of(args.old) or 'changed')[:8]}", data_dir)
    new = Tree(args.new, args.work / "new", data_dir)
    shutil.rmtree(new.folder, ignore_errors=True)
    for tree in (old, new):
        tree.folder.mkdir(parents=True, exist_ok=True)
    if args.speed:
        trees = {"old": old, "new": new}
        return 0 if speed(trees, args.pairs, args.start_pairs, args.work) else 1
    return 0 if compare(old, new, names, args.work) else 1


if __name__ == "__main__":
    sys.exit(main())
