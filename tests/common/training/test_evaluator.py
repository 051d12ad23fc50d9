# SPDX-License-Identifier: Apache-2.0
"""Evaluation of checkpoints: every row, figures of the textbook, the files and the Result."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.checkpoints.formats import ours
from common.checkpoints.load import open_checkpoint
from common.errors import UserError
from common.metrics.row_metrics import Metrics
from common.reports.listeners import standard_listeners
from common.reports.metrics_file import read_curves, read_evaluation
from common.training.evaluator import Evaluator
from common.training.inference import Inference
from tests.reference.tiny_bert import randomize
from tests.reference.toy_session import (
    DATA,
    LABELS,
    SPLITS,
    VOCAB,
    eval_input_fn,
    lines_of,
    logits_in_rows,
    make_evaluator,
    make_params,
    make_session,
    metrics_in_numpy,
)


def test_evaluation_covers_every_row_and_matches_numpy(trained, tmp_path):
    # Random weights, and a bias with which half of the rows are of each class: rightly or wrongly.
    session = make_session(make_params(tmp_path, mode="eval"))
    model = session.new_model()
    weights = randomize(model)
    rows = np.concatenate([logits_in_rows(model, tokens) for tokens in SPLITS.values()])
    # Between the two rows in the middle, so that rounding gives none of them another class.
    weights["classifier/bias"][0] += np.sort(rows[:, 1] - rows[:, 0])[10:12].mean()
    config = ours.read_config(trained / "checkpoint-8")
    path = ours.save_checkpoint(tmp_path, 8, weights, {}, config, VOCAB)
    evaluator = make_evaluator(session.params, checkpoint=open_checkpoint(path))
    result = evaluator.evaluate_checkpoint()
    logits = [logits_in_rows(evaluator.model, tokens) for tokens in SPLITS.values()]
    labels = [tokens.targets["labels"] for tokens in SPLITS.values()]
    expected = metrics_in_numpy(np.concatenate(logits), np.concatenate(labels))
    for name, x, y in zip(("matched", "mismatched"), logits, labels, strict=True):
        expected[f"eval/accuracy_{name}"] = np.mean(x.argmax(axis=1) == y)
    assert 0.2 < expected["eval/f1_score"] < 0.9 and expected["eval/mcc"] != 0
    (line,) = lines_of(tmp_path, "eval")
    assert line["step"] == 8  # the checkpoint's
    for name, value in expected.items():
        assert line[name] == pytest.approx(value, abs=1e-6), name  # logits are float32
    report = json.loads((tmp_path / "eval" / "report-validation.json").read_text())
    assert report["num_examples"] == 21 and np.sum(report["confusion"]) == 21
    assert (tmp_path / "plots" / "confusion_validation.png").exists()
    correct = round(expected["eval/accuracy_cls"] * 21)
    assert dict(result.lines)["Accuracy"].endswith(f"({correct} of 21)")
    assert result.figures == {name: line[name] for name in result.figures}
    assert result.num_examples == 21 and result.step == 8


def test_an_evaluation_of_another_runs_checkpoint_stays_out_of_curves_and_cards(trained, tmp_path):
    path = trained / "checkpoint-8"
    evaluator = make_evaluator(make_params(tmp_path, mode="eval"), checkpoint=open_checkpoint(path))
    evaluator.evaluate_checkpoint()
    (line,) = lines_of(tmp_path, "eval")
    facts = {"mode": "eval", "checkpoint": str(path), "source": "toy rows", "is_whole": True}
    assert line.items() >= (facts | {"num_examples": 21, "step": 8}).items()
    assert read_curves(tmp_path) == {} and read_evaluation(tmp_path, 8) == ({}, {})
    assert not list((tmp_path / "eval").glob("events.*"))
    report = json.loads((tmp_path / "eval" / "report-validation.json").read_text())
    assert report.items() >= (facts | {"num_examples": 21, "step": 8}).items()


def test_every_row_is_kept_beside_the_truth_and_the_surest_mistake_is_first(trained, tmp_path):
    params = make_params(tmp_path, mode="eval")
    evaluator = make_evaluator(params, checkpoint=open_checkpoint(trained / "checkpoint-4"))
    evaluator.evaluate_checkpoint()
    for split, tokens in SPLITS.items():
        rows, errors = (read_tsv(tmp_path / "eval" / f"{name}_{split}.tsv") for name in FILES)
        labels = [LABELS[label] for label in tokens.targets["labels"]]
        assert [row["label_true"] for row in rows] == labels
        logits = logits_in_rows(evaluator.model, tokens)
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        for row, share in zip(rows, shares, strict=True):
            assert row["label"] == LABELS[share.argmax()]
            assert float(row["p_with"]) == pytest.approx(share[1], abs=2e-6)
            assert row["correct"] == ("yes" if row["label"] == row["label_true"] else "no")
        wrong = [n for n, row in enumerate(rows) if row["correct"] == "no"]
        surest = sorted(wrong, key=lambda n: -shares[n].max())
        assert errors == [rows[n] for n in surest]
    assert wrong  # there was something to sort


def files_of(model_dir):
    """The content of all files of an evaluation that a model_dir has itself."""
    folders = [model_dir / name for name in ("eval", "plots")]
    files = [path for folder in folders for path in folder.iterdir() if path.is_file()]
    ends = ("report-validation.json", ".tsv", "confusion_validation.png")
    return {path: path.read_bytes() for path in files if path.name.endswith(ends)}


def test_what_is_scored_besides_replaces_no_file_of_the_runs_own_best(
    model_dir, tmp_path, monkeypatch
):
    other = shutil.copytree(model_dir / "checkpoint-8", tmp_path / "checkpoint-8")

    def evaluate(path):
        params = make_params(model_dir, mode="eval")
        evaluator = make_evaluator(params, checkpoint=open_checkpoint(path))
        return dict(evaluator.evaluate_checkpoint().lines)

    assert "Files" not in evaluate(model_dir / "checkpoint-12")  # the newest, as none is the best
    before = files_of(model_dir)
    report = json.loads(before[model_dir / "eval" / "report-validation.json"])
    assert report["step"] == 12 and len(before) > 5
    name = Path(evaluate(other)["Files"].split(",")[0]).name
    assert name.startswith("checkpoint-8-") and len(name) == len("checkpoint-8-") + 8
    evaluate(model_dir / "checkpoint-4")
    few = {k: replace(batches, is_whole=False) for k, batches in eval_input_fn(None).items()}
    monkeypatch.setattr(DATA, "eval_input_fn", lambda params: few)
    evaluate(model_dir / "checkpoint-12")
    kept = {path: content for path, content in files_of(model_dir).items() if path in before}
    assert kept == before
    for folder, step in (("checkpoint-4", 4), (name, 8), ("checkpoint-12-21-rows", 12)):
        own = json.loads((model_dir / "eval" / folder / "report-validation.json").read_text())
        assert own["step"] == step
        assert (model_dir / "plots" / folder / "confusion_validation.png").exists()
        assert read_tsv(model_dir / "eval" / folder / "rows_validation_matched.tsv")


FILES = ("rows", "errors")


def read_tsv(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_a_limited_evaluation_does_not_replace_the_figures_of_the_whole_one(model_dir):
    evaluator = make_evaluator(make_params(model_dir, mode="eval"))
    evaluator.evaluate(eval_input_fn(None), 8)
    curves, before = read_curves(model_dir), read_evaluation(model_dir, 8)
    assert before[0]["loss"] == curves["eval", "loss"][8] and before[1]["num_examples"] == 21
    evaluator.model.weights_by_name()["classifier/bias"].assign([3.0, -3.0])
    few = {
        split: replace(batches, is_whole=False) for split, batches in eval_input_fn(None).items()
    }
    evaluator.evaluate(few, 8)
    evaluator.listeners.close()
    last = lines_of(model_dir, "eval")[-1]
    assert last["checkpoint"] == "checkpoint-8" and last["loss"] != before[0]["loss"]
    assert not last["is_whole"]
    assert read_curves(model_dir) == curves and read_evaluation(model_dir, 8) == before


def test_the_best_of_all_checkpoints_is_the_one_by_best_metric(model_dir):
    values = {"best_metric": "eval/loss", "best_metric_mode": "max"}
    result = make_evaluator(make_params(model_dir, mode="eval_all", **values)).evaluate_all()
    losses = [float(line.split()[3]) for line in result.output]
    worst = (4, 8, 12)[np.argmax(losses)]
    assert all(line.split()[2::2][:2] == ["loss", "accuracy"] for line in result.output)
    assert [line.split()[1] for line in result.output if line.endswith("best")] == [str(worst)]
    assert result.step == worst and result.checkpoint == str(model_dir / f"checkpoint-{worst}")
    report = json.loads((model_dir / "eval" / "report-validation.json").read_text())
    assert report["step"] == worst


def test_every_checkpoint_is_evaluated_and_the_best_is_marked(model_dir):
    result = make_evaluator(make_params(model_dir, mode="eval_all")).evaluate_all()
    lines = result.output
    assert [line.split()[:2] for line in lines] == [["step", str(step)] for step in (4, 8, 12)]
    accuracies = [float(line.split()[3]) for line in lines]
    assert [line.endswith("best") for line in lines].index(True) == np.argmax(accuracies)
    assert result.step == (4, 8, 12)[np.argmax(accuracies)]


def test_figures_that_cannot_be_written_are_told_and_the_result_says_so(trained, tmp_path, capsys):
    for name in ("eval", "plots"):
        (tmp_path / name).write_text("in the place of the folder")
    session = make_session(make_params(tmp_path, mode="eval"), checkpoint=open_checkpoint(trained))
    listeners = standard_listeners(tmp_path, outlasts=True)
    inference = Inference(session, session.new_model(), listeners)
    result = Evaluator(inference).evaluate_checkpoint()
    assert "accuracy" in capsys.readouterr().err and result.figures["loss"] > 0
    assert result.exit_code == 1 and len(result.not_written) == 3  # events, report, plots
    assert len(lines_of(tmp_path, "eval")) == 1  # what can be written is


def test_a_checkpoint_that_training_deletes_meanwhile_is_left_out(model_dir, capsys):
    evaluator = make_evaluator(make_params(model_dir, mode="eval_all"))
    load = evaluator.inference.load

    def load_and_delete(checkpoint):
        load(checkpoint)
        for step in (4, 8):  # the first while it is used, the second before
            shutil.rmtree(model_dir / f"checkpoint-{step}", ignore_errors=True)

    evaluator.inference.load = load_and_delete
    assert evaluator.evaluate_all().outcome.startswith("Evaluated 2 checkpoints, ")  # 4 and 12
    assert "checkpoint-8: it was deleted meanwhile" in capsys.readouterr().err


class AddedUp(Metrics):
    """Figures of a task that keeps sums; its main one is the loss."""

    names = ("loss",)

    def __init__(self):
        self.total, self.count = 0.0, 0

    def __len__(self):
        return self.count

    def update(self, outputs, targets, rows):
        logits, labels = outputs["logits"][rows >= 0], targets["labels"][rows >= 0]
        self.total += np.sum(np.abs(logits[:, 1] - labels), dtype=np.float64)
        self.count += len(labels)

    def merge(self, other):
        self.total, self.count = self.total + other.total, self.count + other.count

    def compute(self):
        return {"loss": float(self.total / self.count)}

    def report(self):
        return {"num_examples": self.count, **self.compute(), "labels": ["no", "yes"]}


def test_a_task_whose_main_figure_falls_has_its_best_at_the_lowest(model_dir):
    evaluator = make_evaluator(make_params(model_dir, mode="eval_all"))
    evaluator.model.build_eval_metric_ops = AddedUp
    result = evaluator.evaluate_all()
    losses = [float(line.split()[3]) for line in result.output]
    assert min(losses) < max(losses) and result.figures["loss"] == pytest.approx(
        min(losses), abs=5e-5
    )
    assert result.step == (4, 8, 12)[np.argmin(losses)]


def test_metrics_that_keep_sums_say_how_many_rows_they_are_of(trained, tmp_path):
    params = make_params(tmp_path, mode="eval")
    evaluator = make_evaluator(params, checkpoint=open_checkpoint(trained))
    evaluator.model.build_eval_metric_ops = AddedUp
    assert evaluator.evaluate_checkpoint().num_examples == 21
    assert "no" in (tmp_path / "eval" / "report-validation.json").read_text()


def test_a_head_that_was_not_trained_for_these_labels_is_refused(trained, tmp_path):
    config = ours.read_config(trained)
    weights = {name: np.asarray(t) for name, t in ours.read_weights(trained).items()}
    backbone = {name: w for name, w in weights.items() if not name.startswith("classifier/")}
    path = ours.save_checkpoint(tmp_path, 1, backbone, {}, config, VOCAB)
    evaluator = make_evaluator(make_params(tmp_path), checkpoint=open_checkpoint(path))
    with pytest.raises(UserError, match="no trained weights for classifier/bias"):
        evaluator.evaluate_checkpoint()
