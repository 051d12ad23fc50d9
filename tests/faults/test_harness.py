# SPDX-License-Identifier: Apache-2.0
"""The short forms of `harness.py` and `damage.py`, and that they would see what they look for."""

import json
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.checkpoints import store
from tests.faults import damage, harness

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 1200


def run_harness(*flags):
    """In a process of its own: this one may have used TensorFlow, and could not be forked."""
    command = [sys.executable, "tests/faults/harness.py", *flags]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("configuration", ["plain", "words", "questions"])
def test_killed_runs_end_with_the_bits_of_one_that_went_through(configuration):
    said = run_harness(f"--configuration={configuration}", "--kills=2")
    # One run or several: a kill comes too late where the machine is faster than it was.
    assert re.search(rf"{configuration}: 2 kills, [1-9]\d* runs brought .* the same bits", said)


@pytest.mark.slow
def test_failing_writes_and_disks_leave_what_was_saved():
    said = run_harness("--configuration=plain", "--kills=0", "--failures=4", "--disks")
    assert "4 writes that failed or took long, same bits at the end" in said
    assert "gone during the run: exit code" in said


def test_damaged_files_are_detected(tmp_path):
    results = damage.damage_all(200, 0, tmp_path)
    assert results.total() == 200
    for name in ("weights.safetensors", "manifest.json", "split.tfrecord", "given.yaml"):
        assert any(name in key and key.endswith("detected") for key in results), name


def test_a_damage_that_nobody_sees_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "fault_in", lambda path: None)
    with pytest.raises(AssertionError, match=r"damage \d+ of seed 0: checkpoint, "):
        damage.damage_all(20, 0, tmp_path)


# ---- What the harness would see ------------------------------------------------------------------


def outcome_of(*lines, said=""):
    return harness.Outcome([0], said, list(lines), True, 1.0, None)


def line(thread=1, **facts):
    return {"thread": thread, "time": 0.0} | facts


def test_a_phase_is_the_innermost_part_of_what_was_under_way():
    assert outcome_of().phase == "start"
    assert outcome_of(line(resumed=4, fault=None)).phase == "start, after loading"
    step = line(begins="step")
    assert outcome_of(step).phase == "step"
    done = [step, line(ends="step"), line(step=1)]
    assert outcome_of(*done).phase == "between steps"
    assert outcome_of(line(begins="evaluate"), line(begins="write x")).phase == "evaluate > write x"
    save = [line(thread=2, begins=name) for name in ("save", "flush y")]
    assert outcome_of(step, *save).phase == "save > flush y"
    assert outcome_of(*done, *save, line(thread=2, ends="flush y")).phase == "save"


@pytest.fixture
def reference(tmp_path):
    """A Reference and Runs of two checkpoints, of steps 1 and 2, and the figures of a run."""
    model_dir = tmp_path / "model_dir"
    model_dir.mkdir()
    path = damage.Checkpoints(model_dir).path
    path.rename(model_dir / f"checkpoint-{harness.LAST_STEP}")
    (model_dir / "metrics.jsonl").write_text('{"time": 1, "step": 2, "loss": 0.5}\n')
    (model_dir / "best.json").write_text('{"step": 2}')
    reference = harness.Reference.__new__(harness.Reference)
    reference.bits = {n: harness.bits_of(p) for n, p in harness.steps_of(model_dir).items()}
    reference.figures = harness.figures_of(model_dir)
    reference.best = {"step": 2}
    return reference, SimpleNamespace(model_dir=model_dir)


def saved(step):
    return line(ends="save", result=f"model_dir/checkpoint-{step}")


def test_after_a_fault_what_is_lost_and_what_is_saved_are_counted(reference):
    reference, runs = reference
    lines = [saved(1), saved(12), *(line(step=n) for n in (12, 13, 14))]
    assert reference.check_after_fault(runs, outcome_of(*lines), {1}) == (2, {1, 12})


def change_a_weight(model_dir):
    file = model_dir / "checkpoint-1" / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")


def take_other_bits(model_dir):
    shutil.copytree(model_dir / "checkpoint-12", model_dir / "checkpoint-1", dirs_exist_ok=True)


@pytest.mark.parametrize(
    ("harm", "outcome", "told"),
    [
        (change_a_weight, outcome_of(), "is listed and does not verify: weights"),
        (take_other_bits, outcome_of(), "has other bits than the undisturbed run"),
        (None, outcome_of(said="Traceback (most recent call last)"), "a traceback"),
        (None, outcome_of(saved(14)), "checkpoint-14 was saved, and 12 is the newest left"),
        (None, outcome_of(line(resumed=1, fault="x is missing")), "was loaded that does not verif"),
    ],
)
def test_a_promise_that_is_not_kept_after_a_fault_is_told(reference, harm, outcome, told):
    reference, runs = reference
    if harm is not None:
        harm(runs.model_dir)
    with pytest.raises(harness.Broken, match=told):
        reference.check_after_fault(runs, outcome, set())


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("checkpoint-12/config.json", "{}", r"\['config.json'\] have other bits at the end"),
        ("metrics.jsonl", '{"time": 1, "step": 2, "loss": 0.6}\n', r"metrics.jsonl: .*0\.6"),
        ("metrics.jsonl", "", "metrics.jsonl: 0 lines, 1 undisturbed"),
        ("best.json", '{"step": 1}', "best.json names another checkpoint"),
        (".best.json.7.tmp", "", r"left behind: \['.best.json.7.tmp'\]"),
    ],
)
def test_an_end_that_differs_from_that_of_the_undisturbed_run_is_told(
    reference, file, content, told
):
    reference, runs = reference
    reference.check_end(runs, outcome_of())
    (runs.model_dir / file).write_text(content)
    with pytest.raises(harness.Broken, match=told):
        reference.check_end(runs, outcome_of())


CHILD = """
import os, sys
from pathlib import Path
from tests.faults import harness
folder, kind = Path(sys.argv[1]), sys.argv[2]
log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
child = harness.Child(folder, log, harness.Fault(kind, "write model_dir/file-#", 2), 1)
child.wrap(Path, "write_text", child.file_event("write"))
for number in range(3):
    try:
        (folder / "model_dir" / f"file-{number}").write_text("content")
    except OSError as error:
        print(error)
Path(folder.parent / "elsewhere").write_text("of no interest")
"""


@pytest.mark.parametrize(
    ("kind", "code", "sizes"),
    [
        ("before", -9, [7]),
        ("after", -9, [7, 7]),
        ("torn", -9, [7, 3]),
        ("fail", 0, [7, 7]),
        ("delay", 0, [7, 7, 7]),
        ("within", 0, [7, 7, 7]),
    ],
)
def test_a_fault_strikes_at_its_event_and_number(tmp_path, kind, code, sizes):
    folder = tmp_path / "runs"
    (folder / "model_dir").mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), kind], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (code, "")
    assert [p.stat().st_size for p in sorted((folder / "model_dir").iterdir())] == sizes
    assert ("Input/output error" in done.stdout) == (kind == "fail")
    assert (done.stdout == "!") == (kind == "within")
    events = [json.loads(text) for text in (folder / "log").read_text().splitlines()]
    assert {each.get("begins", each.get("ends")) for each in events} == {"write model_dir/file-#"}


def test_kills_are_drawn_at_times_and_at_every_event():
    events = Counter({"save": 5, "write x": 1})
    reference = SimpleNamespace(events=events, durations={"save": 2.0}, seconds=9.0)
    generator = random.Random(0)
    faults = [harness.random_kill(generator, reference, 1) for _ in range(500)]
    assert {fault.kind for fault in faults} == {"kill", "before", "after", "within", "torn"}
    assert {fault.event for fault in faults} == {None, "save", "write x"}
    assert {f.number for f in faults if f.event == "save"} == {1, 2, 3, 4}
    assert all(fault.event == "write x" for fault in faults if fault.kind == "torn")
    pairs = [harness.random_kill(generator, reference, 2) for _ in range(100)]
    assert {f.victims for f in pairs if f.kind == "kill"} == {(0,), (1,), (0, 1)}


def test_the_harness_verifies_by_itself(tmp_path):
    (tmp_path / "one").mkdir()
    checkpoints = damage.Checkpoints(tmp_path / "one")
    assert harness.fault_in(checkpoints.path) is None
    for file in checkpoints.files:
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert harness.fault_in(checkpoints.path) is not None
        file.write_bytes(content)
