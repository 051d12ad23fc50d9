# SPDX-License-Identifier: Apache-2.0
"""The real command in two processes that train together over the loopback."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from common.training.cluster import TF_CONFIG
from tests.reference.toy_words import PROCESSORS, make_task_data

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_SECONDS = 1200  # of processes on a busy machine; alone each takes some 30 s
SAVE_EVERY = 5
NO_DROPOUT = [
    f"--override=model.{name}=0"
    for name in ("dropout_rate", "attention_dropout_rate", "cls_dropout_rate")
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """Flags of every run on the sample."""
    folder = tmp_path_factory.mktemp("workers")
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocab), "utf-8")
    overrides = {
        "*_input.vocab_file": folder / "vocab.txt",
        "*_input.cache_dir": folder / "cache",
        "optimizer.learning_rate": 1e-3,  # the file's falls to 0 at step 20
        "runconfig.save_checkpoints_steps": SAVE_EVERY,
    }
    flags = ["--params=configs/params_bert_tiny.yaml", f"--data_dir={folder / 'data'}"]
    return flags + [f"--override={key}={value}" for key, value in overrides.items()]


def start(flags, environ=()):
    return subprocess.Popen(
        [sys.executable, "run.py", *map(str, flags)],
        cwd=ROOT,
        env={**os.environ, **dict(environ)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@contextlib.contextmanager
def two_workers(flags):
    """The chief and the other worker, started. Neither outlives the block."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("localhost", 0))) for _ in range(2)]
        addresses = [f"localhost:{each.getsockname()[1]}" for each in sockets]
    workers = []
    try:
        for index in range(2):
            task = {"type": "worker", "index": index}
            config = json.dumps({"cluster": {"worker": addresses}, "task": task})
            given = [*flags, "--override=runconfig.multiple_workers=true"]
            workers.append(start(given, {TF_CONFIG: config}))
        yield workers
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def said_by(*processes):
    """What each has printed, once they have ended by themselves with code 0."""
    said = [process.communicate(timeout=TIMEOUT_SECONDS)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(said), "\n".join(said)
    return said


def train(flags, model_dir, max_steps, *, workers):
    flags = [
        *flags,
        "--mode=train_and_eval",
        f"--model_dir={model_dir}",
        f"--max_steps={max_steps}",
    ]
    if workers == 1:
        return said_by(start(flags))
    with two_workers(flags) as both:
        return said_by(*both)


def weights_of(model_dir, step):
    return load_file(model_dir / f"checkpoint-{step}" / "weights.safetensors")


def figures_of(model_dir):
    """{"<split> <step> <name>": float}, but for times, speeds and what else a line tells."""
    figures = {}
    for line in (model_dir / "metrics.jsonl").read_text("utf-8").splitlines():
        values = json.loads(line)
        place = f"{values.pop('split')} {values.pop('step')}"
        numbers = {name: value for name, value in values.items() if not isinstance(value, str)}
        figures |= {f"{place} {name}": value for name, value in numbers.items() if name != "time"}
    clocks = ("per_second", "input_wait")
    return {name: value for name, value in figures.items() if not name.endswith(clocks)}


def wait_for(path, *processes):
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not path.exists():
        assert all(process.poll() is None for process in processes), said_by(*processes)
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


def test_two_workers_end_with_the_weights_and_figures_of_one_process(flags, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    train([*flags, *NO_DROPOUT], one, 10, workers=1)
    chief, other = train([*flags, *NO_DROPOUT], two, 10, workers=2)

    # The checksums were compared by the run, which would have failed.
    assert re.search(r"Trained to step 10 by 2 workers, all with weights [0-9a-f]{8}", chief)
    ours, theirs = weights_of(one, 10), weights_of(two, 10)
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():  # float32; the rows of a batch are added in another order
        np.testing.assert_allclose(theirs[name], weight, rtol=0, atol=1e-6, err_msg=name)
    assert figures_of(one) == pytest.approx(figures_of(two), rel=1e-5)
    assert "eval 10 eval/accuracy_cls" in figures_of(two)

    *notes, line = other.splitlines()
    assert "Worker 1 of 2" in line  # of the training only the chief speaks
    assert all("params_bert_tiny.yaml: line" in note for note in notes)  # which each has read
    events = list(two.rglob("events.out.tfevents.*"))
    assert len(events) == 2  # and writes: of training and of evaluation
    assert sorted(path.name for path in two.iterdir() if path not in events) == [
        "checkpoint-10", "checkpoint-5", "eval", "metrics.jsonl", "params.yaml", "plots", "runs",
    ]  # fmt: skip


@pytest.mark.parametrize("task", [name for name in PROCESSORS if name != "classification"])
def test_two_workers_train_words_and_answers_as_one_process_does(task, tmp_path):
    overrides = {
        **{f"*_input.{key}": value for key, value in make_task_data(tmp_path, task).items()},
        "*_input.max_sequence_length": 12,  # texts are longer: windows
        "*_input.cache_dir": tmp_path / "cache",
        "*_input.packing": "buckets",  # several devices share no packed rows
        "runconfig.save_checkpoints_steps": SAVE_EVERY,
    }
    lines = (ROOT / "configs/params_bert_tiny.yaml").read_text("utf-8").splitlines()
    of_rows = ("data_dir:", "dataset:", "data_processor:", "cls_dropout_rate:")
    kept = [line for line in lines if not line.strip().startswith(of_rows)]
    (tmp_path / "params.yaml").write_text("\n".join(kept), "utf-8")
    flags = [f"--params={tmp_path / 'params.yaml'}"]
    flags += [f"--override={key}={value}" for key, value in overrides.items()]
    one, two = tmp_path / "one", tmp_path / "two"
    train(flags, one, 10, workers=1)
    chief, _ = train(flags, two, 10, workers=2)
    assert re.search(r"Trained to step 10 by 2 workers, all with weights [0-9a-f]{8}", chief)
    ours, theirs = weights_of(one, 10), weights_of(two, 10)
    for name, weight in ours.items():  # float32; the rows of a batch are added in another order
        # This one moves all logits of a softmax alike: its gradient is nothing but rounding.
        atol = 1e-4 if name == "qa/bias" else 1e-6
        np.testing.assert_allclose(theirs[name], weight, rtol=0, atol=atol, err_msg=name)
    assert figures_of(one) == pytest.approx(figures_of(two), rel=1e-5)


def test_two_workers_that_resume_have_the_bits_of_two_that_went_through(flags, tmp_path):
    whole, parts, one = tmp_path / "whole", tmp_path / "parts", tmp_path / "one"
    train(flags, whole, 10, workers=2)
    train(flags, parts, 5, workers=2)
    train(flags, parts, 10, workers=2)
    for name, weight in weights_of(whole, 10).items():
        np.testing.assert_array_equal(weights_of(parts, 10)[name], weight, err_msg=name)
    # Dropout is on here: its masks follow the rows, so that one process has them too.
    train(flags, one, 10, workers=1)
    for name, weight in weights_of(whole, 10).items():
        np.testing.assert_allclose(
            weights_of(one, 10)[name], weight, rtol=0, atol=1e-6, err_msg=name
        )


@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_that_is_killed_ends_the_other_with_a_sentence(victim, flags, tmp_path):
    with two_workers([*flags, "--mode=train", f"--model_dir={tmp_path}", "--steps=100000"]) as both:
        wait_for(tmp_path / f"checkpoint-{SAVE_EVERY}", *both)
        both[victim].kill()
        other = both[1 - victim]
        said, _ = other.communicate(timeout=TIMEOUT_SECONDS)
    assert other.returncode == 1, said
    assert "another of the 2 workers has ended or cannot be reached" in said
    assert "Traceback" not in said


def test_a_signal_to_one_worker_stops_both_after_the_same_step(flags, tmp_path):
    with two_workers([*flags, "--mode=train", f"--model_dir={tmp_path}", "--steps=100000"]) as both:
        wait_for(tmp_path / f"checkpoint-{SAVE_EVERY}", *both)
        both[1].send_signal(signal.SIGTERM)
        said = [worker.communicate(timeout=TIMEOUT_SECONDS)[0] for worker in both]
    assert [worker.returncode for worker in both] == [128 + signal.SIGTERM] * 2, said
    assert re.search(r"Trained to step (\d+) by 2 workers", said[0])
    assert "the same command continues at step" in said[0]
