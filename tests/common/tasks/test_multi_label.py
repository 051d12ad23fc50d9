# SPDX-License-Identifier: Apache-2.0
"""Multi-label classification from labels to predictions, and a step against transformers."""

import numpy as np
import pytest
import tensorflow as tf

from common.BaseModel import TRAIN
from common.errors import UserError
from common.tasks.multi_label import LabelSetTargets
from common.tasks.targets import LabelColumn
from model import make_model, model_fn
from tests.reference.one_step import check_one_step
from tests.reference.tiny_bert import random_features, randomize, tiny_params

LABELS = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1]], np.float32)
NAMES = ("a", "b", "c")


def multi_label_params(**network):
    return tiny_params(num_classes=3, task="multi_label", **network)


def documented_features():
    features = random_features(batch=3, tokens=7)
    features["input_mask"] = 1 - features.pop("padding_mask")
    return features


@pytest.fixture(scope="module")
def model():
    model = make_model(multi_label_params(), NAMES)
    randomize(model)
    return model


# ---- Labels --------------------------------------------------------------------------------------


def column(*labels, kind="text"):
    return LabelColumn("rows.jsonl", "topics", kind, description="an int", read=lambda: labels)


def test_labels_are_the_distinct_ones_of_lists_or_of_separated_texts():
    assert LabelSetTargets().named(column(("b", "a"), (), ("c", "a"))).label_names == NAMES
    targets = LabelSetTargets(label_separator=";").named(column("b; a", "", "c"))
    assert targets.label_names == NAMES
    assert targets.parse("c;a") == {"labels": [1, 0, 1]} == targets.parse(("a", "c"))
    assert targets.parse("") == {"labels": [0, 0, 0]} == targets.parse(())
    with pytest.raises(ValueError, match="d is none of the labels a, b, c"):
        targets.parse("a;d")


def test_without_a_separator_a_text_is_one_label():
    targets = LabelSetTargets(NAMES).named(column("a;b"))
    assert targets.parse("b") == {"labels": [0, 1, 0]}
    with pytest.raises(ValueError, match="a;b is none"):
        targets.parse("a;b")


def test_a_separator_is_part_of_what_the_token_cache_is_known_by():
    kinds = (LabelSetTargets(NAMES), LabelSetTargets(NAMES, ";"), LabelSetTargets(NAMES[:2]))
    assert len({tuple(kind.settings) for kind in kinds}) == 3


def test_a_row_without_labels_is_a_fault_and_one_with_none_of_them_is_not():
    targets = LabelSetTargets(NAMES)
    rows = [targets.missing, targets.parse(()), targets.parse(("a",))]
    arrays = {"labels": np.array([row["labels"] for row in rows], np.float32)}
    assert targets.faults(arrays) == {0: "no labels"}
    assert targets.specs["labels"].shape == (3,)


def test_a_data_set_with_one_label_a_row_is_refused():
    with pytest.raises(UserError, match=r"topics with one label a row, an int; .* from files"):
        LabelSetTargets().named(column(kind="integer"))


# ---- Loss ----------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_binary_cross_entropy_of_rows_and_labels(model):
    spec = model_fn(documented_features(), LABELS, TRAIN, multi_label_params(), model)
    p = 1 / (1 + np.exp(-np.asarray(spec.predictions["logits"], np.float64)))
    expected = -np.mean(LABELS * np.log(p) + (1 - LABELS) * np.log(1 - p))
    assert float(spec.loss) == pytest.approx(expected, rel=1e-5)
    assert len(spec.trainable_variables) == len(model.weights)


def test_r_drop_adds_half_alpha_times_the_divergence_of_each_label():
    model = make_model(multi_label_params(r_drop_alpha=2.0, dropout_rate=0.1))
    z = np.array([[[0.3, -1.2, 2.0], [1.1, 0.4, -0.5]]])
    p = 1 / (1 + np.exp(-z))
    y = np.array([[1.0, 0.0, 1.0]])
    losses = -np.mean(y * np.log(p[0]) + (1 - y) * np.log(1 - p[0]))
    first, second = p[0]

    def divergence(p, q):
        return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))

    between = np.mean(divergence(first, second) + divergence(second, first)) / 2
    loss = model.build_total_loss({"logits": tf.constant(z, tf.float32)}, {"labels": y})
    assert float(loss) == pytest.approx(losses + 2.0 / 2 * between, rel=1e-6)


def test_one_adamw_step_ends_with_the_weights_of_transformers_and_torch(tmp_path):
    check_one_step(multi_label_params(), tmp_path / "checkpoint")


# ---- Answers -------------------------------------------------------------------------------------


def test_a_row_is_predicted_served_and_scored_with_the_thresholds_of_the_checkpoint(model):
    logits = np.array([[1.0, -2.0, 0.5], [-1.0, -1.0, -1.0]], np.float32)
    thresholds = [0.5, 0.1, 0.9]  # sigmoid(-2) = 0.12, sigmoid(0.5) = 0.62
    assert model.restore({"thresholds": thresholds}) == ["thresholds a 0.5000, b 0.1000, c 0.9000"]
    records = model.predictions({"logits": logits})
    assert [record["label"] for record in records] == ["a, b", "b"]
    assert model.shorten(records[0]) == ["a, b", "0.7311, 0.1192"]
    served = model.export_outputs({"logits": tf.constant(logits)})
    assert served["predicted"].numpy().tolist() == [[True, True, False], [False, True, False]]
    assert served["label_names"].numpy()[1].tolist() == [b"a", b"b", b"c"]
    np.testing.assert_allclose(served["probabilities"][0, 1], records[0]["p_b"], atol=1e-7)
    metrics = model.build_eval_metric_ops()
    metrics.update({"logits": logits}, {"labels": np.array([[1, 1, 0], [0, 1, 0]])}, np.arange(2))
    assert metrics.compute()["eval/exact_match"] == 1.0
    config = model.checkpoint_config()
    assert config == {"task": "multi_label", "label_names": NAMES, "thresholds": thresholds}

    assert model.restore({}) == [] and "thresholds" not in model.checkpoint_config()
    assert [record["label"] for record in model.predictions({"logits": logits})] == ["a, c", ""]
    assert model.shorten(model.predictions({"logits": logits})[1]) == ["-", "-"]


def test_thresholds_of_other_labels_are_refused(model):
    with pytest.raises(UserError, match="2 thresholds for 3 labels"):
        model.restore({"thresholds": [0.5, 0.4]})
