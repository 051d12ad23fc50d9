# SPDX-License-Identifier: Apache-2.0
"""Evaluation of checkpoints: every row, figures of the textbook, the files and the Result."""

import json
import shutil

import numpy as np
import pytest

from common.checkpoints.formats import ours
from common.checkpoints.load import open_checkpoint
from common.errors import UserError
from common.metrics.row_metrics import Metrics
from common.reports.listeners import standard_listeners
from common.training.evaluator import Evaluator
from common.training.inference import Inference
from tests.reference.tiny_bert import randomize
from tests.reference.toy_session import (
    SPLITS,
    VOCAB,
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
    weights["classifier/bias"][0] += np.median(rows[:, 1] - rows[:, 0]) + 1e-6
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


def test_eval_steps_limits_the_batches_of_each_split(trained, tmp_path):
    params = make_params(tmp_path, mode="eval", eval_steps=2)
    make_evaluator(params, checkpoint=open_checkpoint(trained)).evaluate_checkpoint()
    report = json.loads((tmp_path / "eval" / "report-validation.json").read_text())
    assert report["num_examples"] == 2 * 2 * 3


def test_every_checkpoint_is_evaluated_and_the_best_is_marked(trained):
    result = make_evaluator(make_params(trained, mode="eval_all")).evaluate_all()
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
    result = Evaluator(session, inference).evaluate_checkpoint()
    assert "accuracy" in capsys.readouterr().err and result.figures["loss"] > 0
    assert result.exit_code == 1 and len(result.not_written) == 3  # events, report, plots
    assert len(lines_of(tmp_path, "eval")) == 1  # what can be written is


def test_a_checkpoint_that_training_deletes_meanwhile_is_left_out(trained, tmp_path, capsys):
    model_dir = tmp_path / "model_dir"
    shutil.copytree(trained, model_dir)
    evaluator = make_evaluator(make_params(model_dir, mode="eval_all"))
    load = evaluator.inference.load

    def load_and_delete(checkpoint):
        load(checkpoint)
        for step in (4, 8):  # the first while it is used, the second before
            shutil.rmtree(model_dir / f"checkpoint-{step}", ignore_errors=True)

    evaluator.inference.load = load_and_delete
    assert evaluator.evaluate_all().outcome == "Evaluated 2 checkpoints"  # 4 and 12
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


def test_a_task_whose_main_figure_falls_has_its_best_at_the_lowest(trained):
    evaluator = make_evaluator(make_params(trained, mode="eval_all"))
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
