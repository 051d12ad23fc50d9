# SPDX-License-Identifier: Apache-2.0
"""Pre-training with checkpoints of the original programs, against what those computed from them.

Logits, losses, figures of a whole split, and one update. The files lie in ../shared/fixtures, which
its README describes; that of the update is made by tests/reference/pretraining_step.py.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file

from common.BaseModel import EVAL, PREDICT, TRAIN
from common.checkpoints.formats.google_tf1 import google_tensors
from common.checkpoints.formats.huggingface import huggingface_tensors
from common.checkpoints.load import load_weights, open_checkpoint
from common.optimizers.factory import make_optimizer
from common.params import OptimizerParams
from common.training.train_step import make_train_step
from model import make_model, model_fn
from tests.common.checkpoints.formats.test_original_programs import (
    FIXTURES,
    NETWORK,
    PRETRAINED,
    assert_close,
    open_fixture,
    reference_of,
)
from tests.reference.records import read_examples
from tests.reference.tiny_bert import pretraining_tensors, save_huggingface, tiny_params

needs_fixtures = pytest.mark.skipif(
    not FIXTURES.is_dir(), reason="../shared/fixtures, checkpoints of other programs, is not there"
)
STEP = json.loads(Path(__file__).parents[3].joinpath("reference/pretraining_step.json").read_text())
GOOGLE = "google_pretraining_data"
MASKED_LM = "hf_bert_masked_lm"


def loaded_task(checkpoint, **model):
    """A pre-training task as a params file without geometry would have it."""
    blank = dict.fromkeys((*NETWORK, "encoder_nonlinearity", "layer_norm_epsilon"))
    if checkpoint.config["num_heads"] is None:
        blank["num_heads"] = 4
    params = tiny_params(task="pretraining", **model)
    section = params.model.model_copy(update={"num_heads": None, "embedding_size": None, **blank})
    params = params.model_copy(update={"model": section}).complete(checkpoint.config)
    task = make_model(params)
    report = load_weights(task, checkpoint)
    assert not report.fresh
    return task


def batch_of(features, positions):
    batch = {name: features[name] for name in ("input_ids", "segment_ids")}
    batch |= {"input_mask": 1 - features["padding_mask"], "masked_lm_positions": positions}
    return {name: tf.constant(np.asarray(each), tf.int32) for name, each in batch.items()}


def outputs_of(task, batch, mode=EVAL):
    return {name: np.asarray(each) for name, each in task.build_model(batch, mode).items()}


@needs_fixtures
@pytest.mark.parametrize("name", [*PRETRAINED, MASKED_LM])
def test_both_heads_compute_what_their_program_computes(name):
    path, format = PRETRAINED.get(name, (MASKED_LM, "huggingface"))
    task = loaded_task(open_fixture(path, format), disable_nsp=name == MASKED_LM)
    features, expected, reference = reference_of(path.split("/")[0])
    positions = reference.get("features", reference)["masked_lm_positions"]
    outputs = outputs_of(task, batch_of(features, positions))
    logits = outputs["mlm_logits"]
    assert_close("MLM logits", logits[..., :16], expected["mlm_logits_first16"])
    assert_close("MLM maxima", logits.max(-1), expected["mlm_logits_max"])
    assert logits.argmax(-1).tolist() == expected["mlm_logits_argmax"]
    if name != MASKED_LM:
        assert_close("NSP logits", outputs["nsp_logits"], expected["nsp_logits"])


@needs_fixtures
def test_the_losses_of_a_batch_are_those_of_the_original():
    """The weights are 1 and 0 there, and the sum is divided by the rows."""
    checkpoint = open_fixture(*PRETRAINED["cerebras_tf"])
    task = loaded_task(checkpoint, mlm_loss_scaling="batch_size")
    features, expected, reference = reference_of("cerebras_tf")
    stored = reference["features"]
    batch = batch_of(features, stored["masked_lm_positions"])
    targets = {
        "masked_lm_ids": tf.constant(stored["masked_lm_ids"], tf.int32),
        "masked_lm_weights": tf.constant(stored["masked_lm_weights"], tf.float32),
        "next_sentence_labels": tf.constant(reference["next_sentence_labels"], tf.int32),
    }
    losses = task.build_losses(task.build_model(batch, TRAIN), targets)
    for loss, name in zip(losses, ("total_loss", "nsp_loss", "mlm_loss"), strict=True):
        assert_close(name, loss, expected[name])


@needs_fixtures
def test_the_loss_of_a_masked_lm_is_that_of_transformers():
    task = loaded_task(open_checkpoint(FIXTURES / MASKED_LM), disable_nsp=True)
    features, expected, reference = reference_of(MASKED_LM)
    ids = tf.constant(reference["masked_lm_labels"], tf.int32)
    batch = batch_of(features, reference["masked_lm_positions"])
    targets = {"masked_lm_ids": ids, "masked_lm_weights": tf.ones(ids.shape)}
    loss = task.build_total_loss(task.build_model(batch, TRAIN), targets)
    assert_close("loss", loss, expected["loss"])


@needs_fixtures
@pytest.mark.parametrize("name", ["google", "huggingface"])
def test_a_checkpoint_that_passed_through_the_network_has_every_bit(name):
    path, format = PRETRAINED[name]
    task = loaded_task(open_fixture(path, format))
    weights = {name: np.asarray(each.value) for name, each in task.weights_by_name().items()}
    if name == "google":
        reader = tf.train.load_checkpoint(str(FIXTURES / path))
        expected = {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map()}
        written = google_tensors(weights)
    else:
        expected = load_file(FIXTURES / path / "model.safetensors")
        written = huggingface_tensors(weights)
    assert set(written) == set(expected)
    for key, array in expected.items():
        assert np.ascontiguousarray(written[key]).tobytes() == array.tobytes(), key


# ---- Google's evaluation of its own records ------------------------------------------------------


@needs_fixtures
@pytest.mark.parametrize("run", ["single_piece", "whole_word"])
def test_google_program_and_this_one_score_its_records_alike(run):
    """Every example once, in batches of 8, of which the last is shorter."""
    reference = json.loads((FIXTURES / GOOGLE / "evaluation.json").read_text())["runs"][run]
    task = loaded_task(open_checkpoint(FIXTURES / GOOGLE / "checkpoint"))
    examples = read_examples([FIXTURES / GOOGLE / run / "examples.tfrecord"])
    assert len(examples) == reference["examples"]
    rows = {name: np.array([each[name] for each in examples]) for name in examples[0]}
    rows = {k: each.astype("f" if each.dtype.kind == "f" else "i") for k, each in rows.items()}
    rows["next_sentence_labels"] = rows["next_sentence_labels"][:, 0]
    metrics = task.build_eval_metric_ops()
    for first in range(0, len(examples), 8):
        of_batch = {name: tf.constant(each[first : first + 8]) for name, each in rows.items()}
        features = {
            "input_ids": of_batch["input_ids"],
            "input_mask": 1 - of_batch["input_mask"],
            "segment_ids": of_batch["segment_ids"],
            "masked_lm_positions": of_batch["masked_lm_positions"],
        }
        targets = {
            name: of_batch[name]
            for name in ("masked_lm_ids", "masked_lm_weights", "next_sentence_labels")
        }
        outputs = task.build_model(features, EVAL)
        scores = {k: np.asarray(v) for k, v in task.build_scores(outputs, targets).items()}
        if first == 0:
            check_first_batch(task, outputs, scores, targets, reference)
        targets = {name: np.asarray(each) for name, each in targets.items()}
        metrics.update(scores, targets, np.arange(first, first + len(features["input_ids"])))
    figures, expected = metrics.compute(), reference["metrics"]
    assert figures["eval/accuracy_masked_lm"] == pytest.approx(
        expected["masked_lm_accuracy"], abs=1e-6
    )
    assert figures["eval/accuracy_cls"] == pytest.approx(
        expected["next_sentence_accuracy"], abs=1e-6
    )
    loss = np.log(figures["eval/mlm_perplexity"])
    assert_close("masked-LM loss", loss, expected["masked_lm_loss"])
    total = expected["masked_lm_loss"] + expected["next_sentence_loss"]
    assert_close("loss", figures["loss"], total)


def check_first_batch(task, outputs, scores, targets, reference):
    """The losses of the first batch, and the first three rows one by one."""
    for row, expected in enumerate(reference["first_3_examples"]):
        assert_close("word losses", scores["mlm_loss"][row], expected["masked_lm_example_loss"])
        best = np.asarray(outputs["mlm_logits"])[row].argmax(-1)
        assert best.tolist() == expected["masked_lm_predictions"]
        log_softmax = tf.nn.log_softmax(outputs["nsp_logits"][row])
        assert_close("next sentence", log_softmax, expected["next_sentence_log_probs"])
    total, next_sentence, masked = task.build_losses(outputs, targets)
    expected = reference["first_batch_of_8"]
    assert_close("next-sentence loss", next_sentence, expected["next_sentence_loss"])
    # Its divisor is the number of masked words + 1e-5: of 60 words 2e-6 of the loss, 7.
    assert_close("masked-LM loss", masked, expected["masked_lm_loss"])
    assert_close("total loss", total, expected["total_loss"])


# ---- One update ----------------------------------------------------------------------------------


def test_one_adamw_step_ends_with_the_weights_of_transformers_and_torch(tmp_path):
    """Every weight; torch's epsilon is corrected for the step, ours not."""
    folder = save_huggingface(tmp_path, pretraining_tensors())
    task = loaded_task(open_checkpoint(folder))
    weights = {name: weight.value for name, weight in task.weights_by_name().items()}
    before = {name: weight.numpy() for name, weight in weights.items()}
    settings = STEP["settings"]
    optimizer = make_optimizer(
        weights,
        OptimizerParams.model_validate(
            {
                "learning_rate": settings["lr"],
                "beta1": settings["betas"][0],
                "beta2": settings["betas"][1],
                "epsilon": settings["eps"] * (1 - settings["betas"][1]) ** 0.5,
                "use_bias_correction": True,
                "weight_decay_rate": settings["weight_decay"],
                "max_gradient_norm": settings["clip"],
            }
        ),
    )
    train_step = make_train_step(model_fn, tiny_params(task="pretraining"), task, optimizer)
    rows = {name: np.array(each) for name, each in STEP["features"].items()}
    features = {
        "input_ids": rows["input_ids"],
        "segment_ids": rows["token_type_ids"],
        "padding_mask": rows["attention_mask"],
    }
    batch = batch_of(features, STEP["masked_lm_positions"])
    targets = {
        "masked_lm_ids": tf.constant(STEP["masked_lm_ids"], tf.int32),
        "masked_lm_weights": tf.cast(batch["masked_lm_positions"] > 0, tf.float32),
        "next_sentence_labels": tf.constant(STEP["next_sentence_labels"], tf.int32),
    }
    outputs = outputs_of(task, batch)
    assert_close("MLM logits", outputs["mlm_logits"], STEP["mlm_logits"])
    assert_close("NSP logits", outputs["nsp_logits"], STEP["nsp_logits"])
    figures = train_step(batch, targets)
    # Float32 against float32 by another program.
    assert float(figures["train/cost"]) == pytest.approx(STEP["loss"], rel=1e-6)
    norm = float(figures["train/unclipped_grad_norm"])
    assert norm == pytest.approx(STEP["gradient_norm"], rel=1e-5)
    after = {name: weight.numpy() for name, weight in weights.items()}
    ours, started = huggingface_tensors(after), huggingface_tensors(before)
    assert set(ours) == set(STEP["weights_after"])
    differences, updates = [], []
    for name, expected in STEP["weights_after"].items():
        expected = np.array(expected)
        differences.append((ours[name] - expected).ravel())
        updates.append((expected - started[name]).ravel())
    difference, update = (
        float(np.sqrt(np.mean(np.concatenate(each).astype(np.float64) ** 2)))
        for each in (differences, updates)
    )
    print(f"weights after the step: rms {difference:.1e} of updates of {update:.1e}")  # pytest -s
    assert update > 1e-4
    assert difference < 1e-8  # weights near 0.1 are 7e-9 apart
    assert_close(
        "loss after",
        task.build_losses(task.build_model(batch, TRAIN), targets)[0],
        STEP["loss_after"],
    )
    assert task.build_model(batch, PREDICT)["token_ids"].shape == (4, 2, 5)
