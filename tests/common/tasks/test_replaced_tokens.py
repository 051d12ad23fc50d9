# SPDX-License-Identifier: Apache-2.0
"""ELECTRA's discriminator: its logits and loss are transformers' and Google's; trained, scored."""

import csv
import json
import re

import numpy as np
import pytest
import yaml
from keras import ops

import run
from common.BaseModel import EVAL, PREDICT, TRAIN
from common.checkpoints import store
from common.checkpoints.load import load_weights, open_checkpoint
from common.errors import UserError
from common.export.export import export
from common.params import Params
from common.params.pretraining import network_faults, objective_faults
from model import make_model
from tests.common.tasks.test_pretraining import random_batch
from tests.reference.family_fixtures import (
    FIXTURES,
    features_of,
    needs_fixtures,
    params_of,
    reference,
)
from tests.reference.tiny_bert import pack_rows, random_features, randomize, tiny_params
from tests.reference.toy_pretraining import train, train_in_parts
from tests.reference.toy_session import bits_of

REPLACED = {"pretraining_objective": "replaced_tokens", "disable_nsp": True}
WORDS_ALONE = {"mask_replace_prob": 0, "random_replace_prob": 1}
TOLERANCE = 1e-5  # float32 against float32 by another program
LINES = ["the treaty was good", "Nobody had expected so many people", "peace and good will"]


def of_discriminator(params):
    """Params with the objective, whatever their rows are: the network reads no masks."""
    return params.model_copy(update={"model": params.model.model_copy(update=REPLACED)})


def make_task():
    task = make_model(of_discriminator(tiny_params(task="pretraining")))
    randomize(task)
    return task


def load_task(path):
    """The network of a discriminator, its LoadReport and Params."""
    checkpoint = open_checkpoint(path)
    params = of_discriminator(params_of(path, "pretraining", checkpoint=checkpoint))
    task = make_model(params)
    return task, load_weights(task, checkpoint), params


def in_numpy(outputs, features, targets):
    """Whether each token was replaced, and its loss, float64 [B, T]."""
    ids, positions = features["input_ids"], features["masked_lm_positions"]
    replaced = np.zeros(ids.shape)
    for row, places in enumerate(positions):
        for n, place in enumerate(places):
            is_chosen = targets["masked_lm_weights"][row, n] > 0
            if is_chosen and ids[row, place] != targets["masked_lm_ids"][row, n]:
                replaced[row, place] = 1
    probability = 1 / (1 + np.exp(-outputs["logits"].astype(np.float64)))
    return replaced, -np.log(np.where(replaced > 0, probability, 1 - probability))


def arrays(outputs):
    return {name: np.asarray(each) for name, each in outputs.items()}


def test_the_loss_is_the_mean_over_the_tokens_of_the_batch():
    task = make_task()
    features, targets = random_batch()
    place = features["masked_lm_positions"][0, 0]
    targets["masked_lm_ids"][0, 0] = features["input_ids"][0, place]  # replaced by itself
    outputs = task.build_model(features, TRAIN)
    replaced, losses = in_numpy(arrays(outputs), features, targets)
    assert 0 < replaced.sum() < targets["masked_lm_weights"].sum()
    np.testing.assert_array_equal(task.replaced(outputs, targets), replaced)
    is_token = 1 - features["input_mask"]
    expected = (losses * is_token).sum() / is_token.sum()
    assert float(task.build_total_loss(outputs, targets)) == pytest.approx(expected, rel=1e-5)


def test_packed_rows_have_the_logits_of_rows_by_themselves():
    task, features = make_task(), random_features(5, 11)
    packed, order = pack_rows(features, 2, 33)
    alone, together = np.asarray(task(features)), np.asarray(task(packed)).ravel()
    for row, start in zip(order, packed["starts"], strict=True):
        length = features["padding_mask"][row].sum()
        found = together[start : start + length]
        np.testing.assert_allclose(found, alone[row, :length], rtol=0, atol=TOLERANCE)


def test_training_tells_tokens_from_their_replacements(tmp_path):
    """Most replacements of these rows are [MASK]."""
    values = {"mode": "train_and_eval", "max_steps": 40, "eval_steps": 40}
    figures = train(tmp_path, model=REPLACED, train_input=WORDS_ALONE, **values).figures
    assert figures["eval/replaced_accuracy"] > 0.9 and figures["eval/replaced_recall"] > 0.5


@pytest.mark.parametrize("packing", ["packed", "none"])
def test_a_stopped_run_goes_on_with_the_same_bits(tmp_path, packing):
    rows = WORDS_ALONE | {"packing": packing}
    values = {"max_steps": 6, "model": REPLACED, "train_input": rows}
    train(tmp_path / "whole", **values)
    train_in_parts(tmp_path / "parts", 3, **values)
    whole, parts = (store.newest_checkpoint(tmp_path / name) for name in ("whole", "parts"))
    assert bits_of(whole) == bits_of(parts)


def test_figures_count_every_token_of_every_row_once():
    task = make_task()
    metrics = task.build_eval_metric_ops()
    features, targets = random_batch()
    outputs = task.build_model(features, EVAL)
    scores = arrays(task.build_scores(outputs, targets))
    rows = np.array([3, 0, -1, 1, -1])
    metrics.update(scores, targets, rows)
    replaced, losses = in_numpy(scores, features, targets)
    counted = (1 - features["input_mask"]) * (rows >= 0)[:, None] > 0
    told, replaced, losses = scores["logits"][counted] > 0, replaced[counted] > 0, losses[counted]
    expected = {
        "loss": losses.mean(),
        "eval/replaced_accuracy": (told == replaced).mean(),
        "eval/replaced_precision": (told & replaced).sum() / told.sum(),
        "eval/replaced_recall": (told & replaced).sum() / replaced.sum(),
    }
    assert metrics.compute() == pytest.approx(expected, rel=1e-6) and len(metrics) == 3
    other = task.build_eval_metric_ops()
    other.merge(metrics)
    other.merge(metrics)
    assert other.compute() == pytest.approx(expected, rel=1e-6) and len(other) == 6


def test_without_tokens_there_are_no_figures():
    with pytest.raises(UserError, match="no tokens to score"):
        make_task().build_eval_metric_ops().compute()


# ---- Other programs' weights ---------------------------------------------------------------------


@needs_fixtures
@pytest.mark.parametrize("folder", ["hf_electra/discriminator", "google_electra_tf1"])
def test_logits_and_loss_are_those_of_the_other_program(folder):
    expected = reference(folder)
    task, report, params = load_task(FIXTURES / folder)
    assert not report.fresh and params.model.backbone == "electra"
    outputs = expected["outputs"].get("discriminator", expected["outputs"])
    features = task.network_features(features_of(expected))
    is_token = ops.cast(features["padding_mask"], "float32")
    ours = {"discriminator_logits": task(features)}
    ours["fake_probabilities"] = task.build_model(features_of(expected), PREDICT)["replaced"]
    names = ours.keys() & outputs.keys()
    assert len(names) == 1  # transformers gives the one, Google's program the other
    for name in names:
        for row, theirs in zip(np.asarray(ours[name]), outputs[name], strict=True):
            np.testing.assert_allclose(row[: len(theirs)], theirs, rtol=0, atol=TOLERANCE)
    labels = np.array(expected.get("replaced_labels", expected.get("is_fake_tokens")), np.float32)
    found = {"logits": ours["discriminator_logits"], "is_token": is_token}
    loss = float(ops.sum(task.token_losses(found, labels)) / ops.sum(is_token))
    assert loss == pytest.approx(float(outputs["loss"]), abs=TOLERANCE)


@needs_fixtures
def test_the_weights_of_a_discriminator_come_back_bit_by_bit(make_classifier, tmp_path):
    from dataclasses import replace

    source = FIXTURES / "hf_electra" / "discriminator"
    task, _, params = load_task(source)
    vocab = (source / "vocab.txt").read_text("utf-8").split("\n")[:-1]
    classifier = replace(make_classifier(), model=task, params=params, vocab=vocab)
    folder, _ = export("huggingface", classifier, tmp_path / "out")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert config["architectures"] == ["ElectraForPreTraining"]
    before, after = (open_checkpoint(path).weights for path in (source, folder))
    assert before.keys() == after.keys()
    for name, each in before.items():
        assert np.asarray(each).tobytes() == np.asarray(after[name]).tobytes(), name


def test_another_family_has_no_such_head_in_transformers(make_classifier, tmp_path):
    from dataclasses import replace

    params = of_discriminator(tiny_params(task="pretraining"))
    classifier = replace(make_classifier(), model=make_task(), params=params)
    with pytest.raises(UserError, match="BERT has no head of replaced tokens"):
        export("huggingface", classifier, tmp_path / "out")
    with pytest.raises(UserError, match="export_format is onnx, but the task is pretraining"):
        export("onnx", classifier, tmp_path / "out")


# ---- The command line ----------------------------------------------------------------------------


@needs_fixtures
def test_a_discriminator_is_scored_on_documents_and_tells_the_tokens_of_texts(tmp_path, capsys):
    documents = tmp_path / "documents.txt"
    documents.write_text("\n\n".join(LINES * 5), "utf-8")
    rows = {
        "data_processor": "DocumentDataProcessor",
        "train_documents": str(documents),
        "eval_documents": str(documents),
        "sentence_pairs": "none",
        "cache_dir": str(tmp_path / "cache"),
        "max_sequence_length": 24,
        "batch_size": 4,
        **WORDS_ALONE,
    }
    values = {"train_input": rows, "model": REPLACED, "optimizer": {"learning_rate": 1e-4}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values), "utf-8")
    flags = ["--params", str(tmp_path / "params.yaml"), "--model_dir", str(tmp_path / "run")]
    flags += ["--checkpoint_path", str(FIXTURES / "hf_electra" / "discriminator")]
    assert run.main(["--mode", "eval", *flags]) == 0
    told = dict(re.findall(r"^  (\S+) +(\S+)", capsys.readouterr().out, re.MULTILINE))
    # These weights, which are random, take every token for a replacement: 15% of them are.
    assert told["replaced_recall"] == "1.0000"
    assert told["Tokens"] == told["replaced_precision"] and 0.1 < float(told["Tokens"]) < 0.2
    capsys.readouterr()
    assert run.main(["--mode", "predict", *flags, "--text", LINES[0], "--text", "good"]) == 0
    (path,) = (tmp_path / "run" / "predict").glob("*.tsv")
    with open(path, encoding="utf-8", newline="") as file:
        records = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert [record["text"] for record in records] == [LINES[0], "good"]
    told = [pair.rsplit(":", 1) for pair in records[0]["replaced"].split()]
    assert told and all(0.5 < float(probability) <= 1 for _, probability in told)
    pieces = " ".join(token for token, _ in told)
    assert pieces.replace(" ##", "") == f"[CLS] {LINES[0]} [SEP]"


def faults_of(model=None, rows=None, distillation=None):
    section = {
        "data_processor": "DocumentDataProcessor",
        "train_documents": "none",
        "eval_documents": "none",
        "sentence_pairs": "none",
        "max_sequence_length": 7,
        "batch_size": 3,
        **WORDS_ALONE,
    }
    params = Params.model_validate(
        {
            "train_input": section,
            "model": {**REPLACED, "hidden_size": 6, "num_heads": 2},
            "optimizer": {"learning_rate": 0.1},
            "runconfig": {"mode": "train", "model_dir": "none"},
        }
    )
    changes = {
        "train_input": params.train_input.model_copy(update=rows or {}),
        "model": params.model.model_copy(update=model or {}),
        "distillation": distillation,
    }
    return dict(objective_faults(params.model_copy(update=changes))), dict(
        network_faults(params.model.model_copy(update=model or {}))
    )


def test_what_a_discriminator_cannot_be_shown_is_refused():
    assert faults_of() == ({}, {})
    faults, _ = faults_of(rows={"mask_replace_prob": 0.8, "random_replace_prob": 0.1})
    assert "write mask_replace_prob: 0" in faults["train_input.mask_replace_prob"]
    faults, _ = faults_of(rows={"random_replace_prob": 0.0})
    assert "train_input.mask_replace_prob" in faults
    _, faults = faults_of(model={"disable_nsp": False})
    assert "a discriminator has no next-sentence head" in faults["disable_nsp"]
    faults, _ = faults_of(distillation=object())
    assert "a teacher teaches masked words" in faults["model.pretraining_objective"]
    faults, _ = faults_of(rows={"data_processor": "BertTfRecordsProcessor"})
    assert "whose records have [MASK]s" in faults["train_input.data_processor"]
