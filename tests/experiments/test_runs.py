# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments.runs`, on folders as trainings leave them."""

import json
import re
import statistics

import pytest

from common.checkpoints.versions import resolve
from experiments import runs

METRIC = "eval/accuracy_cls"


def write_run(folder, rate, seed, accuracy, step=10, best=True, exit_code=0):
    """A model_dir with two evaluations, of which the first is the worse."""
    folder.mkdir(parents=True)
    (folder / "params.yaml").write_text(
        f"optimizer: {{learning_rate: {rate}}}\n"
        f"runconfig: {{tf_random_seed: {seed}, best_metric: {METRIC}, model_dir: {folder}}}\n"
    )
    lines = [
        {"split": "eval", "step": 5, METRIC: 0.1, "eval/loss": 2.0},
        {"split": "eval", "step": step, METRIC: accuracy, "eval/loss": 1.0},
    ]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    if best:
        (folder / "best.json").write_text(json.dumps({"step": step, "metric": METRIC}))
    record = folder / "runs" / "20261129T000000-aaaaaa"
    record.mkdir(parents=True)
    facts = {"mode": "train_and_eval", "exit_code": exit_code, "started": "2026-11-29T00:00:00"}
    (record / "run.json").write_text(json.dumps(facts))


@pytest.fixture
def sweep(tmp_path):
    """Two rates of three seeds each; the third run of the second rate has no partner's seed."""
    figures = {0.1: {1: 0.80, 2: 0.82, 3: 0.84}, 0.2: {1: 0.75, 2: 0.79, 4: 0.99}}
    number = 0
    for rate, of_seed in figures.items():
        for seed, accuracy in of_seed.items():
            write_run(tmp_path / "sweep" / f"s-run-{number}-b", rate, seed, accuracy)
            number += 1
    return tmp_path / "sweep"


def printed(capsys, *arguments, code=0):
    assert runs.main([*map(str, arguments)]) == code
    captured = capsys.readouterr()
    return captured.out if code == 0 else captured.err


def test_the_comparison_has_mean_deviation_and_paired_difference(sweep, capsys):
    header, first, second = printed(capsys, "compare", sweep).splitlines()
    assert header.split()[:3] == ["learning_rate", "seeds", METRIC]
    # 0.2: (0.75 + 0.79 + 0.99) / 3; it is the better one by its mean alone.
    assert first.split()[:4] == [
        "0.2",
        "3",
        "0.8433",
        f"{statistics.stdev([0.75, 0.79, 0.99]):.4f}",
    ]
    assert second.split()[:4] == ["0.1", "3", "0.8200", "0.0200"]
    # Seeds 1 and 2: 0.80 - 0.75 = 0.05, 0.82 - 0.79 = 0.03: mean 0.04, deviation 0.0141.
    assert "+0.0400 ± 0.0141 (2)" in second


def test_the_figure_is_that_of_the_chosen_checkpoint_and_not_the_last(tmp_path, capsys):
    write_run(tmp_path / "a", 0.1, 1, 0.9)
    (tmp_path / "a" / "best.json").write_text(json.dumps({"step": 5, "metric": METRIC}))
    found = json.loads(printed(capsys, "best", tmp_path, "--json"))
    assert found["mean"] == 0.1
    (tmp_path / "a" / "best.json").unlink()  # without a choice the last evaluation counts
    assert json.loads(printed(capsys, "best", tmp_path, "--json"))["mean"] == 0.9


def test_an_experiment_is_compared_by_what_its_file_varies(sweep, capsys):
    """params.yaml has the schedule that a rate became; the journal has the rate."""
    events = [
        {"event": "combination", "number": 0, "values": {"optimizer.learning_rate": "5e-5"}},
        {"event": "combination", "number": 1, "values": {"optimizer.learning_rate": "2e-4"}},
    ]
    for number, event in enumerate(events):
        event["runs"] = [f"s-run-{n}-b" for n in range(3 * number, 3 * number + 3)]
    journal = sweep / "experiment.jsonl"
    journal.write_text("".join(f"{json.dumps(event)}\n" for event in events) + '{"event": "torn')
    for path in sweep.glob("*/params.yaml"):
        path.write_text(path.read_text().replace("learning_rate: 0", "learning_rate: [[7, 0"))
        path.write_text(path.read_text().replace("}\nrunconfig", "]]}\nrunconfig"))
    lines = printed(capsys, "compare", sweep).splitlines()
    assert [line.split()[0] for line in lines] == ["learning_rate", "2e-4", "5e-5"]


def test_an_evaluation_of_some_rows_counts_where_training_made_it(tmp_path, capsys):
    """With max_eval_samples every run of an experiment has such; one of --mode eval does not."""
    write_run(tmp_path / "a", 0.1, 1, 0.9)
    line = {"split": "eval", "step": 10, METRIC: 0.7, "is_whole": False, "mode": "train_and_eval"}
    other = line | {METRIC: 0.2, "mode": "eval"}
    (tmp_path / "a" / "metrics.jsonl").write_text(f"{json.dumps(line)}\n{json.dumps(other)}\n")
    assert json.loads(printed(capsys, "best", tmp_path, "--json"))["mean"] == 0.7


def test_a_lower_loss_is_better(sweep, capsys):
    write_run(sweep / "s-run-9-b", 0.3, 1, 0.1, step=20)
    metrics = sweep / "s-run-9-b" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"eval/loss": 1.0', '"eval/loss": 0.5'))
    lines = printed(capsys, "compare", sweep, "--metric", "eval/loss").splitlines()
    assert lines[1].split()[0] == "0.3"


def test_the_list_tells_what_became_of_each_run_in_the_order_of_their_numbers(sweep, capsys):
    write_run(sweep / "s-run-10-b", 0.3, 1, 0.1, exit_code=143)
    write_run(sweep / "s-run-11-b", 0.3, 1, 0.1, exit_code=1)
    header, *lines = [re.split("  +", line) for line in printed(capsys, "list", sweep).splitlines()]
    assert header[4:6] == ["figure", "at step"]  # not the last step, but that of the figure
    assert [line[0] for line in lines] == [f"s-run-{n}-b" for n in (*range(6), 10, 11)]
    assert [line[1] for line in lines[5:]] == ["done", "stopped", "failed"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["compare", "missing"], "missing is no folder"),
        (["list", "."], "holds no runs"),
        (["compare", "sweep", "--metric", "eval/f1"], "no run has a figure eval/f1"),
        (["list", "sweep", "--metric", "eval/f1"], "no run has a figure eval/f1"),
        (["list", "no_params"], "params.yaml cannot be read: it holds no sections"),
        (
            ["promote", "sweep/s-run-0-b", "x", "--registry", "sweep/s-run-0-b/best.json"],
            "x cannot be made: Not a directory; choose another --registry",
        ),
        (["promote", "sweep", "x@1"], "an alias is no number"),
        (["promote", "sweep", "x"], "holds no params.yaml"),
        (["promote", "sweep/s-run-0-b", "x"], "does not verify|is missing|damaged"),
    ],
)
def test_wrong_usage_is_told_in_a_sentence(sweep, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(sweep.parent)
    write_run(sweep.parent / "no_params" / "a", 0.1, 1, 0.9)
    (sweep.parent / "no_params" / "a" / "params.yaml").write_text("- a\n")
    error = printed(capsys, *arguments, code=2)
    assert "Traceback" not in error
    assert any(part in error for part in sentence.split("|")), error
    assert not (sweep.parent / "registry" / "x").exists()


def test_a_version_never_changes_and_an_alias_moves(sweep, monkeypatch, capsys):
    monkeypatch.setattr("common.checkpoints.store.best_checkpoint", lambda d: d / "checkpoint-10")
    for number in (0, 1):
        (sweep / f"s-run-{number}-b" / "checkpoint-10").mkdir()
        (sweep / f"s-run-{number}-b" / "checkpoint-10" / "weights").write_text(str(number))
    registry = sweep.parent / "registry"
    for number in (0, 1):
        run = sweep / f"s-run-{number}-b"
        printed(capsys, "promote", run, "mood@champion", "--registry", registry)
    assert [resolve(registry, f"mood{at}").name for at in ("@1", "@champion", "")] == list("122")
    assert (registry / "mood" / "1" / "checkpoint-10" / "weights").read_text() == "0"
    origin = json.loads((registry / "mood" / "2" / "origin.json").read_text())
    assert origin["run"] == str(sweep / "s-run-1-b") and origin["figures"][METRIC] == 0.82
    assert sorted(path.name for path in (registry / "mood").iterdir()) == ["1", "2", "champion"]
