# SPDX-License-Identifier: Apache-2.0
"""Training of a tiny network: a resumed run has the bits of one that went through, and so on."""

import csv
import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from common.checkpoints import store
from common.checkpoints.formats import ours
from common.checkpoints.load import open_checkpoint
from common.errors import RunError, UserError
from common.reports.listener import Listeners
from common.signals import Control
from common.training.length import last_step_of
from common.training.lock import locked
from common.training.trainer import Trainer
from model import model_fn
from tests.reference.toy_session import (
    LABELS,
    TRAIN_ROWS,
    VOCAB,
    AtCall,
    bits_of,
    checkpoint_steps,
    eval_input_fn,
    lines_of,
    make_evaluator,
    make_params,
    make_session,
    make_trainer,
    train,
)

# ---- Class weights -------------------------------------------------------------------------------


def test_class_weights_auto_are_counted_on_the_training_rows(tmp_path, capsys):
    params = make_params(tmp_path, max_steps=1)
    model = params.model.model_copy(update={"class_weights": "auto"})
    trainer = make_trainer(params.model_copy(update={"model": model}))
    trainer.train()
    counts = np.bincount(TRAIN_ROWS.targets["labels"])
    weights = [len(TRAIN_ROWS.targets["labels"]) / (2 * n) for n in counts]
    assert weights[0] != weights[1]
    np.testing.assert_allclose(trainer.model.loss_of.weights, weights, rtol=1e-6)
    assert f"Class weights: {weights[0]:.4g}, {weights[1]:.4g}\n" in capsys.readouterr().err


# ---- Resuming ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mixed_precision", "optimizer"),
    [
        ("float32", {}),
        ("mixed_bfloat16", {"use_bias_correction": True, "lazy_word_embeddings": True}),
        # Doubles every third step, so that its counters matter too.
        (
            "mixed_float16",
            {
                "optimizer_type": "lamb",
                "weight_decay_rate": 0.01,
                "loss_scaling_factor": "dynamic",
                "steps_per_increase": 3,
                "initial_loss_scale": 64,
            },
        ),
        (
            "mixed_bfloat16",
            {
                "optimizer_type": "momentum",
                "moving_average_decay": 0.9,
                "grad_accum_schedule": [[0, 1], [5, 2], [11, 3]],
            },
        ),
    ],
)
def test_train_twice_n_equals_train_n_and_resume_bit_for_bit(tmp_path, mixed_precision, optimizer):
    n = 8  # in the second epoch; 2n is in the fourth
    values = {"model": {"mixed_precision": mixed_precision}, "optimizer": optimizer}
    values["num_buckets"] = 2 if mixed_precision == "float32" else 1
    through, halves = tmp_path / "through", tmp_path / "halves"
    train(through, max_steps=2 * n, save_checkpoints_steps=n, **values)
    if mixed_precision == "float32":
        train(halves, max_steps=n, **values)
    else:  # to save time: what the run that went through had at n, as a run killed later has it
        shutil.copytree(through / f"checkpoint-{n}", halves / f"checkpoint-{n}")
    train(halves, max_steps=2 * n, **values)
    through, halves = (bits_of(path / f"checkpoint-{2 * n}") for path in (through, halves))
    assert halves == through
    half = bits_of(tmp_path / "halves" / f"checkpoint-{n}")
    assert set(half) == set(through)
    # Nothing stood still, but for what a factor of the loss does not need, and evaluations.
    still = {name for name in half if half[name] == through[name] and "run/" not in name}
    assert all(name.startswith("loss_scale/") for name in still) and len(still) < 4
    if optimizer.get("loss_scaling_factor") == "dynamic":
        factor = np.frombuffer(through["loss_scale/factor"][2], np.float32)
        assert factor == 64 * 2 ** (2 * n // 3)  # no overflow in so small a network


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model_dir with checkpoints 4, 8 and 12, evaluated after each."""
    model_dir = tmp_path_factory.mktemp("trained")
    values = {"mode": "train_and_eval", "max_steps": 12, "save_checkpoints_steps": 4}
    train(model_dir, draws=True, **values)
    yield model_dir
    assert checkpoint_steps(model_dir) == [4, 8, 12], "a test has trained in what others read"


def test_steps_says_how_many_more_and_max_steps_where_to_stop(tmp_path):
    def last_step(first_step, **runconfig):
        return last_step_of(make_params(tmp_path, **runconfig).runconfig, first_step)

    assert last_step(7, steps=5) == 12
    assert last_step(7, max_steps=9) == 9
    assert last_step(7, steps=5, max_steps=9) == 9
    assert last_step(7, steps=5, max_steps=99) == 12
    assert last_step(7, steps=5, max_steps=99, mode="train_and_eval") == 99
    with pytest.raises(UserError, match=r"--max_steps .*, or --steps"):
        last_step(7)


def test_nothing_is_trained_where_max_steps_is_reached(trained):
    kept = [path for path in trained.rglob("*") if "checkpoint-" in str(path)]
    before = {path: path.stat().st_mtime_ns for path in [*kept, trained / "metrics.jsonl"]}
    assert train(trained, max_steps=12).outcome.startswith("Nothing to train: step 12")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert checkpoint_steps(trained) == [4, 8, 12]


@pytest.mark.parametrize(
    ("values", "differing"),
    [
        ({"model": {"hidden_size": 8}}, "pooler/bias"),
        ({"optimizer": {"loss_scaling_factor": "dynamic"}}, "loss_scale/factor"),
    ],
)
def test_params_that_do_not_fit_what_is_to_be_resumed_are_refused(trained, values, differing):
    with pytest.raises(UserError, match=r"checkpoint-12 cannot be resumed: ") as error:
        train(trained, max_steps=20, **values)
    assert "--model_dir" in str(error.value)
    if "optimizer" in values:
        assert differing in str(error.value)


def test_a_resume_on_another_machine_says_what_differs(trained, tmp_path, monkeypatch, capsys):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    facts = ours.read_config(tmp_path)["machine"] | {"cores": "64", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    monkeypatch.setattr("common.training.saver.machine_facts", lambda: facts)
    make_trainer(make_params(tmp_path, max_steps=13)).train()
    said = capsys.readouterr().err
    assert "checkpoint-12 was computed otherwise, so the last bits can differ: " in said
    assert "ONEDNN_MAX_CPU_ISA was not set, is AVX2, cores was" in said
    make_trainer(make_params(tmp_path, max_steps=14)).train()
    assert "last bits" not in capsys.readouterr().err


def test_a_request_to_stop_saves_and_the_result_tells_the_signal(tmp_path):
    control = Control()
    stop = AtCall("on_step", 3, control.request_stop)
    result = make_trainer(make_params(tmp_path, max_steps=9), stop, control=control).train()
    assert result.stopped_by == signal.SIGTERM and result.exit_code == 128 + signal.SIGTERM
    assert result.step == 3 and checkpoint_steps(tmp_path) == [3]


def test_a_request_to_save_saves_after_the_step_and_training_goes_on(tmp_path):
    control = Control()
    save = AtCall("on_step", 3, control.request_save)
    result = make_trainer(make_params(tmp_path, max_steps=5), save, control=control).train()
    assert result.exit_code == 0 and checkpoint_steps(tmp_path) == [3, 5]


class Killed(BaseException):
    """In the place of a kill: nothing catches it."""


def kill():
    raise Killed


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def figures_of(model_dir):
    """Every line of metrics.jsonl without what the clock says."""
    lines = map(json.loads, (model_dir / "metrics.jsonl").read_text().splitlines())
    clock = ("time", "train/examples_per_second", "train/input_wait")
    return [{name: x for name, x in line.items() if name not in clock} for line in lines]


def test_kills_around_saves_and_evaluations_change_neither_bits_nor_figures(tmp_path):
    values = {
        "mode": "train_and_eval",
        "max_steps": 10,
        "save_checkpoints_steps": 4,
        "eval_every_steps": 2,
        "save_summary_steps": 3,
        "keep_checkpoint_max": 1,
        "best_metric": "eval/loss",
    }
    through, killed = tmp_path / "through", tmp_path / "killed"
    train(through, **values)

    def interrupt(method, number, happens, resumes_at):
        assert store.newest_checkpoint(killed) in (None, killed / f"checkpoint-{resumes_at}")
        listener = AtCall(method, number, happens)
        if happens is kill:
            with pytest.raises(Killed):
                train(killed, listener, **values)
        else:
            assert train(killed, listener, **values).exit_code == 128 + signal.SIGTERM

    # An evaluation tells of batches 0 to 5 of one split and 0 to 3 of the other: 10 calls.
    # In that of the checkpoint at 4:
    interrupt("on_batch", 10 + 1, kill, None)
    # It is made up for; then in the second split of the one at 6, with a checkpoint of the moment.
    interrupt("on_batch", 10 + 6 + 1, terminate, 4)
    assert store.newest_checkpoint(killed) == killed / "checkpoint-6"
    # After the evaluation of 8, the next after that of 6, is written, before it is counted.
    interrupt("on_evaluation", 2, kill, 6)
    train(killed, **values)
    assert figures_of(killed) == figures_of(through)
    for step, path in store.list_checkpoints(through):
        assert bits_of(killed / f"checkpoint-{step}") == bits_of(path)
    steps = checkpoint_steps(through)
    best = json.loads((through / store.BEST).read_text())
    assert best == json.loads((killed / store.BEST).read_text())
    assert steps == sorted({best["step"], 10})
    assert best["value"] == min(line["loss"] for line in lines_of(through, "eval"))
    assert [line["step"] for line in lines_of(killed, "eval")] == [2, 4, 6, 8, 10]


def test_an_evaluation_between_a_stop_and_the_resume_changes_nothing(tmp_path):
    values = {
        "mode": "train_and_eval",
        "max_steps": 8,
        "eval_every_steps": 4,
        "save_checkpoints_steps": 100,
        "best_metric": "eval/loss",
        "early_stopping_patience": 5,
    }
    through, stopped = tmp_path / "through", tmp_path / "stopped"
    train(through, **values)
    train(stopped, AtCall("on_step", 3, terminate), **values)
    checkpoint = open_checkpoint(stopped / "checkpoint-3")
    make_evaluator(make_params(stopped, mode="eval"), checkpoint=checkpoint).evaluate_checkpoint()
    train(stopped, **values)
    assert bits_of(stopped / "checkpoint-8") == bits_of(through / "checkpoint-8")  # counts, too
    trained_lines = [x for x in lines_of(stopped, "eval") if x["mode"] == "train_and_eval"]
    assert [line["step"] for line in trained_lines] == [4, 8]


def test_report_and_summary_are_of_the_checkpoint_that_best_metric_chose(tmp_path):
    values = {"mode": "train_and_eval", "max_steps": 4, "eval_every_steps": 2}
    result = train(tmp_path, num_buckets=2, best_metric="eval/loss", **values)
    of_step = {line["step"]: line["loss"] for line in lines_of(tmp_path, "eval")}
    best = min(of_step, key=of_step.get)
    assert best == 2  # not the last one
    report = json.loads((tmp_path / "eval" / "report-validation.json").read_text())
    assert (report["step"], report["loss"]) == (best, of_step[best])
    rows = []
    for split in ("validation_matched", "validation_mismatched"):
        with open(tmp_path / "eval" / f"rows_{split}.tsv", newline="") as file:
            rows += csv.DictReader(file, delimiter="\t")
    losses = [-np.log(float(row[f"p_{row['label_true']}"])) for row in rows]
    assert np.mean(losses) == pytest.approx(of_step[best], abs=1e-5)  # of six decimals
    text = f"{tmp_path / f'checkpoint-{best}'}, eval/loss {of_step[best]:.4f}"
    assert dict(result.lines)["Best"] == text
    assert dict(result.lines)["Last evaluation"] == "step 4"


class Measured:
    """In the place of an Evaluator: what it measures is given."""

    def __init__(self, trainer, accuracies):
        self.listeners, self.accuracies = trainer.listeners, iter(accuracies)
        self.metrics = trainer.model.build_eval_metric_ops()
        rows = np.arange(10)
        targets = {"labels": np.zeros(10, int)}
        self.metrics.update({"logits": np.zeros((10, 2))}, targets, rows)

    def evaluate(self, batches_of_split, step, is_chosen):
        figures = {"loss": 0.5, "eval/accuracy_cls": next(self.accuracies)}
        self.listeners.on_figures("eval", step, figures)
        return figures, self.metrics


def test_training_ends_early_and_the_best_is_kept_besides(tmp_path):
    values = {
        "mode": "train_and_eval",
        "max_steps": 20,
        "eval_every_steps": 2,
        "keep_checkpoint_max": 1,
        "best_metric": "eval/accuracy_cls",
        "early_stopping_patience": 2,
    }

    def train_measured(accuracies, **more):
        trainer = make_trainer(make_params(tmp_path, **values | more))
        trainer.evaluator = Measured(trainer, accuracies)
        return trainer.train()

    result = train_measured([0.5, 0.9, 0.9, 0.7])
    assert [line["step"] for line in lines_of(tmp_path, "eval")] == [2, 4, 6, 8]
    assert checkpoint_steps(tmp_path) == [4, 8]
    assert store.best_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    early = "early: 2 evaluations without a better eval/accuracy_cls than 0.9000 of step 4"
    assert early in result.outcome
    assert result.best_checkpoint == str(tmp_path / "checkpoint-4")
    assert ("Accuracy", "0.7000 (7 of 10)") in result.lines
    # The same command finds that it has ended; another metric has not been measured yet.
    assert train_measured([]).outcome.startswith("Nothing to train: step 8 of 20")
    train_measured([1.0], best_metric="eval/loss", max_steps=10)
    assert store.best_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def test_a_metric_that_no_evaluation_has_is_refused_before_training(tmp_path):
    values = {"mode": "train_and_eval", "max_steps": 4, "best_metric": "eval/accuracy_clz"}
    with pytest.raises(UserError, match=r"eval/accuracy_clz.*eval/accuracy_matched"):
        train(tmp_path, **values)
    assert not (tmp_path / "metrics.jsonl").exists()


# ---- A model_dir that goes -----------------------------------------------------------------------


def test_a_model_dir_that_vanishes_ends_the_run_and_is_not_made_anew(tmp_path):
    model_dir, elsewhere = tmp_path / "model_dir", tmp_path / "elsewhere"

    def rename_once_saved():
        # Checkpoints are written beside the training, so the first one may be unfinished.
        while store.newest_checkpoint(model_dir) is None:
            time.sleep(0.01)
        model_dir.rename(elsewhere)

    vanish = AtCall("on_step", 4, rename_once_saved)
    with locked(model_dir), pytest.raises(RunError, match="model_dir is gone"):
        train(model_dir, vanish, max_steps=9, save_checkpoints_steps=2)
    assert not model_dir.exists()
    assert store.newest_checkpoint(elsewhere) is not None


# ---- Averages of the weights ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """A model_dir as `trained`, with averages; its checkpoints are 4 and 8."""
    model_dir = tmp_path_factory.mktemp("averaged")
    values = {"mode": "train_and_eval", "max_steps": 8, "save_checkpoints_steps": 4}
    train(model_dir, optimizer={"moving_average_decay": 0.9}, **values)
    return model_dir


def test_a_checkpoint_has_the_averages_for_weights_and_the_weights_in_its_state(averaged, trained):
    # `trained` has the same seed, rows and updates: its weights are what is averaged.
    for step in (4, 8):
        path = averaged / f"checkpoint-{step}"
        raw = {
            name.removeprefix("raw/"): tensor.read()
            for name, tensor in ours.read_state(path).items()
            if name.startswith("raw/")
        }
        weights, of_trained = (
            {name: tensor.read() for name, tensor in ours.read_weights(p).items()}
            for p in (path, trained / f"checkpoint-{step}")
        )
        assert set(raw) == set(weights) == set(of_trained)
        for name, weight in weights.items():
            np.testing.assert_array_equal(raw[name], of_trained[name], err_msg=name)
            assert np.any(weight != raw[name]), name


def test_evaluation_during_training_is_that_of_the_averages_it_saves(averaged, tmp_path):
    during = {line["step"]: line["loss"] for line in lines_of(averaged, "eval")}
    for step in (4, 8):
        path = averaged / f"checkpoint-{step}"
        params = make_params(tmp_path, mode="eval")
        evaluator = make_evaluator(params, checkpoint=open_checkpoint(path))
        evaluator.evaluate_checkpoint()
        state = ours.read_state(path)
        for name, weight in evaluator.model.weights_by_name().items():
            weight.assign(state[f"raw/{name}"].read())
        evaluator.evaluate(eval_input_fn(None), step)
        evaluator.listeners.close()
        after, with_raw = (line["loss"] for line in lines_of(tmp_path, "eval")[-2:])
        assert after == pytest.approx(during[step], rel=1e-6)
        assert abs(with_raw - after) > 1e-4


def test_averages_cannot_be_resumed_without(averaged):
    with pytest.raises(UserError, match=r"cannot be resumed: raw/"):
        train(averaged, max_steps=20)


def test_a_signal_while_the_step_is_compiled_is_heard_before_it_runs(tmp_path):
    def model_fn_with_a_signal(*arguments):  # which is called while a step is traced
        terminate()
        return model_fn(*arguments)

    params = make_params(tmp_path, max_steps=9)
    result = make_trainer(params, model_fn=model_fn_with_a_signal).train()
    assert result.exit_code == 128 + signal.SIGTERM
    assert checkpoint_steps(tmp_path) == []  # nothing was trained


def test_training_leaves_checkpoints_figures_and_plots(trained):
    assert checkpoint_steps(trained) == [4, 8, 12]
    assert [line["step"] for line in lines_of(trained, "train")] == [3, 6, 9, 12]
    assert [line["step"] for line in lines_of(trained, "eval")] == [4, 8, 12]
    assert (trained / "plots" / "learning_curves.png").stat().st_size > 1000
    config = ours.read_config(trained / "checkpoint-12")
    assert config["label_names"] == list(LABELS) and config["tf_random_seed"] == 5
    assert config["hidden_size"] == 6 and config["step"] == 12
    assert Path(config["vocab_file"]).read_text().splitlines() == VOCAB


def test_the_result_has_the_figures_of_the_last_evaluation(tmp_path):
    result = train(tmp_path, mode="train_and_eval", max_steps=4, save_checkpoints_steps=2)
    last = lines_of(tmp_path, "eval")[-1]
    assert result.figures == {name: last[name] for name in result.figures}
    assert {"loss", "eval/accuracy_cls", "eval/accuracy_matched"} <= set(result.figures)
    assert result.num_examples == 21 and result.step == 4
    assert result.checkpoint == str(tmp_path / "checkpoint-4")
    # D = 6, F = 13, V = 23, 11 positions, 2 segments, 2 classes: embeddings with their norm,
    # attention, feed-forward, two norms, the head.
    embeddings = (23 + 11 + 2) * 6 + 2 * 6
    layer = 4 * (6 * 6 + 6) + (6 * 13 + 13) + (13 * 6 + 6) + 4 * 6
    assert result.num_parameters == embeddings + layer + (6 * 6 + 6) + (6 * 2 + 2)


def test_a_training_says_how_many_epochs_its_steps_are(tmp_path, capsys):
    train(tmp_path, max_steps=8, steps=2, save_checkpoints_steps=2)  # of 5 steps an epoch
    assert "\n2 steps = 0.4 epochs of 5 steps\n" in capsys.readouterr().err
    train(tmp_path, max_steps=7)
    assert "\n7 steps = 1.4 epochs of 5 steps\n" in capsys.readouterr().err
    train(tmp_path, max_steps=7)
    assert "epochs" not in capsys.readouterr().err  # nothing is trained


def test_a_schedule_that_ends_before_the_training_is_told(tmp_path, capsys):
    falling = {"scheduler": "Linear", "initial_learning_rate": 1e-3, "end_learning_rate": 0}
    train(tmp_path, optimizer={"learning_rate": falling | {"steps": 1}}, max_steps=3, steps=1)
    assert "the rate is 0 in 2 of 3 steps" in capsys.readouterr().err


def test_a_trainer_prints_nothing_by_itself(tmp_path, capsys):
    params = make_params(tmp_path, mode="train_and_eval", max_steps=2)
    session = make_session(params)
    Trainer(session, session.new_model(), Listeners()).train()
    assert capsys.readouterr() == ("", "")
