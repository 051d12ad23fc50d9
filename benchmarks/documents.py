# SPDX-License-Identifier: Apache-2.0
"""Memory and time of preparing documents of any size and of training on them; and kills of both.

    python benchmarks/documents.py --text FILE... --vocab vocab.txt [--gigabytes 4] [--kills 20]

Writes the text again and again, a number before each line, until it has its size, into --folder;
prepares it; and trains some steps on it and on --small_megabytes of it. Memory is the largest sum
of the PSS of a command and its processes, twice a second; each page counts once.

With --kills the small text is prepared, and a network of one layer trained on it, while SIGKILL
ends them at random times; what is there at last is compared with what an undisturbed run leaves.
Exits with 1 where a bit differs.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "configs/params_bert_minilm_pretrain_text.yaml"
FILE_BYTES = 64_000_000
SAMPLE_SECONDS = 0.5
TINY = {
    "model.num_hidden_layers": 1,
    "model.hidden_size": 32,
    "model.num_heads": 2,
    "model.filter_size": 64,
    "runconfig.save_checkpoints_steps": 3,
}
TINY_STEPS = 30


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--text", nargs="+", required=True, help="files of documents with blank lines between")
    add("--vocab", required=True, help="vocab.txt")
    add("--gigabytes", type=float, default=4.0)
    add("--small_megabytes", type=float, default=40.0)
    add("--steps", type=int, default=20, help="of training")
    add("--kills", type=int, default=0, help="of preparing, and as many of training")
    add("--only_kills", action="store_true")
    add("--seed", type=int, default=0, help="of the times of kills")
    add("--folder", type=Path, default=Path("model_dir/documents"))
    add("--override", action="append", default=[], help="KEY=VALUE, as of run.py")
    return parser


def write_text(paths, folder, num_bytes):
    """Writes about so many bytes in files of FILE_BYTES, unless they are there."""
    if folder.exists():
        return
    lines = [line for path in paths for line in [*Path(path).read_bytes().splitlines(), b""]]
    folder.mkdir(parents=True)
    written = number = 0
    while written < num_bytes:
        size, path = 0, folder / f"{number:04}.txt"
        with open(path, "wb") as file:
            while size < FILE_BYTES and written + size < num_bytes:
                for line in lines:
                    size += file.write(b"%d %s\n" % (number, line) if line else b"\n")
                number += 1
        written += size


# ---- A command -----------------------------------------------------------------------------------


def start(args, mode, text, prepared, model_dir, overrides):
    """Starts run.py as the leader of a group of processes. Returns Popen."""
    values = {
        "train_input.train_documents": str(text),
        "*_input.eval_documents": None,
        "*_input.prepared_dir": str(prepared),
        "*_input.vocab_file": args.vocab,
        "runconfig.max_seconds": None,
        "runconfig.compile_cache_dir": False,  # a program that is read takes less memory
        **overrides,
    }
    command = [sys.executable, "run.py", "--mode", mode, "--params", CONFIG]
    command += ["--model_dir", str(model_dir)]
    for key, value in values.items():
        command += ["--override", f"{key}={json.dumps(value)}"]
    for override in args.override:
        command += ["--override", override]
    with open(args.folder / "log", "ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def measure(args, *given):
    """Runs a command. Returns its seconds, processor seconds, and peak of memory in bytes."""
    before, began = os.times(), time.perf_counter()
    process, peak = start(args, *given), 0
    while process.poll() is None:
        peak = max(peak, sum(map(pss, group(process.pid))))
        time.sleep(SAMPLE_SECONDS)
    seconds, after = time.perf_counter() - began, os.times()
    if process.returncode != 0:
        sys.exit(f"run.py ended with {process.returncode}; {args.folder / 'log'} says why")
    processor = after.children_user + after.children_system
    return seconds, processor - before.children_user - before.children_system, peak


def group(leader):
    """Returns the processes of a group: list of int."""
    members = []
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                if os.getpgid(int(entry.name)) == leader:
                    members.append(int(entry.name))
            except ProcessLookupError:
                continue
    return members


def pss(process):
    """Returns bytes: each page divided by the number of processes that share it."""
    try:
        with open(f"/proc/{process}/smaps_rollup", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
    except (OSError, StopIteration):  # it has ended
        return 0


# ---- Memory and time -----------------------------------------------------------------------------


def measure_sizes(args):
    peaks = {}
    sizes = {"large": args.gigabytes * 1e9, "small": args.small_megabytes * 1e6}
    for name, size in sizes.items():
        text, prepared = args.folder / f"text-{name}", args.folder / f"prepared-{name}"
        write_text(args.text, text, size)
        shutil.rmtree(prepared, ignore_errors=True)
        shutil.rmtree(args.folder / f"model-{name}", ignore_errors=True)
        model_dir = args.folder / f"model-{name}"
        seconds, processor, peak = measure(args, "prepare_data", text, prepared, model_dir, {})
        manifest = json.loads((prepared / "train" / "manifest.json").read_text("utf-8"))
        print(
            f"{name}, prepared: {manifest['text_bytes'] / 1e6:,.0f} MB of text, "
            f"{manifest['sentences']:,} sentences, {manifest['tokens']:,} tokens in {seconds:.0f} "
            f"s ({processor:.0f} of processor time): {manifest['sentences'] / seconds:,.0f} "
            f"sentences/s; peak {peak / 1e6:,.0f} MB",
            flush=True,
        )
        steps = {"runconfig.max_steps": args.steps, "runconfig.save_checkpoints_steps": args.steps}
        seconds, _, peaks[name] = measure(args, "train", text, prepared, model_dir, steps)
        print(
            f"{name}, {args.steps} steps of training: {seconds:.0f} s with the start; peak "
            f"{peaks[name] / 1e6:,.0f} MB",
            flush=True,
        )
    print(f"training's peaks differ by {(peaks['large'] - peaks['small']) / 1e6:+,.0f} MB")


# ---- Kills ---------------------------------------------------------------------------------------


def kill_and_compare(args, mode, result_of):
    """Kills a mode args.kills times. Returns whether it leaves the bits of an undisturbed run.

    result_of: (prepared, model_dir) -> {name: hash} of what the mode leaves.
    """
    draw = random.Random(args.seed)
    text = args.folder / "text-small"
    write_text(args.text, text, args.small_megabytes * 1e6)
    steps = {"runconfig.max_steps": TINY_STEPS, **TINY}

    def places(name):
        of_all = args.folder / "prepared-kills" if mode == "train" else args.folder / f"rows-{name}"
        return of_all, args.folder / f"{mode}-{name}"

    for name in ("whole", "killed"):
        for path in places(name):
            shutil.rmtree(path, ignore_errors=True)
    if mode == "train":
        measure(args, "prepare_data", text, *places("whole"), {})
    seconds, *_ = measure(args, mode, text, *places("whole"), steps)
    expected = result_of(*places("whole"))
    kills = rounds = 0
    while kills < args.kills:
        rounds += 1
        for path in places("killed")[mode == "train" :]:
            shutil.rmtree(path, ignore_errors=True)
        is_done = False
        while not is_done and kills < args.kills:
            process = start(args, mode, text, *places("killed"), steps)
            try:
                is_done = process.wait(draw.uniform(0, seconds)) == 0
                if not is_done:
                    sys.exit(f"run.py ended with {process.returncode}; {args.folder / 'log'}")
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
        if not is_done:
            measure(args, mode, text, *places("killed"), steps)
        found = result_of(*places("killed"))
        if found != expected:
            different = {name for name in found | expected if found.get(name) != expected.get(name)}
            print(f"{mode}: after {kills} kills {sorted(different)} differ")
            return False
    print(f"{mode}: {kills} kills in {rounds} runs, every bit as undisturbed", flush=True)
    return True


def hashes(paths):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def rows_left(prepared, model_dir):
    del model_dir
    return hashes(path for path in (prepared / "train").iterdir() if path.is_file())


def weights_left(prepared, model_dir):
    del prepared
    return hashes((model_dir / f"checkpoint-{TINY_STEPS}").glob("*.safetensors"))


def main():
    args = make_parser().parse_args()
    args.folder = args.folder.resolve()
    args.folder.mkdir(parents=True, exist_ok=True)
    if not args.only_kills:
        measure_sizes(args)
    if args.kills == 0:
        return 0
    of_mode = {"prepare_data": rows_left, "train": weights_left}
    return int(not all([kill_and_compare(args, *each) for each in of_mode.items()]))


if __name__ == "__main__":
    sys.exit(main())
