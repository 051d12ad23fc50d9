# SPDX-License-Identifier: Apache-2.0
"""The driver of the benchmarks with workers that compute nothing: turns, medians, output."""

import dataclasses
import itertools
import json
import subprocess
import sys

import pytest

from benchmarks import bench
from benchmarks.bench import Bench, Goal, Result, Spec

# A worker of the protocol. It writes into a file that all share when it is ready, begins a block
# and ends; a block has 2 examples and takes the seconds that it is given, by a clock of its own.
WORKER = """
import sys, time
sys.path.insert(0, "benchmarks")
clock = 0.0
time.perf_counter = lambda: clock
from worker import Gate
name, shared, *seconds = sys.argv[1:]
def note(what):
    with open(shared, "a") as file:
        file.write(f"{name} {what}\\n")
gate = Gate({"versions": {"worker": "1"}})
print("what a library says")
with gate.serving():
    note("ready")
    for each in map(float, seconds):
        gate.begin()
        note("block")
        if each < 0:
            sys.exit(3)
        clock += each
        gate.end(2, flops=2e9 * each)
    gate.begin()
note("ends")
"""


def spec(name, group="A", who="ours", task="train", **given):
    return Spec(group, who, task, name, gib=0.01, **given)


def run_bench(tmp_path, specs, seconds, blocks=3, **given):
    """seconds: {label: of each block}. Returns the Results, and what the workers noted."""
    shared, said = tmp_path / "notes", []
    shared.touch()

    def command_of(spec):
        given = map(str, seconds[spec.label])
        return [sys.executable, "-c", WORKER, spec.label, str(shared), *given]

    results = Bench(blocks, tmp_path, command_of, said.append, **given).run(specs)
    return results, shared.read_text().splitlines(), said


def test_workers_of_a_group_take_their_blocks_in_turn_and_groups_follow_each_other(tmp_path):
    seconds = dict.fromkeys("abc", [0.01] * 3)
    specs = [spec("a"), spec("b"), spec("c", group="B")]
    _, notes, _ = run_bench(tmp_path, specs, seconds)
    assert sorted(notes[:2]) == ["a ready", "b ready"]
    assert notes[2:8] == ["a block", "b block"] * 3
    assert notes[8:10] == ["a ends", "b ends"]
    assert notes[10:] == ["c ready", *["c block"] * 3, "c ends"]


def test_what_does_not_fit_into_memory_together_is_started_for_each_block(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "available_bytes", lambda: 0)
    results, notes, _ = run_bench(tmp_path, [spec("a"), spec("b")], {"a": [0.1], "b": [0.1]})
    turn = ["a ready", "a block", "a ends", "b ready", "b block", "b ends"]
    assert notes == turn * 3
    assert [len(result.blocks) for result in results] == [3, 3]


def test_a_run_that_takes_long_has_fewer_blocks_than_the_others(tmp_path):
    made = Bench(3, tmp_path, lambda _: ["echo", '{"seconds": 1.0, "count": 2}'], lambda _: None)
    results = made.run([spec("a", task="epoch", blocks=1), spec("b", task="epoch")])
    assert [len(result.blocks) for result in results] == [1, 3]


def test_groups_take_one_block_and_more_while_their_share_of_the_time_lasts(tmp_path, monkeypatch):
    """Workers take 1 s to be ready and 10 for a block, by a clock of their own."""
    clock = [0.0]
    monkeypatch.setattr(bench.time, "monotonic", lambda: clock[0])

    def slowed(do, seconds):
        def slow(worker):
            clock[0] += seconds
            return do(worker)

        return slow

    for name, seconds in {"wait_until_ready": 1.0, "block": 10.0}.items():
        monkeypatch.setattr(bench.Worker, name, slowed(getattr(bench.Worker, name), seconds))

    def blocks(labels, time_limit):
        clock[0] = 0.0
        specs = [spec(label, group=label) for label in labels]
        seconds = dict.fromkeys(labels, [1.0] * 3)
        results, _, said = run_bench(tmp_path, specs, seconds, time_limit=time_limit)
        return [len(result.blocks) for result in results], said

    assert blocks("ab", 64.0)[0] == [3, 3]  # at their ends it is 31 and 62
    assert blocks("abc", 63.0)[0] == [2, 2, 2]  # 21, 42, 63
    assert blocks("abcd", 46.0)[0] == [1, 1, 1, 1]  # 11, 22, 33, 44
    taken, said = blocks("abcd", 32.0)
    assert taken == [1, 1, 1] and "d: not measured" in said[-1] and "--minutes" in said[-1]


def test_a_figure_is_the_median_of_the_blocks(tmp_path):
    (result,), _, said = run_bench(tmp_path, [spec("a")], {"a": [0.5, 2.0, 1.0]})
    assert result.figures == pytest.approx([4.0, 1.0, 2.0])  # examples by seconds
    assert result.figure == pytest.approx(2.0)
    assert result.gflops == pytest.approx(2.0)
    assert result.facts["versions"] == {"worker": "1"} and result.facts["peak_mib"] > 1
    assert said[1].startswith("this project  a ")
    assert (tmp_path / "ours_a.log").read_text() == "what a library says\n"


def test_a_worker_that_ends_early_is_reported_and_the_others_go_on(tmp_path):
    specs = [spec("a"), spec("b")]
    results, _, said = run_bench(tmp_path, specs, {"a": [0.01, -1], "b": [0.01] * 3})
    assert "ended with exit code 3" in results[0].fault and "ours_a.log" in results[0].fault
    assert results[1].fault is None and len(results[1].blocks) == 3
    assert "ended with exit code 3" in said[1]


def test_a_run_is_measured_from_the_start_of_its_process(tmp_path, monkeypatch):
    clock = itertools.count(100.0)  # read when a process starts and when it has ended
    monkeypatch.setattr(bench.time, "time", lambda: next(clock))
    program = "print('x'); print('{\"first_step\": 103.5}')"
    made = Bench(2, tmp_path, lambda spec: [sys.executable, "-c", program], lambda text: None)
    (result,) = made.run([spec("start", task="start", unit="s")])
    assert result.figures == [103.5 - 100, 103.5 - 102]


# ---- Ratios --------------------------------------------------------------------------------------


def result(name, figure, who="ours", unit="examples/s", peak_mib=100, **block):
    made = Result(spec(name, who=who, unit=unit), facts={"peak_mib": peak_mib})
    made.blocks = [{"seconds": figure if unit == "s" else 1.0, "count": figure, **block}]
    return made


def test_ratios_are_of_the_best_of_each_side_and_of_less_where_less_is_better(monkeypatch):
    goals = [
        Goal("rate", 1.5, ("minilm, sst2",), ("minilm, sst2",)),
        Goal("memory", 1.0, ("minilm, padded",), ("minilm, padded",), of="peak_mib"),
        Goal("start", 1.0, ("start",), ("start",)),
        Goal("absent", 1.0, ("minilm, sst2",), ("base",)),
    ]
    monkeypatch.setattr(bench, "goals", lambda: goals)
    results = [
        result("minilm, sst2, buckets", 90.0),
        result("minilm, sst2, packed", 100.0),
        result("minilm, sst2, longest", 20.0, who="hf"),
        result("minilm, sst2, by length", 50.0, who="hf"),
        result("minilm, padded", 1.0, peak_mib=1000),
        result("minilm, padded", 1.0, who="hf", peak_mib=2000),
        result("minilm, padded", 1.0, who="keras_hub", peak_mib=1500),
        result("start", 8.0, unit="s"),
        result("start", 6.0, unit="s", who="hf"),
    ]
    found = {goal.text: (ratio, their.spec.who) for goal, ratio, _, their in bench.ratios(results)}
    assert found == {"rate": (2.0, "hf"), "memory": (1.5, "keras_hub"), "start": (0.75, "hf")}
    text = bench.summary(results)
    assert "2.00  (wanted 1.5, reached)" in text and "0.75  (wanted 1.0, not reached)" in text


@pytest.mark.parametrize(("unit", "wanted"), [("examples/s", 3.0), ("s", 1 / 3)])
def test_turn_by_turn_is_the_median_of_the_ratios_of_blocks_of_the_same_turn(unit, wanted):
    own, their = result("own", 1.0, unit=unit), result("their", 1.0, who="hf", unit=unit)
    for made, figures in ((own, [30.0, 8.0, 9.0]), (their, [5.0, 4.0, 3.0])):  # 6, 2 and 3
        made.blocks = [
            {"seconds": figure if unit == "s" else 1.0, "count": figure} for figure in figures
        ]
    assert bench.turn_by_turn(own, their) == pytest.approx(wanted)
    their.blocks.pop()
    assert bench.turn_by_turn(own, their) is None
    other = Result(dataclasses.replace(their.spec, group="another"), their.blocks)
    assert bench.turn_by_turn(Result(own.spec, own.blocks[:2]), other) is None


def test_every_goal_finds_both_its_sides_among_what_is_measured():
    specs = bench.plan(bench.PARTS, bench.PRECISIONS, peers=True)
    results = []
    for each in specs:
        made = Result(each, [{"seconds": 1.0, "count": 1.0}], {"peak_mib": 1})
        results.append(made)
    assert len(bench.ratios(results)) == len(bench.goals())


def test_the_share_of_the_limit_is_that_of_the_products_of_the_same_network_and_precision():
    ceiling = result("products", 400e9)
    ceiling.spec = Spec("A", "ours", "ceiling", "products", ("--network", "base"))
    step = result("base, padded to 128, float32", 1.0, flops=300e9)
    step.spec = Spec("A", "ours", "train", step.spec.label, ("--network", "base"))
    other = result("minilm, padded to 128, float32", 1.0, flops=300e9)
    results = [ceiling, step, other]
    shares = [bench.share_of_limit(each, bench.ceilings_of(results)) for each in results]
    assert shares == [None, pytest.approx(0.75), None]
    assert "0.75  (wanted 0.75, reached)" in bench.summary(results)


def test_results_are_written_as_json_and_drawn(tmp_path):
    results = [
        result("minilm, sst2, packed", 100.0),
        result("minilm, sst2, longest", 20.0, who="hf", others=0.5, processor_seconds=2.0),
    ]
    assert [each.by_processor for each in results] == [None, 10.0]
    content = json.loads(json.dumps(bench.to_json(results, {}, {"processor": "P"})))
    assert [each["figure"] for each in content["results"]] == [100.0, 20.0]
    assert "others took" in bench.row_of(results[1], {})
    bench.draw(results, tmp_path / "bars.png", "P")
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")


# ---- The command line ----------------------------------------------------------------------------


def listed(*flags):
    command = [sys.executable, "benchmarks/bench.py", "--list", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout


def test_the_list_says_what_would_be_measured():
    own = listed("--only", "train", "--bfloat16")
    assert "ours: minilm, sst2, packed, bfloat16" in own and "hf:" not in own
    with_peers = listed("--only", "train", "--peers", "--name", "padded to 72, float32")
    for who in ("ours", "hf", "keras_hub"):
        assert f"{who}: minilm, padded to 72, float32" in with_peers
    assert "padded to 128" not in with_peers and "base" not in with_peers
