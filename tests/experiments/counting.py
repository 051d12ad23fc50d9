# SPDX-License-Identifier: Apache-2.0
"""Runs that count in place of runs that train: a step takes as long as a test wants."""

import json
import sys
import time
from pathlib import Path

from experiments.experiment import Experiment

METRIC = "eval/accuracy_cls"
BASE = "configs/params_bert_tiny.yaml"

# Counts to 12 steps, an evaluation each 3, saves at each step and at SIGTERM, and resumes. Its
# figure grows with the rate, the step and the seed; `state` is all that it has counted.
COUNTS = """
import json, signal, sys, time
from pathlib import Path
folder, rate, seed, pause = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
stops = []
signal.signal(signal.SIGTERM, lambda *a: stops.append(a))
folder.mkdir(parents=True, exist_ok=True)
with open(folder / "starts", "a") as file:
    file.write("start\\n")
if rate == 0.5 and pause == "fails":
    print("out of memory"); sys.exit(1)
(folder / "params.yaml").write_text(json.dumps({"optimizer": {"learning_rate": rate},
    "runconfig": {"tf_random_seed": seed, "best_metric": "eval/accuracy_cls"}}))
state_file, metrics = folder / "state", folder / "metrics.jsonl"
state = json.loads(state_file.read_text()) if state_file.exists() else [0, 0.0]
lines = metrics.read_text().splitlines() if metrics.exists() else []
metrics.write_text("".join(l + "\\n" for l in lines if json.loads(l)["step"] <= state[0]))
while state[0] < 12:
    time.sleep(0.02 if pause == "fails" else float(pause))
    state = [state[0] + 1, state[1] * 0.9 + rate * seed]
    if state[0] % 3 == 0:
        line = {"split": "eval", "step": state[0]}
        line["eval/accuracy_cls"] = rate * state[0] + seed / 100
        with open(metrics, "a") as file:
            file.write(json.dumps(line) + "\\n")
    new = folder / "state.new"
    new.write_text(json.dumps(state)); new.rename(state_file)
    if stops:
        sys.exit(143)
(folder / "runs" / "1").mkdir(parents=True, exist_ok=True)
record = {"mode": "train_and_eval", "exit_code": 0}
(folder / "runs" / "1" / "run.json").write_text(json.dumps(record))
(folder / "best.json").write_text(json.dumps({"step": 12, "metric": "eval/accuracy_cls"}))
"""


BAYES = {
    "method": "bayes",
    "parameters": {
        "optimizer.learning_rate": {"distribution": "uniform", "min": 0, "max": 1},
        "train_input.batch_size": {"values": [8, 16]},
    },
    "seeds": [1],
    "run_cap": 16,
}


def experiment_of(**given):
    values = {
        "experiment": "tried",
        "base": BASE,
        "method": "grid",
        "metric": {"name": METRIC, "goal": "maximize"},
        "seeds": [1, 2],
        "parameters": {"optimizer.learning_rate": {"values": [0.1, 0.5, 0.3]}},
    }
    return Experiment.model_validate(values | given)


def counting(pause="0.01"):
    """Returns make_command of runs that count."""

    def command_of(base, folder, overrides):
        assert Path(base).is_file() and overrides["runconfig.mode"] == "train_and_eval"
        rate = overrides["optimizer.learning_rate"]
        seed = overrides.get("runconfig.tf_random_seed", 1)
        return [sys.executable, "-c", COUNTS, str(folder), str(rate), str(seed), pause]

    return command_of


def states(folder):
    return {path.parent.name: path.read_text() for path in sorted(Path(folder).glob("*/state"))}


def values_in(folder):
    """Returns what the combinations in a folder try: list of dict."""
    events = map(json.loads, (Path(folder) / "experiment.jsonl").read_text().splitlines())
    return [each["values"] for each in events if each["event"] == "combination"]


def trainers_in(folder):
    """Returns the process ids of the runs that count in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode("utf-8", "replace").split("\0")
        except OSError:
            continue
        if words[1:2] == ["-c"] and words[3:] and words[3].startswith(str(folder)):
            found.append(int(path.parent.name))
    return found


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)
