# SPDX-License-Identifier: Apache-2.0
"""The modes on a tiny network: a resumed run has the bits of one that went through, and so on."""

import csv
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from common.checkpoints import store
from common.checkpoints.load import open_checkpoint
from common.errors import UserError
from common.params import Params
from common.training.estimator import Estimator, set_up
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
    return toy_train_batches(
        TRAIN_ROWS, 4, first_step, last_step, num_buckets=2, seed=params.shuffle_seed
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
    resumed = store.newest_checkpoint(model_dir)
    evaluation = eval_input_fn if params.runconfig.mode == "train_and_eval" else None
    return estimator.train(train_input_fn, None, resumed, evaluation)


def bits_of(path):
    """{name: (dtype, shape, bytes)} of every weight and of the whole training state."""
    tensors = store.read_weights(path) | store.read_state(path)
    read = {name: tensor.read() for name, tensor in tensors.items()}
    return {name: (a.dtype, a.shape, a.tobytes()) for name, a in read.items()}


def lines_of(model_dir, split):
    lines = map(json.loads, (model_dir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["split"] == split]


# ---- Resuming ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mixed_precision", "optimizer"),
    [
        ("float32", {}),
        ("mixed_bfloat16", {"use_bias_correction": True}),
        # Doubles every third step, so that its counters matter too.
        (
            "mixed_float16",
            {"loss_scaling_factor": "dynamic", "steps_per_increase": 3, "initial_loss_scale": 64},
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
    # Nothing stood still, but for what a factor of the loss does not need.
    still = {name for name in half if half[name] == through[name]}
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
        return estimator._last_step(first_step)

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


# ---- Training and evaluation ---------------------------------------------------------------------


def test_training_leaves_checkpoints_figures_and_plots(trained):
    assert [step for step, _ in store.list_checkpoints(trained)] == [4, 8, 12]
    assert [line["step"] for line in lines_of(trained, "train")] == [3, 6, 9, 12]
    assert [line["step"] for line in lines_of(trained, "eval")] == [4, 8, 12]
    assert (trained / "plots" / "learning_curves.png").stat().st_size > 1000
    config = store.read_config(trained / "checkpoint-12")
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
    config = store.read_config(trained / "checkpoint-8")
    path = store.save_checkpoint(tmp_path, 8, weights, {}, config, VOCAB)
    checkpoint = open_checkpoint(path)
    assert estimator.evaluate(eval_input_fn, checkpoint) == 0
    logits = [logits_in_rows(estimator, tokens) for tokens in SPLITS.values()]
    labels = [tokens.labels for tokens in SPLITS.values()]
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
    config = store.read_config(trained)
    weights = {name: np.asarray(t) for name, t in store.read_weights(trained).items()}
    backbone = {name: w for name, w in weights.items() if not name.startswith("classifier/")}
    path = store.save_checkpoint(tmp_path, 1, backbone, {}, config, VOCAB)
    estimator = make_estimator(make_params(tmp_path, mode="eval"))
    with pytest.raises(UserError, match="no trained weights for classifier/bias"):
        estimator.evaluate(eval_input_fn, open_checkpoint(path))
