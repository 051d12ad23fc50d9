# SPDX-License-Identifier: Apache-2.0
"""The controller of an experiment, with runs that count in place of runs that train."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data

from common.errors import RunError, UserError
from common.signals import Control, Stopped
from experiments import controller
from experiments.bayes import Bayes
from experiments.controller import run_experiment
from tests.experiments.counting import (
    BASE,
    BAYES,
    counting,
    experiment_of,
    states,
    trainers_in,
    values_in,
    wait_for,
)


def carry_out(folder, experiment=None, pause="0.01", control=None):
    experiment = experiment or experiment_of()
    return run_experiment(experiment, folder, {}, control or Control(), counting(pause))


@pytest.fixture(scope="module", autouse=True)
def impatience():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(controller, "POLL_SECONDS", 0.02)
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The states and the table of the runs that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    result, failed = carry_out(folder)
    assert not failed
    return states(folder), result.output


def test_each_combination_trains_once_with_each_seed(undisturbed, tmp_path):
    found, table = undisturbed
    assert list(found) == [f"tried-run-{n}-bert_tiny" for n in range(6)]
    # 0.5 * 12 + (0.01 + 0.02) / 2 = 6.015, and so on; deviation of 0.01 and 0.02: 0.0071.
    assert [line.split()[:4] for line in table[1:]] == [
        ["0.5", "2", "6.0150", "0.0071"],
        ["0.3", "2", "3.6150", "0.0071"],
        ["0.1", "2", "1.2150", "0.0071"],
    ]


def test_tensorboard_knows_the_params_of_each_run(tmp_path):
    carry_out(tmp_path, experiment_of(run_cap=2, seeds=[7]))
    found = {}
    for path in tmp_path.glob("*/events*"):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                start = parse_session_start_info_plugin_data(value.metadata.plugin_data.content)
                found[path.parent.name] = {k: v.number_value for k, v in start.hparams.items()}
    seed = {"runconfig.tf_random_seed": 7.0}
    assert found == {
        "tried-run-0-bert_tiny": {"optimizer.learning_rate": 0.1} | seed,
        "tried-run-1-bert_tiny": {"optimizer.learning_rate": 0.5} | seed,
    }


def test_a_controller_and_runs_that_are_killed_change_nothing(undisturbed, tmp_path):
    """Kills the controller 5 times and a run 5 times, as `kill -9` does: each time after some more
    of the 72 steps that all runs have together."""
    found, table = undisturbed
    program = (
        "import sys; from common.signals import listening\n"
        "from tests.experiments.test_controller import carry_out\n"
        "with listening() as control:\n"
        "    result, failed = carry_out(sys.argv[1], pause='0.05', control=control)\n"
        "assert not failed; print(*result.output, sep='\\n')\n"
    )
    kills = ["controller", "run"] * 5
    while True:
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        while process.poll() is None and kills:
            time.sleep(0.01)
            if steps_in(tmp_path) <= 3 * (10 - len(kills)):
                continue
            if kills[0] == "controller":
                process.kill()
                kills.pop(0)
            elif trainers := trainers_in(tmp_path):
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.kill(trainers[0], signal.SIGKILL)
                    kills.pop(0)
        output = process.communicate(timeout=120)[0]
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
    assert not kills, "the experiment was done before the last kill"
    assert states(tmp_path) == found
    assert output.splitlines() == list(table)
    assert not trainers_in(tmp_path)


def steps_in(folder):
    """How many steps the runs of a folder have counted together."""
    return sum(json.loads(state)[0] for state in states(folder).values())


def test_a_run_whose_controller_is_killed_saves_and_ends(tmp_path):
    control = "from tests.experiments.test_controller import *; import sys\n"
    control += "carry_out(sys.argv[1], pause='1')"
    process = subprocess.Popen([sys.executable, "-c", control, str(tmp_path)])
    wait_for(lambda: states(tmp_path))
    process.kill()
    process.wait()
    wait_for(lambda: not trainers_in(tmp_path))
    step = json.loads(next(iter(states(tmp_path).values())))[0]
    assert 1 <= step < 12


def test_a_finished_run_is_not_started_again(tmp_path):
    carry_out(tmp_path, experiment_of(run_cap=2))
    carry_out(tmp_path, experiment_of(run_cap=4))  # more runs of the same experiment
    starts = [path.read_text().count("start") for path in sorted(tmp_path.glob("*/starts"))]
    assert starts == [1, 1, 1, 1]


def test_a_stopped_controller_lets_its_runs_save(undisturbed, tmp_path):
    class StopsSoon(Control):
        @property
        def stopped_by(self):
            return signal.SIGTERM if len(states(tmp_path)) == 2 else None

        @stopped_by.setter
        def stopped_by(self, value):
            del value

    with pytest.raises(Stopped):
        carry_out(tmp_path, experiment_of(max_parallel=2), pause="0.3", control=StopsSoon())
    assert not trainers_in(tmp_path)
    carry_out(tmp_path, experiment_of(max_parallel=2))
    assert states(tmp_path) == undisturbed[0]


def test_a_run_that_fails_is_tried_again_and_told_and_the_others_go_on(tmp_path):
    result, failed = carry_out(tmp_path, pause="fails")
    assert failed == ["tried-run-2-bert_tiny", "tried-run-3-bert_tiny"]
    assert [line.split()[0] for line in result.output[1:]] == ["0.3", "0.1"]
    assert (tmp_path / failed[0] / "starts").read_text().count("start") == 3
    assert "out of memory" in (tmp_path / "logs" / f"{failed[0]}.log").read_text()


def test_of_those_at_a_rung_the_best_go_on(undisturbed, tmp_path):
    """Of 3 combinations the best 3 / 1.5 = 2 go on at step 4, and 1 at step 6."""
    early = {"type": "hyperband", "min_iter": 4, "eta": 1.5}
    # From the first rung a run has 6 steps, 1.2 s, in which it has to be stopped.
    experiment = experiment_of(early_terminate=early, max_parallel=3)
    result, failed = carry_out(tmp_path, experiment, pause="0.2")
    assert not failed
    assert [line.split()[0] for line in result.output[1:]] == ["0.5"]
    steps = {name: json.loads(state)[0] for name, state in states(tmp_path).items()}
    best = [f"tried-run-{n}-bert_tiny" for n in (2, 3)]  # 0.5
    assert {steps[name] for name in best} == {12}
    assert all(steps[name] < 12 for name in steps if name not in best)
    assert all(states(tmp_path)[name] == undisturbed[0][name] for name in best)
    events = [json.loads(line) for line in (tmp_path / "experiment.jsonl").read_text().splitlines()]
    dropped = {each["combination"]: each["rung"] for each in events if each["event"] == "dropped"}
    assert dropped == {0: 0, 2: 1}  # 0.1 at the first rung, 0.3 at the second


def test_another_experiment_in_the_same_folder_is_refused(tmp_path):
    carry_out(tmp_path, experiment_of(run_cap=2))
    with pytest.raises(UserError, match="seeds was \\[1, 2\\], is now \\[1, 3\\]"):
        carry_out(tmp_path, experiment_of(run_cap=2, seeds=[1, 3]))


def test_a_base_with_other_values_is_refused_and_one_that_trains_the_same_goes_on(tmp_path):
    base, content = tmp_path / "base.yaml", Path(BASE).read_text()
    base.write_text(content)
    experiment = experiment_of(base=str(base), seeds=[1], run_cap=1)
    carry_out(tmp_path / "runs", experiment)
    base.write_text(content.replace("hidden_size: 32", "hidden_size: 64"))
    changed = f"model.hidden_size was 32, is now 64 in {base}"
    with pytest.raises(UserError, match=re.escape(changed)):
        carry_out(tmp_path / "runs", experiment)
    base.write_text(content.replace("save_summary_steps: 5", "save_summary_steps: 7"))
    carry_out(tmp_path / "runs", experiment)


def test_the_model_dir_of_a_training_is_not_that_of_an_experiment(tmp_path):
    (tmp_path / "params.yaml").write_text("runconfig: {}\n")
    with pytest.raises(UserError, match=r"is the model_dir of a training, which has params\.yaml"):
        carry_out(tmp_path)


def test_a_done_run_whose_folder_was_deleted_trains_again(tmp_path, capsys):
    experiment = experiment_of(run_cap=2)
    result, _ = carry_out(tmp_path, experiment)
    shutil.rmtree(tmp_path / "tried-run-1-bert_tiny")
    again, failed = carry_out(tmp_path, experiment)
    assert again.output == result.output and not failed
    assert "tried-run-1-bert_tiny was done, and its folder is gone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("experiment.json", '{"experi', UserError),
        ("experiment.json", "[]", UserError),
        ("experiment.jsonl", "[1]\n", RunError),
        ("experiment.jsonl", '{"event": "combination", "number": 0}\n', RunError),
    ],
)
def test_a_damaged_record_is_told_with_its_file(tmp_path, name, content, error):
    (tmp_path / name).write_text(content)
    with pytest.raises(error, match=re.escape(str(tmp_path / name))):
        carry_out(tmp_path)


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("runconfig.tf_random_seed", "the experiment's file sets it: seeds; leave out the flag"),
        ("optimizer.learning_rate", "the experiment's parameters vary it; leave one of the two"),
    ],
)
def test_a_flag_that_a_value_of_the_file_would_replace_is_refused(key, sentence):
    with pytest.raises(UserError, match=f"{key} is given on the command line, and {sentence}"):
        controller.check_combinations(experiment_of(), {key: 3})


def test_what_a_rate_takes_the_place_of_is_told_once(tmp_path, capsys):
    controller.check_combinations(experiment_of(), {})
    assert capsys.readouterr().err.count("the schedules of learning_rate give way") == 1


def test_every_combination_is_checked_before_the_first_run(tmp_path):
    parameters = {"optimizer.learning_rate": {"values": [0.1, -1]}}
    with pytest.raises(UserError, match=r"combination 1 \(optimizer.learning_rate: -1\)"):
        carry_out(tmp_path / "new", experiment_of(parameters=parameters))
    assert not (tmp_path / "new").exists()
    parameters = {"optimizer.learning_rat": {"values": [0.1]}}
    place = "parameters of the experiment: optimizer.learning_rat: .* did you mean learning_rate"
    with pytest.raises(UserError, match=place):
        carry_out(tmp_path / "new", experiment_of(parameters=parameters))


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    """What bayes tries where nothing disturbs it: a list of dict."""
    pytest.importorskip("optuna", reason="the extra `sweep` is not installed")
    folder = tmp_path_factory.mktemp("chosen")
    carry_out(folder, experiment_of(**BAYES), pause="0")
    return values_in(folder)


def test_bayes_tries_near_what_was_best(chosen):
    """The figure grows with the rate: after a few draws those tried lie above the middle."""
    assert len(chosen) == 16
    assert sum(each["optimizer.learning_rate"] for each in chosen[10:]) / 6 > 0.6  # of 10 draws


def test_bayes_tries_the_same_after_a_restart_without_optunas_file(chosen, tmp_path):
    carry_out(tmp_path, experiment_of(**BAYES | {"run_cap": 11}), pause="0")
    (tmp_path / "optuna.jsonl").unlink()
    carry_out(tmp_path, experiment_of(**BAYES | {"run_cap": 13}), pause="0")
    assert values_in(tmp_path) == chosen[:13]


@pytest.mark.parametrize("event", ["combination", "result"])
def test_bayes_tries_the_same_where_its_controller_is_killed_before_it_notes_what_it_knows(
    chosen, tmp_path, event
):
    """Killed with values that Optuna has given and no run has yet, and with a figure that Optuna
    has not been told of: each after the draws, which do not depend on figures."""
    program = (
        "import os, signal, sys\n"
        "from experiments.journal import Journal\n"
        "from tests.experiments.test_controller import BAYES, carry_out, experiment_of\n"
        "add = Journal.add\n"
        "def add_or_die(journal, event, **facts):\n"
        "    if event == sys.argv[2] and 12 in facts.values():\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    add(journal, event, **facts)\n"
        "Journal.add = add_or_die\n"
        "carry_out(sys.argv[1], experiment_of(**BAYES | {'run_cap': 14}), pause='0')\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path), event])
    assert done.returncode == -signal.SIGKILL
    assert len(values_in(tmp_path)) == 12 + (event == "result")
    carry_out(tmp_path, experiment_of(**BAYES | {"run_cap": 14}), pause="0")
    assert values_in(tmp_path) == chosen[:14]


def test_bayes_hears_of_a_combination_that_failed_and_is_tried_again(tmp_path):
    pytest.importorskip("optuna", reason="the extra `sweep` is not installed")
    experiment = experiment_of(**BAYES)
    values = {"optimizer.learning_rate": 0.5, "train_input.batch_size": 8}
    bayes = Bayes(experiment, [(values, None), (values, 0.5), (values, "NaN")])
    bayes.tell(0, 0.25)
    bayes.tell(2, float("nan"))
    assert [trial.value for trial in bayes.study.trials] == [0.25, 0.5, None]


@pytest.mark.parametrize("name", ["run.lock", "logs", "experiment.jsonl", "experiment.json"])
def test_nothing_is_written_through_a_link(tmp_path, name):
    (tmp_path / "runs").mkdir()
    target = tmp_path / "mine"
    target.write_text("my thesis")
    (tmp_path / "runs" / name).symlink_to(target)
    with pytest.raises(UserError, match=f"{name} is a symbolic link"):
        carry_out(tmp_path / "runs")
    assert target.read_text() == "my thesis" and (tmp_path / "runs" / name).is_symlink()
