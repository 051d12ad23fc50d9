# SPDX-License-Identifier: Apache-2.0
"""Trainings on Temporal, whose processes are killed: minutes, in the environment of `make
temporal-setup`: .venv-temporal/bin/python -m pytest -m slow -rP tests/experiments/temporal

-rP shows after how many seconds they went on."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

pytest.importorskip("temporalio", reason="make temporal-setup has the environment")

from experiments.temporal.connection import temporal_program
from experiments.temporal.known_names import installed
from tests.experiments.counting import wait_for
from tests.experiments.temporal.processes import Server

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
TIMEOUT_SECONDS = 1800
VOCAB = Path(installed("all-MiniLM-L6-v2")) / "vocab.txt"
KILLED = [("worker",), ("server",), ("worker", "server"), ("client",)]  # one in each run
FILE = {
    "experiment": "killed",
    "base": "configs/params_bert_tiny.yaml",
    "method": "grid",
    "metric": {"name": "eval/accuracy_cls", "goal": "maximize"},
    "seeds": [1, 2],
    "parameters": {
        "optimizer.learning_rate": {"values": [1e-3, 1e-2]},
        "runconfig.max_steps": {"value": 400},
    },
}


def weights_of(model_dir, step):
    """Returns {run: SHA-256 of the weights of a step}."""
    return {
        path.parts[-3]: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(model_dir.glob(f"*/checkpoint-{step}/weights.safetensors"))
    }


def processes_of(folder):
    """Returns {process id: command line} of all that works in a folder."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes().decode("utf-8", "replace").replace("\0", " ")
            if f"{folder}/" in line or f"{folder} " in line:
                found[int(path.parent.name)] = line
    return found


def last_step(metrics):
    """Returns the last step that a metrics.jsonl tells of; 0 without the file."""
    if not metrics.exists():
        return 0
    lines = metrics.read_text().splitlines()[:-1]  # the last one may be torn
    return max((json.loads(line)["step"] for line in lines), default=0)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Returns the experiment's file and the flags of every executor."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "killed.yaml").write_text(yaml.safe_dump(FILE))
    flags = ["--params", folder / "killed.yaml", "--data_dir", folder / "data"]
    return [*map(str, flags), "--override", f"*_input.vocab_file={VOCAB}"]


def command(given, model_dir, *more):
    words = [sys.executable, "run.py", "--mode", "experiment", *given, *more]
    return [*words, "--model_dir", str(model_dir)]


def run_locally(given, model_dir):
    """Returns the table of the local executor."""
    return subprocess.run(
        command(given, model_dir),
        cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True,
    ).stdout  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(given, tmp_path_factory):
    """The weights and the table of the local executor."""
    folder = tmp_path_factory.mktemp("undisturbed")
    table = run_locally(given, folder)
    weights = weights_of(folder, 400)
    assert len(set(weights.values())) == 4
    return weights, table


class Processes:
    """A server, a worker and a client, each of which can be killed and started again.

    model_dir: of the experiment. folder: Path of the server's database and of what they print.
    """

    def __init__(self, given, model_dir, folder):
        folder.mkdir()
        self.folder, self.server, self.running = folder, Server(folder), {}
        address = ["--temporal_address", self.server.address]
        self.commands = {
            "worker": [sys.executable, "-m", "experiments.temporal.worker", *address],
            "client": command(given, model_dir, "--executor", "temporal", *address),
        }

    def start(self, *names):
        for name in names:
            if name == "server":
                self.server.start()
                continue
            path = self.folder / name
            with open(f"{path}.out", "ab") as out, open(f"{path}.log", "ab") as log:
                self.running[name] = subprocess.Popen(
                    self.commands[name], cwd=ROOT, stdout=out, stderr=log
                )

    def kill(self, *names):
        """As `kill -9` does, all before any has been waited for."""
        processes = [self.server.process if n == "server" else self.running[n] for n in names]
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()

    def log(self, name):
        return (self.folder / f"{name}.log").read_text()

    def close(self):
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait(timeout=60)
        self.server.kill()


@pytest.fixture
def processes(given, tmp_path):
    with contextlib.closing(Processes(given, tmp_path / "runs", tmp_path / "server")) as started:
        started.start("worker", "client")
        yield started
    assert not processes_of(tmp_path / "runs")


def test_whatever_is_killed_the_runs_go_on_and_end_with_the_same_weights(
    undisturbed, processes, tmp_path
):
    """Each run is disturbed by something else, once it has told of its first steps."""
    folder = tmp_path / "runs"
    for number, killed in enumerate(KILLED):
        metrics = folder / f"killed-run-{number}-bert_tiny" / "metrics.jsonl"
        wait_for(lambda path=metrics: last_step(path) > 0, TIMEOUT_SECONDS)
        told = len(processes.log("client"))
        processes.kill(*killed)
        step, started = last_step(metrics), time.monotonic()
        processes.start(*reversed(killed))  # a worker needs its server
        restarted = time.monotonic()
        if killed == ("client",):
            wait_for(lambda n=told: "is running" in processes.log("client")[n:], 60)
        else:
            wait_for(lambda path=metrics, at=step: last_step(path) > at, 120)
        seconds, again = time.monotonic() - started, restarted - started
        print(f"{' and '.join(killed)} killed at step {step}: started again within {again:.1f} s, "
              f"the next step told of after {seconds:.1f} s")  # fmt: skip
    assert processes.running["client"].wait(TIMEOUT_SECONDS) == 0, processes.log("client")
    table = (tmp_path / "server" / "client.out").read_text()
    assert (weights_of(folder, 400), table) == undisturbed
    starts = [len(list(folder.glob(f"*run-{n}-*/runs/*/run.json"))) for n in range(4)]
    assert starts[0] > 1 and starts[2] > 1 and starts[3] == 1, starts


def test_nothing_trains_after_a_cancel_and_what_it_saved_goes_on(
    given, undisturbed, processes, tmp_path
):
    folder = tmp_path / "runs"
    metrics = folder / "killed-run-0-bert_tiny" / "metrics.jsonl"
    wait_for(lambda: last_step(metrics) > 0, TIMEOUT_SECONDS)
    words = [temporal_program(), "workflow", "cancel", "--workflow-id", "killed"]
    started = time.monotonic()
    subprocess.run([*words, "--address", processes.server.address], check=True)
    wait_for(lambda: not processes_of(metrics.parent), 60)
    seconds = time.monotonic() - started
    print(f"cancelled at step {last_step(metrics)}: its processes had left after {seconds:.1f} s")
    assert processes.running["client"].wait(60) == 1
    found = {path: os.stat(path).st_mtime_ns for path in folder.rglob("*")}
    time.sleep(5)
    assert {path: os.stat(path).st_mtime_ns for path in folder.rglob("*")} == found
    assert 0 < last_step(metrics) < 400
    assert run_locally(given, folder) == undisturbed[1]
    assert weights_of(folder, 400) == undisturbed[0]


def test_the_demo_ends_with_the_weights_and_the_table_of_the_local_executor(tmp_path):
    demo = [sys.executable, "-m", "experiments.temporal.demo", "--model_dir", tmp_path / "temporal"]
    local = [sys.executable, "run.py", "--mode", "experiment", "--model_dir", tmp_path / "local"]
    local += ["--params", "configs/experiments/temporal_demo.yaml"]
    local += ["--data_dir", tmp_path / "temporal" / "data"]
    local += ["--override", f"*_input.vocab_file={VOCAB}"]
    told = [
        subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True
        )
        for command in (demo, local)
    ]
    assert "The worker is killed" in told[0].stderr
    assert told[0].stdout == told[1].stdout
    found = weights_of(tmp_path / "temporal", 100)
    assert len(set(found.values())) == 4 and found == weights_of(tmp_path / "local", 100)
