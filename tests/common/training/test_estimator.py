# SPDX-License-Identifier: Apache-2.0
"""The modes on a tiny network: a resumed run has the bits of one that went through, and so on."""

import csv
import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from common.checkpoints import store
from common.checkpoints.formats import ours
from common.checkpoints.load import open_checkpoint
from common.checkpoints.writer import CheckpointWriter
from common.errors import RunError, UserError
from common.metrics.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE
from common.params import Params
from common.training import estimator as estimator_module
from common.training.checks import last_step_of, set_up
from common.training.estimator import Estimator
from common.training.lock import locked
from common.training.run_state import BestMetric
from input.batches import Batches
from model import make_model, model_fn
from tests.reference.tiny_bert import randomize
from tests.reference.toy_rows import (
    MAX_SEQUENCE_LENGTH,
    rows_of,
    toy_eval_batches,
    toy_tokens,
    toy_train_batches,
)

VOCAB = [f"word{i}" for i in range(23)]
LABELS = ("without", "with")
TRAIN_ROWS = toy_tokens(23)  # five steps of 4 an epoch, and 3 rows over
SPLITS = {
    "validation_matched": toy_tokens(13, seed=1),
    "validation_mismatched": toy_tokens(8, seed=2),
}


def make_params(model_dir, optimizer=None, mixed_precision="float32", hidden_size=6, **runconfig):
    params = Params.model_validate(
        {
            "train_input": {
                "data_processor": "Sst2DataProcessor",
                "data_dir": "none",
                "max_sequence_length": MAX_SEQUENCE_LENGTH,
                "batch_size": 4,
            },
            "model": {
                "hidden_size": hidden_size,
                "num_hidden_layers": 1,
                "num_heads": 2,
                "filter_size": 13,
                "dropout_rate": 0.2,
                "attention_dropout_rate": 0.2,
                "cls_dropout_rate": 0.2,
                "mixed_precision": mixed_precision,
            },
            "optimizer": {"learning_rate": 0.01, "weight_decay_rate": 0.1, "max_gradient_norm": 1}
            | (optimizer or {}),
            "runconfig": {
                "model_dir": str(model_dir),
                "tf_random_seed": 5,
                "save_summary_steps": 3,
                "save_checkpoints_steps": 100,
                "mode": "train",
            }
            | runconfig,
        }
    )
    return params.complete(None, {"num_cls_classes": 2, "vocab_size": len(VOCAB)})


def train_input_fn(params, first_step, last_step):
    """Shuffled, in two buckets."""
    per_step = params.optimizer.grad_accum_steps
    return toy_train_batches(
        TRAIN_ROWS,
        4,
        first_step * per_step,
        last_step * per_step,
        num_buckets=2,
        seed=params.shuffle_seed,
    )


def eval_input_fn(params):
    """Batches of 3: neither 13 nor 8 rows fill them up."""
    return {split: toy_eval_batches(tokens, 3) for split, tokens in SPLITS.items()}


def make_estimator(params):
    set_up(params.runconfig)
    return Estimator(params, model_fn, make_model, LABELS, VOCAB)


def train(model_dir, **values):
    """Trains in a process' worth of fresh objects; resumes what is in model_dir."""
    params = make_params(model_dir, **values)
    estimator = make_estimator(params)
    return estimator.train(train_input_fn, None, store.newest_checkpoint(model_dir), eval_input_fn)


def bits_of(path):
    """{name: (dtype, shape, bytes)} of every weight and of the whole training state."""
    tensors = ours.read_weights(path) | ours.read_state(path)
    read = {name: tensor.read() for name, tensor in tensors.items()}
    return {name: (a.dtype, a.shape, a.tobytes()) for name, a in read.items()}


def lines_of(model_dir, split):
    lines = map(json.loads, (model_dir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["split"] == split]


# ---- Class weights -------------------------------------------------------------------------------


def test_class_weights_auto_are_counted_on_the_training_rows(tmp_path, capsys):
    params = make_params(tmp_path, max_steps=1)
    model = params.model.model_copy(update={"class_weights": "auto"})
    estimator = make_estimator(params.model_copy(update={"model": model}))
    assert estimator.train(train_input_fn, None, None) == 0
    counts = np.bincount(TRAIN_ROWS.targets["labels"])
    weights = [len(TRAIN_ROWS) / (2 * n) for n in counts]
    assert weights[0] != weights[1]
    np.testing.assert_allclose(estimator.model.loss_of.weights, weights, rtol=1e-6)
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
            {"loss_scaling_factor": "dynamic", "steps_per_increase": 3, "initial_loss_scale": 64},
        ),
        (
            "mixed_bfloat16",
            {"optimizer_type": "momentum", "moving_average_decay": 0.9, "grad_accum_steps": 2},
        ),
    ],
)
def test_train_twice_n_equals_train_n_and_resume_bit_for_bit(tmp_path, mixed_precision, optimizer):
    n = 8  # in the second epoch; 2n is in the fourth
    values = {"mixed_precision": mixed_precision, "optimizer": optimizer}
    through, halves = tmp_path / "through", tmp_path / "halves"
    assert train(through, max_steps=2 * n, save_checkpoints_steps=n, **values) == 0
    if mixed_precision == "float32":
        assert train(halves, max_steps=n, **values) == 0
    else:  # to save time: what the run that went through had at n, as a run killed later has it
        shutil.copytree(through / f"checkpoint-{n}", halves / f"checkpoint-{n}")
    assert train(halves, max_steps=2 * n, **values) == 0
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
    """A model_dir with checkpoints 4, 8 and 12, evaluated after each; the run's exit code is 0."""
    model_dir = tmp_path_factory.mktemp("trained")
    values = {"mode": "train_and_eval", "max_steps": 12, "save_checkpoints_steps": 4}
    assert train(model_dir, **values) == 0
    return model_dir


def test_steps_says_how_many_more_and_max_steps_where_to_stop(tmp_path):
    def last_step(first_step, **runconfig):
        estimator.run = make_params(tmp_path, **runconfig).runconfig
        return last_step_of(estimator.run, first_step)

    estimator = object.__new__(Estimator)
    assert last_step(7, steps=5) == 12
    assert last_step(7, max_steps=9) == 9
    assert last_step(7, steps=5, max_steps=9) == 9
    assert last_step(7, steps=5, max_steps=99) == 12
    assert last_step(7, steps=5, max_steps=99, mode="train_and_eval") == 99
    with pytest.raises(UserError, match=r"--max_steps .* or --steps"):
        last_step(7)


def test_nothing_is_trained_where_max_steps_is_reached(trained, capsys):
    kept = [path for path in trained.rglob("*") if "checkpoint-" in str(path)]
    before = {path: path.stat().st_mtime_ns for path in [*kept, trained / "metrics.jsonl"]}
    assert train(trained, max_steps=12) == 0
    assert "Nothing to train: step 12" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [step for step, _ in store.list_checkpoints(trained)] == [4, 8, 12]


@pytest.mark.parametrize(
    ("values", "differing"),
    [
        ({"hidden_size": 8}, "pooler/bias"),
        ({"optimizer": {"loss_scaling_factor": "dynamic"}}, "loss_scale/factor"),
    ],
)
def test_params_that_do_not_fit_what_is_to_be_resumed_are_refused(trained, values, differing):
    with pytest.raises(UserError, match=r"checkpoint-12 cannot be resumed: ") as error:
        train(trained, max_steps=20, **values)
    assert "--model_dir" in str(error.value)
    if "optimizer" in values:
        assert differing in str(error.value)


def test_a_vocabulary_of_other_tokens_is_refused(trained):
    estimator = make_estimator(make_params(trained, max_steps=20))
    estimator.vocab = [*VOCAB[:7], "another", *VOCAB[8:]]
    with pytest.raises(
        UserError, match=r"'another' is token 7 .*, where checkpoint-12 has 'word7'"
    ):
        estimator.train(train_input_fn, None, store.newest_checkpoint(trained))


def test_a_signal_saves_and_the_exit_code_tells_which(tmp_path, monkeypatch, capsys):
    iterate = Batches.__iter__

    def iterate_with_a_signal(self):
        for step, batch in enumerate(iterate(self), start=1):
            if step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    monkeypatch.setattr(Batches, "__iter__", iterate_with_a_signal)
    estimator = make_estimator(make_params(tmp_path, max_steps=9))
    assert estimator.train(train_input_fn, None, None) == 128 + signal.SIGTERM
    assert [step for step, _ in store.list_checkpoints(tmp_path)] == [3]
    assert "continues at step 3" in capsys.readouterr().err


class Killed(BaseException):
    """In the place of a kill: nothing catches it."""


def at_call(number, function, happens):
    """A function that calls `happens` before the given call of it, counted from 1."""
    calls = []

    def run(*arguments, **keywords):
        calls.append(arguments)
        if len(calls) == number:
            happens()
        return function(*arguments, **keywords)

    return run


def kill():
    raise Killed


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def figures_of(model_dir):
    """Every line of metrics.jsonl without what the clock says."""
    lines = map(json.loads, (model_dir / "metrics.jsonl").read_text().splitlines())
    clock = ("time", "train/examples_per_second", "train/input_wait")
    return [{name: x for name, x in line.items() if name not in clock} for line in lines]


def test_kills_around_saves_and_evaluations_change_neither_bits_nor_figures(tmp_path, monkeypatch):
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
    assert train(through, **values) == 0

    def interrupted(owner, name, number, happens, resumes_at):
        assert store.newest_checkpoint(killed) in (None, killed / f"checkpoint-{resumes_at}")
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, at_call(number, getattr(owner, name), happens))
            if happens is kill:
                with pytest.raises(Killed):
                    train(killed, **values)
            else:
                assert train(killed, **values) == 128 + signal.SIGTERM

    # Before the evaluation of the checkpoint at 4.
    interrupted(Estimator, "_evaluate", 2, kill, None)
    # In its evaluation, which is made up for; then at 6, with a checkpoint of the moment.
    interrupted(estimator_module, "collect_logits", 4, terminate, 4)
    assert store.newest_checkpoint(killed) == killed / "checkpoint-6"
    # After the evaluation of 8 has been written, before it is counted.
    interrupted(Estimator, "_note_evaluation", 2, kill, 6)
    assert train(killed, **values) == 0
    assert figures_of(killed) == figures_of(through)
    for step, path in store.list_checkpoints(through):
        assert bits_of(killed / f"checkpoint-{step}") == bits_of(path)
    steps = [step for step, _ in store.list_checkpoints(through)]
    best = json.loads((through / store.BEST).read_text())
    assert best == json.loads((killed / store.BEST).read_text())
    assert steps == sorted({best["step"], 10})
    assert best["value"] == min(line["loss"] for line in lines_of(through, "eval"))
    assert [line["step"] for line in lines_of(killed, "eval")] == [2, 4, 6, 8, 10]


def test_training_ends_early_and_the_best_is_kept_besides(tmp_path, monkeypatch, capsys):
    measured = iter([0.0, 0.5, 0.9, 0.9, 0.7])  # the first is asked for before training
    monkeypatch.setattr(BestMetric, "value_in", lambda self, metrics: next(measured))
    values = {
        "mode": "train_and_eval",
        "max_steps": 20,
        "eval_every_steps": 2,
        "keep_checkpoint_max": 1,
        "best_metric": "eval/accuracy_cls",
        "early_stopping_patience": 2,
    }
    assert train(tmp_path, **values) == 0
    assert [line["step"] for line in lines_of(tmp_path, "eval")] == [2, 4, 6, 8]
    assert [step for step, _ in store.list_checkpoints(tmp_path)] == [4, 8]
    assert store.best_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    said = capsys.readouterr().err
    assert "early: 2 evaluations without a better eval/accuracy_cls than 0.9000 of step 4" in said
    assert "checkpoint-4" in said.splitlines()[-4]
    # The same command finds that it has ended; another metric has not been measured yet.
    measured = iter([0.0])
    assert train(tmp_path, **values) == 0
    assert "Nothing to train: step 8 of 20" in capsys.readouterr().err
    measured = iter([0.0, 1.0])
    assert train(tmp_path, **values | {"best_metric": "eval/loss", "max_steps": 10}) == 0
    assert store.best_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def test_a_metric_that_no_evaluation_has_is_refused_before_training(tmp_path):
    values = {"mode": "train_and_eval", "max_steps": 4, "best_metric": "eval/accuracy_clz"}
    with pytest.raises(UserError, match=r"eval/accuracy_clz.*eval/accuracy_matched"):
        train(tmp_path, **values)
    assert not (tmp_path / "metrics.jsonl").exists()


# ---- Numbers that are not finite -----------------------------------------------------------------


def poison(monkeypatch, step, is_cured=lambda estimator: False):
    """Makes a bias not a number before a step of training, unless it is cured."""
    make_step = estimator_module.make_train_step

    def make(model_fn, params, model, optimizer, *rest):
        train_step = make_step(model_fn, params, model, optimizer, *rest)

        def poisoned(features, labels):
            if int(optimizer.step) == step - 1 and not is_cured(optimizer):
                model.pooler.bias.assign(np.full(model.pooler.bias.shape, np.nan, np.float32))
            return train_step(features, labels)

        return poisoned

    monkeypatch.setattr(estimator_module, "make_train_step", make)


def test_what_is_not_finite_is_named_with_step_tensor_and_rows(tmp_path, monkeypatch):
    poison(monkeypatch, step=6)
    with pytest.raises(RunError, match="the loss of step 6 is nan") as error:
        train(tmp_path, max_steps=9, save_checkpoints_steps=4)
    lines = str(error.value).splitlines()
    assert "classifier/bias" in lines[1]  # the nearest to the loss
    batches = train_input_fn(make_params(tmp_path), 0, 6)
    assert lines[2] == f"  rows of the step: {', '.join(map(str, batches.rows[5]))}"
    first = batches.rows[5][0]
    words = " ".join(f"word{i}" for i in rows_of(TRAIN_ROWS)[first])
    assert lines[3].startswith(f"  row {first}: {words[:60]}")
    assert store.newest_checkpoint(tmp_path) == tmp_path / "checkpoint-4"


def test_a_run_goes_back_with_a_lower_rate_and_a_resumed_one_keeps_it(tmp_path, monkeypatch):
    def has_quarter_rate(optimizer):
        return float(optimizer.learning_rate(float(optimizer.step))) < 0.003

    values = {"recover_from_nan": 0.5, "save_checkpoints_steps": 4, "save_summary_steps": 2}
    with monkeypatch.context() as patch:
        poison(patch, step=6, is_cured=has_quarter_rate)
        assert train(tmp_path, max_steps=7, **values) == 0
    assert train(tmp_path, max_steps=8, **values) == 0
    lines = lines_of(tmp_path, "train")
    assert [line["step"] for line in lines] == [2, 4, 6, 7, 8]
    rates = [line["train/lr"] for line in lines]
    assert rates == pytest.approx([0.01, 0.01, 0.0025, 0.0025, 0.0025])
    # A run that has gone back often enough ends, what it had is whole.
    poison(monkeypatch, step=10)
    with pytest.raises(RunError, match="3 steps back have not helped"):
        train(tmp_path, max_steps=12, **values)
    assert store.newest_checkpoint(tmp_path) == tmp_path / "checkpoint-8"


# ---- A model_dir that goes -----------------------------------------------------------------------


def test_a_model_dir_that_vanishes_ends_the_run_and_is_not_made_anew(tmp_path, monkeypatch):
    model_dir, elsewhere = tmp_path / "model_dir", tmp_path / "elsewhere"
    vanishing = at_call(5, CheckpointWriter.poll, lambda: model_dir.rename(elsewhere))
    monkeypatch.setattr(CheckpointWriter, "poll", vanishing)
    with locked(model_dir), pytest.raises(RunError, match="model_dir is gone"):
        train(model_dir, max_steps=9, save_checkpoints_steps=2)
    assert not model_dir.exists()
    assert store.newest_checkpoint(elsewhere) is not None


# ---- Averages of the weights ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """A model_dir as `trained`, with averages; its checkpoints are 4 and 8."""
    model_dir = tmp_path_factory.mktemp("averaged")
    values = {"mode": "train_and_eval", "max_steps": 8, "save_checkpoints_steps": 4}
    assert train(model_dir, optimizer={"moving_average_decay": 0.9}, **values) == 0
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
    estimator = make_estimator(make_params(tmp_path, mode="eval"))
    for step in (4, 8):
        path = averaged / f"checkpoint-{step}"
        estimator.evaluate(eval_input_fn, open_checkpoint(path))
        state = ours.read_state(path)
        for name, weight in estimator.model.weights_by_name().items():
            weight.assign(state[f"raw/{name}"].read())
        estimator._evaluate(eval_input_fn(None), step)
        after, with_raw = (line["loss"] for line in lines_of(tmp_path, "eval")[-2:])
        assert after == pytest.approx(during[step], rel=1e-6)
        assert abs(with_raw - after) > 1e-4
    estimator.reports.close()


def test_averages_cannot_be_resumed_without(averaged):
    with pytest.raises(UserError, match=r"cannot be resumed: raw/"):
        train(averaged, max_steps=20)


def test_a_signal_while_the_step_is_compiled_is_heard_before_it_runs(tmp_path):
    def model_fn_with_a_signal(*arguments):  # which is called while a step is traced
        terminate()
        return model_fn(*arguments)

    params = make_params(tmp_path, max_steps=9)
    set_up(params.runconfig)
    estimator = Estimator(params, model_fn_with_a_signal, make_model, LABELS, VOCAB)
    assert estimator.train(train_input_fn, None, None) == 128 + signal.SIGTERM
    assert store.list_checkpoints(tmp_path) == []  # nothing was trained


# ---- Training and evaluation ---------------------------------------------------------------------


def test_training_leaves_checkpoints_figures_and_plots(trained):
    assert [step for step, _ in store.list_checkpoints(trained)] == [4, 8, 12]
    assert [line["step"] for line in lines_of(trained, "train")] == [3, 6, 9, 12]
    assert [line["step"] for line in lines_of(trained, "eval")] == [4, 8, 12]
    assert (trained / "plots" / "learning_curves.png").stat().st_size > 1000
    config = ours.read_config(trained / "checkpoint-12")
    assert config["label_names"] == list(LABELS) and config["tf_random_seed"] == 5
    assert config["hidden_size"] == 6 and config["step"] == 12
    assert Path(config["vocab_file"]).read_text().splitlines() == VOCAB


def logits_in_rows(estimator, tokens):
    """Logits of each row alone and unpadded, float64 [N, C]."""
    rows = []
    for ids in rows_of(tokens):
        features = {
            "input_ids": np.array([ids]),
            "padding_mask": np.ones((1, len(ids)), int),
            "segment_ids": np.zeros((1, len(ids)), int),
        }
        rows.append(np.asarray(estimator.model(features), np.float64)[0])
    return np.array(rows)


def metrics_in_numpy(logits, labels):
    """The textbook formulas over all rows at once, for two classes."""
    predicted = logits.argmax(axis=1)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    tp, fp, fn, tn = (
        float(np.sum((predicted == p) & (labels == t))) for p, t in ((1, 1), (1, 0), (0, 1), (0, 0))
    )
    spread = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return {
        "loss": -np.log(probabilities[np.arange(len(labels)), labels]).mean(),
        "eval/accuracy_cls": np.mean(predicted == labels),
        "eval/f1_score": 2 * tp / (2 * tp + fp + fn) if tp else 0.0,
        "eval/mcc": (tp * tn - fp * fn) / spread if spread else 0.0,
    }


def test_evaluation_covers_every_row_and_matches_numpy(trained, tmp_path, capsys):
    # Random weights, and a bias with which half of the rows are of each class: rightly or wrongly.
    estimator = make_estimator(make_params(tmp_path, mode="eval"))
    weights = randomize(estimator.model)
    rows = np.concatenate([logits_in_rows(estimator, tokens) for tokens in SPLITS.values()])
    weights["classifier/bias"][0] += np.median(rows[:, 1] - rows[:, 0]) + 1e-6
    config = ours.read_config(trained / "checkpoint-8")
    path = ours.save_checkpoint(tmp_path, 8, weights, {}, config, VOCAB)
    checkpoint = open_checkpoint(path)
    assert estimator.evaluate(eval_input_fn, checkpoint) == 0
    logits = [logits_in_rows(estimator, tokens) for tokens in SPLITS.values()]
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
    assert f"({correct} of 21)" in capsys.readouterr().err  # in the closing summary


def test_eval_steps_limits_the_batches_of_each_split(trained, tmp_path):
    estimator = make_estimator(make_params(tmp_path, mode="eval", eval_steps=2))
    estimator.evaluate(eval_input_fn, open_checkpoint(trained))
    report = json.loads((tmp_path / "eval" / "report-validation.json").read_text())
    assert report["num_examples"] == 2 * 2 * 3


def test_every_checkpoint_is_evaluated_and_the_best_is_marked(trained, capsys):
    estimator = make_estimator(make_params(trained, mode="eval_all"))
    assert estimator.evaluate_all(eval_input_fn) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["step", str(step)] for step in (4, 8, 12)]
    accuracies = [float(line.split()[3]) for line in lines]
    assert [line.endswith("best") for line in lines].index(True) == np.argmax(accuracies)


# ---- Prediction ----------------------------------------------------------------------------------


def test_predictions_are_those_of_the_checkpoint_for_every_row(trained, tmp_path):
    estimator = make_estimator(make_params(tmp_path, mode="predict"))
    texts = {split: [(f"text {i}",) for i in range(len(t))] for split, t in SPLITS.items()}
    logits_of_split = estimator.predict(eval_input_fn(None), texts, open_checkpoint(trained))
    for number, (split, tokens) in enumerate(SPLITS.items()):
        expected = logits_in_rows(estimator, tokens)
        np.testing.assert_allclose(logits_of_split[split], expected, rtol=0, atol=1e-5)
        path = tmp_path / "predict" / f"predictions_tf_{number}"
        np.testing.assert_array_equal(np.load(f"{path}.npz")["arr_0"], logits_of_split[split])
        with open(f"{path}.tsv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        assert [row["text"] for row in rows] == [text for (text,) in texts[split]]
        assert [row["label"] for row in rows] == [LABELS[i] for i in expected.argmax(axis=1)]


def test_a_head_that_was_not_trained_for_these_labels_is_refused(trained, tmp_path):
    config = ours.read_config(trained)
    weights = {name: np.asarray(t) for name, t in ours.read_weights(trained).items()}
    backbone = {name: w for name, w in weights.items() if not name.startswith("classifier/")}
    path = ours.save_checkpoint(tmp_path, 1, backbone, {}, config, VOCAB)
    estimator = make_estimator(make_params(tmp_path, mode="eval"))
    with pytest.raises(UserError, match="no trained weights for classifier/bias"):
        estimator.evaluate(eval_input_fn, open_checkpoint(path))


# ---- Calibration ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calibrated(trained, tmp_path_factory):
    """A copy of `trained` with another network, whose run has been ended again.

    Its random weights are right more often than not, and too sure of it.
    """
    model_dir = tmp_path_factory.mktemp("calibrated")
    shutil.copytree(trained, model_dir, dirs_exist_ok=True)
    estimator = make_estimator(make_params(model_dir))
    weights = randomize(estimator.model)
    logits = np.concatenate([logits_in_rows(estimator, tokens) for tokens in SPLITS.values()])
    labels = np.concatenate([tokens.targets["labels"] for tokens in SPLITS.values()])
    margins = logits[:, 1] - logits[:, 0]
    scale = 30 * np.sign(np.mean((margins - np.median(margins)) * (2 * labels - 1)))
    bias = weights["classifier/bias"] + np.array([np.median(margins), 0])
    weights["classifier/kernel"] *= np.float32(scale)
    weights["classifier/bias"] = (scale * bias).astype(np.float32)
    path = model_dir / "checkpoint-12"
    state = {name: tensor.read() for name, tensor in ours.read_state(path).items()}
    ours.save_checkpoint(model_dir, 12, weights, state, ours.read_config(path), VOCAB)
    values = {"mode": "train_and_eval", "save_checkpoints_steps": 4}
    assert train(model_dir, max_steps=12, calibrate_temperature=True, **values) == 0
    return model_dir


def test_the_temperature_is_the_likeliest_and_is_kept_with_the_checkpoint(calibrated):
    path = calibrated / "checkpoint-12"
    assert store.fault_in(path) is None
    temperature = ours.read_config(path)["temperature"]
    estimator = make_estimator(make_params(calibrated, mode="eval"))
    estimator.load(open_checkpoint(path))
    assert estimator.temperature == temperature
    assert MIN_TEMPERATURE < temperature < MAX_TEMPERATURE
    logits = np.concatenate([logits_in_rows(estimator, tokens) for tokens in SPLITS.values()])
    labels = np.concatenate([tokens.targets["labels"] for tokens in SPLITS.values()])
    facts = json.loads((calibrated / "eval" / "calibration.json").read_text())["checkpoint-12"]
    losses = {t: metrics_in_numpy(logits / t, labels)["loss"] for t in (1.0, temperature)}
    assert facts["before"]["loss"] == pytest.approx(losses[1.0], abs=1e-6)
    assert facts["after"]["loss"] == pytest.approx(losses[temperature], abs=1e-6)
    for factor in (0.9, 1.1):
        loss = metrics_in_numpy(logits / (factor * temperature), labels)["loss"]
        assert loss > losses[temperature]
    assert facts["num_examples"] == len(labels)
    # Hand-made: bins of 1/15 by confidence.
    probabilities = np.exp(logits / temperature)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    confidence, hits = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    error = 0.0
    for n in range(15):
        inside = (confidence > n / 15) & (confidence <= (n + 1) / 15)
        error += abs(confidence[inside].sum() - hits[inside].sum()) / len(labels)
    assert facts["after"]["expected_calibration_error"] == pytest.approx(error, abs=1e-6)
    for step in (4, 8):  # neither the last nor the best
        assert "temperature" not in ours.read_config(calibrated / f"checkpoint-{step}")


def test_predictions_have_the_calibrated_probabilities(calibrated, tmp_path):
    estimator = make_estimator(make_params(tmp_path, mode="predict"))
    texts = {split: [("text",)] * len(t) for split, t in SPLITS.items()}
    logits = estimator.predict(eval_input_fn(None), texts, open_checkpoint(calibrated))
    scaled = np.exp(logits["validation_matched"].astype(np.float64) / estimator.temperature)
    expected = scaled / scaled.sum(axis=1, keepdims=True)
    with open(tmp_path / "predict" / "predictions_tf_0.tsv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    actual = [[float(row[f"p_{name}"]) for name in LABELS] for row in rows]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)  # six decimals


def test_an_export_has_the_temperature_in_its_weights(calibrated, tmp_path):
    estimator = make_estimator(make_params(tmp_path, mode="export"))
    features = SimpleNamespace(texts_per_row=1)
    vocab_with_pad = ["[PAD]", *VOCAB[1:]]
    estimator.vocab = vocab_with_pad
    estimator.export(open_checkpoint(calibrated), features, "huggingface", tmp_path / "exported")
    exported = open_checkpoint(tmp_path / "exported")
    weights = ours.read_weights(calibrated / "checkpoint-12")
    for name, tensor in weights.items():
        factor = estimator.temperature if name.startswith("classifier/") else 1.0
        np.testing.assert_array_equal(
            np.asarray(exported.weights[name]), tensor.read() / np.float32(factor)
        )


def test_what_int8_costs_is_measured_on_every_row_printed_and_kept(trained, tmp_path, capsys):
    pytest.importorskip("onnxruntime", reason="pip install onnx onnxruntime")
    estimator = make_estimator(make_params(tmp_path, mode="export"))
    features = SimpleNamespace(texts_per_row=1)
    checkpoint, folder = open_checkpoint(trained), tmp_path / "onnx"
    estimator.export(checkpoint, features, "onnx", folder, "int8", eval_input_fn)
    figures = json.loads((folder / "export.json").read_text())["metrics_of_files"]
    logits = np.concatenate([logits_in_rows(estimator, tokens) for tokens in SPLITS.values()])
    labels = np.concatenate([tokens.targets["labels"] for tokens in SPLITS.values()])
    for name, value in metrics_in_numpy(logits, labels).items():
        assert figures["model.onnx"][name] == pytest.approx(value, abs=1e-5)
    before, after = (figures[f]["eval/accuracy_cls"] for f in ("model.onnx", "model_int8.onnx"))
    printed = capsys.readouterr().err
    assert f"accuracy {before:.4f} ({round(21 * before)} of 21)" in printed
    assert f"Lost to int8     {before - after:.4f} of accuracy" in printed
    assert "of 21 rows have another label" in printed
    assert "| evaluation | `model.onnx` | `model_int8.onnx` |" in (folder / "README.md").read_text()


def test_the_figures_of_a_regression_have_no_accuracy():
    assert estimator_module.figures_of({"loss": 0.25, "eval/mse": 0.25}, 7) == (
        "loss 0.2500, mse 0.2500"
    )
