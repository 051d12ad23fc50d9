# SPDX-License-Identifier: Apache-2.0
"""The YAML file of an experiment, and the combinations that it stands for."""

import math
from collections import Counter
from pathlib import Path

import pytest
import yaml

import experiments.temporal
import run
from common.errors import UserError
from experiments.experiment import Experiment, read_experiment
from experiments.halving import Halving
from experiments.sampling import Listed
from utils import get_params

ROOT = Path(__file__).resolve().parents[2]
GOOD = {
    "experiment": "tried",
    "base": "configs/params_bert_tiny.yaml",
    "method": "random",
    "metric": {"name": "eval/accuracy_cls", "goal": "maximize"},
    "run_cap": 60,
    "parameters": {"optimizer.learning_rate": {"values": [1e-5, 1e-4]}},
}

QUANTIZED = {"distribution": "q_uniform", "min": 0.1, "max": 0.3, "q": 0.1}
UNIFORM = {"distribution": "uniform", "min": 1, "max": 2}


def written(tmp_path, **changes):
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(GOOD | changes))
    return path


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"metric": {"name": "x", "goal": "max"}}, "goal: is 'max'; available: maximize, minimize"),
        ({"metods": 1}, "metods: unknown key; accepted: experiment, base, method"),
        ({"seeds": [1, 1]}, "each seed stands once"),
        ({"run_cap": None}, "run_cap: not given; method random needs the number of runs"),
        ({"seeds": [1, 2, 3], "run_cap": 2}, "each combination has 3 seeds"),
        ({"experiment": "a/b"}, "letters, digits"),
        ({"method": "bayes", "early_terminate": {"type": "hyperband", "min_iter": 1}}, "one after"),
        ({"parameters": {}}, "write what varies"),
        ({"parameters": {"runconfig.tf_random_seed": {"value": 1}}}, "the experiment sets: seeds"),
        ({"parameters": {"a.b": {"min": 1, "max": 2}}}, "one of value, values and distribution"),
        ({"parameters": {"a.b": {"values": [1], "min": 1}}}, "min is for a distribution"),
        ({"parameters": {"a.b": QUANTIZED | {"min": 0.05}}}, "min is 0.05, which is no multiple"),
        ({"parameters": {"a.b": QUANTIZED | {"max": 0.35}}}, "max is 0.35, which is no multiple"),
        ({"parameters": {"a.b": {"values": [1, 2, 1]}}}, "a.b: values has 1 twice"),
        ({"parameters": {"a.b": {"values": 5}}}, "a.b.values: is 5; a list is wanted"),
        ({"max_parallel": 0}, "max_parallel: is 0; a number above 0 is wanted"),
        ({"experiment": 5}, "experiment: is 5; text is wanted"),
        ({"metric": "eval/loss"}, "such as `{name: eval/accuracy_cls, goal: maximize}`"),
        ({"run_cap": 10**9}, "the file has 1,000,000,000 combinations, and 10,000 are the most"),
        (
            {
                "method": "grid",
                "run_cap": None,
                "parameters": {f"a.b{n}": {"values": [*range(10)]} for n in range(9)},
            },
            "write fewer values, or a lower run_cap",
        ),
        ({"parameters": {"a.b": {"distribution": "uniform", "min": 1}}}, "needs min and max"),
        (
            {"parameters": {"a.b": {"distribution": "log_uniform_values", "min": 0, "max": 1}}},
            "needs numbers above 0",
        ),
        (
            {
                "method": "grid",
                "parameters": {"a.b": {"distribution": "uniform", "min": 1, "max": 2}},
            },
            "a grid has values",
        ),
    ],
)
def test_a_fault_of_the_file_is_told_with_its_line_and_key(tmp_path, changes, sentence):
    path = written(tmp_path, **changes)
    with pytest.raises(UserError) as fault:
        read_experiment(path)
    assert str(path) in str(fault.value)
    assert sentence in str(fault.value)


def test_all_faults_are_told_together_with_their_lines(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("experiment: a\nbase: b\nmethod: best\nmetric: {name: c, goal: up}\n")
    with pytest.raises(UserError) as fault:
        read_experiment(path)
    text = str(fault.value)
    assert "3 to correct" in text
    assert "line 3: method: is 'best'; available: grid, random, bayes" in text
    assert "line 4: metric.goal" in text and "parameters: not given" in text


def test_a_grid_has_every_combination_and_the_last_key_changes_fastest():
    parameters = {"a.a": {"values": [1, 2]}, "a.b": {"value": 3}, "a.c": {"values": [4, 5]}}
    experiment = Experiment.model_validate(
        GOOD | {"method": "grid", "parameters": parameters, "run_cap": None}
    )
    found = [tuple(values.values()) for values in Listed(experiment).all]
    assert found == [(1, 3, 4), (1, 3, 5), (2, 3, 4), (2, 3, 5)]


def test_random_draws_are_the_same_each_time_and_of_their_distribution():
    parameters = {
        "a.log": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-1},
        "a.int": {"distribution": "int_uniform", "min": 2, "max": 4},
        "a.q": {"distribution": "q_uniform", "min": 0, "max": 0.5, "q": 0.25},
        "a.list": {"values": ["x", "y"]},
    }
    experiment = Experiment.model_validate(GOOD | {"parameters": parameters, "run_cap": 2000})
    draws = Listed(experiment).all
    assert draws == Listed(experiment).all
    assert draws[:7] == Listed(experiment.model_copy(update={"run_cap": 7})).all
    other = Listed(experiment.model_copy(update={"random_seed": 2})).all
    assert other != draws
    # 2,000 draws: a share of p has a standard deviation of at most 0.011; 5 of them.
    logs = [math.log10(each["a.log"]) for each in draws]
    assert all(-5 <= log <= -1 for log in logs)
    for low in (-5, -4, -3, -2):
        assert sum(low <= log < low + 1 for log in logs) / 2000 == pytest.approx(0.25, abs=0.05)
    whole = Counter(each["a.int"] for each in draws)
    assert set(whole) == {2, 3, 4}
    assert all(count / 2000 == pytest.approx(1 / 3, abs=0.055) for count in whole.values())
    assert set(each["a.q"] for each in draws) == {0.0, 0.25, 0.5}
    assert Counter(each["a.list"] for each in draws)["x"] / 2000 == pytest.approx(0.5, abs=0.055)


def test_random_draws_of_few_values_do_not_repeat():
    found = [values["optimizer.learning_rate"] for values in Listed(read(GOOD)).all]
    assert sorted(found) == [1e-5, 1e-4]  # of 60 that run_cap allows


def read(values):
    return Experiment.model_validate(values)


def test_rungs_lie_at_powers_of_eta_and_the_best_share_goes_on():
    """Jamieson and Talwalkar 2016: 9 at step 100, 3 at 300, 1 at 900."""
    early = read(GOOD | {"early_terminate": {"type": "hyperband", "min_iter": 100}}).early_terminate

    class Events:
        def __init__(self):
            self.all = []

        def add(self, event, **facts):
            self.all.append((event, facts["combination"], facts["rung"]))

        def of(self, event):
            return []

    halving, events = Halving(early, True, Events()), []
    going_on = list(range(9))
    for step, number in ((100, 3), (300, 1)):
        assert {halving.next_step(each) for each in going_on} == {step}
        waiting = {each: (None if each == 4 else each / 10) for each in going_on}
        if 4 in going_on:
            assert halving.decide(waiting) == []  # one is still on its way
        events = halving.decide({each: each / 10 for each in going_on})
        going_on = [each for each in going_on if each not in halving.dropped]
        assert len(going_on) == number
    assert going_on == [8]
    assert events[-1][1:] == (3, 3)


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "experiments").glob("*.yaml")))
def test_each_experiment_shipped_is_accepted(path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert run.main(["--mode", "experiment", "--params", str(path), "--validate_only"]) == 0
    said = capsys.readouterr().out
    assert "run.py accepts the params of all" in said
    get_params(read_experiment(path).base)


def test_without_the_packages_of_temporal_the_way_to_them_is_told(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(experiments.temporal, "find_spec", lambda name: None)
    flags = ["--mode", "experiment", "--params", "configs/experiments/temporal_demo.yaml"]
    flags += ["--executor", "temporal", "--model_dir", str(tmp_path / "runs")]
    assert run.main(flags) == 2
    assert "pip install 'bert-classifier[temporal]'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--mode", "experiment"], "needs --params"),
        (["--mode", "train", "--executor", "local"], "--executor is for --mode experiment"),
        (["--mode", "train", "--temporal_address", "a:1"], "are for --executor temporal"),
        (["--mode", "experiment", "--compile_only"], "--compile_only is for one run"),
    ],
)
def test_wrong_usage_of_the_command_is_refused(flags, sentence, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    if "--compile_only" in flags or "train" in flags:
        flags = [*flags, "--params", "configs/params_bert_tiny.yaml"]
    try:
        code = run.main(flags)
    except SystemExit as error:
        code = error.code
    assert code == 2
    captured = capsys.readouterr()
    assert sentence in captured.err or "--params is missing" in captured.err
