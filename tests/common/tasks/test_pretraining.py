# SPDX-License-Identifier: Apache-2.0
"""The network of pre-training: outputs and losses against NumPy in float64, packed, in streams."""

import numpy as np
import pytest
from keras import ops

from common.BaseModel import EVAL, PREDICT, TRAIN
from model import make_model
from tests.reference.bert_numpy import BertNumpy
from tests.reference.tiny_bert import (
    HIDDEN_SIZE,
    NUM_HEADS,
    VOCAB_SIZE,
    pack_rows,
    random_features,
    randomize,
    tiny_params,
)

ROWS, TOKENS, P = 5, 11, 3


def make_task(num_streams=1, **model):
    params = tiny_params(task="pretraining", **model)
    task = make_model(params.with_runconfig(num_streams=num_streams))
    return task, randomize(task)


def random_batch(seed=0):
    """Features with positions to predict, and targets. Rows of 1 to 11 tokens, so that the first
    rows have fewer than P tokens."""
    generator = np.random.default_rng(seed)
    features = random_features(ROWS, TOKENS, seed)
    lengths = features["padding_mask"].sum(axis=1)
    positions, weights = np.zeros((ROWS, P), np.int32), np.zeros((ROWS, P), np.float32)
    for row, length in enumerate(lengths):
        chosen = np.sort(generator.permutation(length)[:P])
        positions[row, : len(chosen)] = chosen
        weights[row, : len(chosen)] = 1.0
    features["input_mask"] = 1 - features.pop("padding_mask")
    targets = {
        "masked_lm_ids": generator.integers(0, VOCAB_SIZE, (ROWS, P), dtype=np.int32),
        "masked_lm_weights": weights,
        "next_sentence_labels": generator.integers(0, 2, ROWS, dtype=np.int32),
    }
    return {**features, "masked_lm_positions": positions}, targets


def outputs_of(task, features, mode=EVAL):
    tensors = {name: ops.convert_to_tensor(values) for name, values in features.items()}
    return {name: np.asarray(each) for name, each in task.build_model(tensors, mode).items()}


@pytest.mark.parametrize("is_shared", [True, False])
def test_the_logits_are_those_of_the_paper_in_float64(is_shared):
    task, weights = make_task(share_embedding_weights=is_shared)
    features, _ = random_batch()
    outputs = outputs_of(task, features)
    bert = BertNumpy(
        weights | {"classifier/kernel": np.zeros((HIDDEN_SIZE, 1))}, 2, NUM_HEADS, "gelu_erf", 1e-12
    )
    expected = bert({**features, "padding_mask": 1 - features["input_mask"]})
    masked = np.take_along_axis(
        expected["sequence"], features["masked_lm_positions"][:, :, None], axis=1
    )
    hidden = bert.norm(bert.activation(bert.dense(masked, "mlm/transform")), "mlm/layer_norm")
    table = bert.weights["embeddings/word_embeddings" if is_shared else "mlm/output_embeddings"]
    logits = hidden @ table.T + bert.weights["mlm/output_bias"]
    np.testing.assert_allclose(outputs["mlm_logits"], logits, rtol=0, atol=2e-5)
    logits = bert.dense(expected["pooled"], "nsp")
    np.testing.assert_allclose(outputs["nsp_logits"], logits, rtol=0, atol=1e-5)


def losses_in_training(task, features, targets):
    """As floats: the total, of the next sentence, of masked words."""
    outputs = task.build_model({k: ops.convert_to_tensor(v) for k, v in features.items()}, TRAIN)
    return [float(loss) for loss in task.build_losses(outputs, targets)]


def softmax_losses(logits, ids):
    """-log softmax of the ids, float64."""
    logits = logits.astype(np.float64)
    log_sum = np.log(np.exp(logits).sum(axis=-1))
    return log_sum - np.take_along_axis(logits, ids[..., None], axis=-1)[..., 0]


@pytest.mark.parametrize(
    ("scaling", "divisor"),
    [("precomputed_num_masked", "masked"), ("num_masked", "masked"), ("batch_size", "rows")],
)
def test_losses_are_divided_by_what_the_scaling_says(scaling, divisor):
    task, _ = make_task(mlm_loss_scaling=scaling, mlm_loss_weight=0.5)
    features, targets = random_batch()
    total, next_sentence, masked = losses_in_training(task, features, targets)
    outputs = outputs_of(task, features)
    losses = softmax_losses(outputs["mlm_logits"], targets["masked_lm_ids"])
    weights = targets["masked_lm_weights"]
    count = weights.sum() if divisor == "masked" else ROWS
    assert masked == pytest.approx(0.5 * (losses * weights).sum() / count, rel=1e-5)
    expected = softmax_losses(outputs["nsp_logits"], targets["next_sentence_labels"]).mean()
    assert next_sentence == pytest.approx(expected, rel=1e-5)
    assert total == pytest.approx(masked + next_sentence, rel=1e-6)


def test_without_a_next_sentence_head_the_loss_is_that_of_masked_words_alone():
    task, weights = make_task(disable_nsp=True)
    assert not any(name.startswith(("nsp", "pooler")) for name in weights)
    features, targets = random_batch()
    del targets["next_sentence_labels"]
    assert "nsp_logits" not in outputs_of(task, features)
    total, masked = losses_in_training(task, features, targets)
    assert total == masked > 0 and "train/cost_cls" not in task.loss_figures


def test_a_batch_without_masked_words_has_no_loss_and_no_nan():
    task, _ = make_task(disable_nsp=True)
    features, targets = random_batch()
    targets["masked_lm_weights"][:] = 0.0
    assert losses_in_training(task, features, targets) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("disable_nsp", "pre_norm"), [(False, False), (False, True), (True, False)]
)
def test_packed_rows_have_the_logits_of_their_own_rows(disable_nsp, pre_norm):
    task, _ = make_task(disable_nsp=disable_nsp, use_pre_normalization=pre_norm)
    features, _ = random_batch()
    expected = outputs_of(task, features)
    positions = features.pop("masked_lm_positions")
    mask = 1 - features.pop("input_mask")
    packed, order = pack_rows({**features, "padding_mask": mask}, num_long_rows=2, room=23)
    packed["input_mask"] = 1 - packed.pop("padding_mask")
    places = [
        (start, row, n)
        for start, row in zip(packed["starts"], order, strict=True)
        for n in range(min(P, int(mask[row].sum())))
    ]
    long_positions, source = np.zeros((2, 3 * P), np.int32), {}
    for long_row in range(2):
        here = [each for each in places if each[0] // 23 == long_row]
        for slot, (start, row, n) in enumerate(here):
            long_positions[long_row, slot] = start % 23 + positions[row, n]
            source[long_row, slot] = row, n
    packed["masked_lm_positions"] = long_positions
    outputs = outputs_of(task, packed)
    for place, of_row in source.items():
        np.testing.assert_allclose(
            outputs["mlm_logits"][place], expected["mlm_logits"][of_row], rtol=0, atol=2e-5
        )
    if not disable_nsp:
        np.testing.assert_allclose(
            outputs["nsp_logits"], expected["nsp_logits"][order], rtol=0, atol=1e-5
        )


def gradients_of(task, features, targets):
    """Returns {neutral name: array}, of every weight that is trained."""
    import tensorflow as tf

    tensors = {name: tf.constant(values) for name, values in features.items()}
    trained = {id(weight) for weight in task.trainable_weights}
    names = task.weights_by_name().items()
    weights = {name: each.value for name, each in names if id(each) in trained}
    with tf.GradientTape() as tape:
        loss = task.build_total_loss(task.build_model(tensors, TRAIN), targets)
    gradients = tape.gradient(loss, weights)
    return {name: tf.convert_to_tensor(each).numpy() for name, each in gradients.items()}


@pytest.mark.parametrize("recompute", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_streams_and_recomputing_change_no_gradient(recompute):
    features, targets = random_batch()
    expected = gradients_of(make_task()[0], features, targets)
    actual = gradients_of(make_task(2, recompute=recompute)[0], features, targets)
    assert actual.keys() == expected.keys()
    for name, each in expected.items():
        scale = max(1.0, np.abs(each).max())  # float32: sums in another order
        np.testing.assert_allclose(actual[name], each, rtol=0, atol=1e-5 * scale, err_msg=name)


@pytest.mark.parametrize("is_shared", [True, False])
def test_frozen_embeddings_leave_every_other_gradient_as_it_was(is_shared):
    features, targets = random_batch()
    task, _ = make_task(share_embedding_weights=is_shared)
    expected = gradients_of(task, features, targets)
    task, _ = make_task(share_embedding_weights=is_shared, freeze=["embeddings"])
    actual = gradients_of(task, features, targets)
    left_out = {name for name in expected if name.startswith("embeddings/")}
    assert left_out and actual.keys() == expected.keys() - left_out
    for name, each in actual.items():
        scale = max(1.0, np.abs(each).max())  # float32: sums in another order
        np.testing.assert_allclose(each, expected[name], rtol=0, atol=1e-6 * scale, err_msg=name)


def test_filler_positions_have_no_gradient():
    """Whatever their ids are: a filler reads position 0, whose word is not to be learned."""
    features, targets = random_batch()
    task, _ = make_task()
    before = gradients_of(task, features, targets)
    is_filler = targets["masked_lm_weights"] == 0
    targets["masked_lm_ids"] = np.where(is_filler, 1, targets["masked_lm_ids"]).astype(np.int32)
    after = gradients_of(task, features, targets)
    for name, each in before.items():
        np.testing.assert_array_equal(after[name], each)


def test_predictions_are_the_likeliest_words_with_their_probabilities():
    task, _ = make_task()
    features, _ = random_batch()
    logits = outputs_of(task, features)["mlm_logits"].astype(np.float64)
    outputs = outputs_of(task, features, PREDICT)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    best = np.argsort(-logits, axis=-1)[..., :5]
    np.testing.assert_array_equal(outputs["token_ids"], best)
    expected = np.take_along_axis(probabilities, best, axis=-1)
    np.testing.assert_allclose(outputs["probabilities"], expected, rtol=1e-5)


def test_rows_that_only_fill_up_the_table_are_no_words_of_a_prediction():
    task, _ = make_task()
    task.vocab = ("[PAD]", "one", "two")  # the table has more rows
    outputs = {
        "positions": np.array([[1, 3]]),
        "token_ids": np.array([[[7, 2, 1], [1, 3, 2]]]),
        "probabilities": np.array([[[0.5, 0.25, 0.125], [0.5, 0.25, 0.125]]]),
    }
    (record,) = task.predictions(outputs)
    assert record == {"mask_1": "two:0.2500 one:0.1250", "mask_2": "one:0.5000 two:0.1250"}


def test_factorised_embeddings_are_predicted_through_a_projection():
    task, weights = make_task(embedding_size=4)
    assert weights["mlm/projection/kernel"].shape == (HIDDEN_SIZE, 4)
    assert weights["mlm/transform/kernel"].shape == (4, 4)
    features, _ = random_batch()
    assert outputs_of(task, features)["mlm_logits"].shape == (ROWS, P, VOCAB_SIZE)
