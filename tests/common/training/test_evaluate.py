# SPDX-License-Identifier: Apache-2.0
"""Evaluation and prediction see every row exactly once, in the order of the split."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from common.BaseModel import PREDICT
from common.training.evaluate import Predictor, collect_logits
from model import make_model, model_fn
from tests.reference.tiny_bert import randomize, tiny_params
from tests.reference.toy_rows import rows_of, toy_eval_batches, toy_tokens


def fingerprints(features):
    """In the place of a network: two numbers that tell a row whatever it is padded to."""
    real = 1 - features["input_mask"]  # [B, T], 1 on real tokens
    ids = features["input_ids"] * real
    places = tf.range(1, ids.shape[1] + 1)
    return tf.cast(
        tf.stack([tf.reduce_sum(ids * places, 1), tf.reduce_sum(real, 1)], 1), tf.float32
    )


def expected_fingerprints(tokens):
    return [
        [sum(place * token for place, token in enumerate(row, start=1)), len(row)]
        for row in rows_of(tokens)
    ]


@settings(max_examples=12, deadline=None)
@given(num_rows=st.integers(1, 17), batch_size=st.integers(1, 19), num_buckets=st.integers(1, 4))
def test_every_row_is_scored_once_and_in_order_for_any_batch_size(
    num_rows, batch_size, num_buckets
):
    tokens = toy_tokens(num_rows)
    batches = toy_eval_batches(tokens, batch_size, num_buckets)
    assert sum(int(tf.reduce_sum(weights)) for _, _, weights in batches) == num_rows
    logits, rows = collect_logits(fingerprints, batches)
    assert rows.tolist() == list(range(num_rows))
    np.testing.assert_array_equal(logits, expected_fingerprints(tokens))


def test_a_limit_of_batches_scores_their_rows_and_says_which():
    tokens = toy_tokens(17)
    batches = toy_eval_batches(tokens, 5, num_buckets=2)
    logits, rows = collect_logits(fingerprints, batches, max_batches=2)
    assert len(rows) == 10 and set(rows) == set(batches.rows[:2].ravel())
    np.testing.assert_array_equal(logits, np.array(expected_fingerprints(tokens))[rows])
    logits, rows = collect_logits(fingerprints, batches, max_batches=99)
    assert len(rows) == len(logits) == 17


def test_progress_counts_batches_under_its_description(capsys):
    collect_logits(fingerprints, toy_eval_batches(toy_tokens(7), 3), description="eval validation")
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("eval validation batch 3/3")


def test_logits_of_a_row_do_not_depend_on_the_batch_it_is_in():
    keras.utils.set_random_seed(1)
    params = tiny_params(num_classes=2, num_hidden_layers=1, dropout_rate=0.5)
    model = make_model(params)
    randomize(model)
    tokens = toy_tokens(7)
    batches = toy_eval_batches(tokens, 3, num_buckets=2)
    actual, _ = collect_logits(Predictor(model_fn, params, model).step(), batches)
    for row, ids in enumerate(rows_of(tokens)):
        features = {
            "input_ids": np.array([ids]),
            "padding_mask": np.ones((1, len(ids)), int),
            "segment_ids": np.zeros((1, len(ids)), int),
        }
        # Alone, unpadded and without dropout; float32 on both sides, values near 1.
        np.testing.assert_allclose(actual[row], model(features)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_batches_computed_at_a_time_have_the_logits_of_one_after_the_other(policy):
    params = tiny_params(num_hidden_layers=1, mixed_precision=policy)
    model = make_model(params)
    randomize(model)
    batches = toy_eval_batches(toy_tokens(17), 3, num_buckets=2)
    expected, rows = collect_logits(Predictor(model_fn, params, model).step(), batches)
    step = Predictor(model_fn, params, model).step()  # programs are made by the threads
    actual, same_rows = collect_logits(step, batches, num_streams=3)
    assert rows.tolist() == same_rows.tolist() == list(range(17))
    np.testing.assert_array_equal(actual, expected)


def test_a_step_computes_with_the_weights_of_its_moment_and_rounds_no_kernel_itself():
    params = tiny_params(num_hidden_layers=2, mixed_precision="mixed_bfloat16")
    model = make_model(params)
    predictor = Predictor(model_fn, params, model)
    ((features, *_), *_) = toy_eval_batches(toy_tokens(3), 3).dataset

    @tf.function
    def rounding_itself():
        return model_fn(features, None, PREDICT, params, model).predictions["logits"]

    randomize(model)
    results = []
    for _ in range(2):
        for weight in model.weights_by_name().values():
            weight.assign(1.5 * weight)
        results.append(predictor.step()(features).numpy())
        np.testing.assert_array_equal(results[-1], rounding_itself().numpy())
    assert not np.array_equal(*results)
    concrete = tf.function(predictor.logits_of).get_concrete_function(features, predictor.kernels())
    read = {id(variable) for variable in concrete.graph.variables}
    kernels = [each.kernel for each in model.all_dense()]
    assert len(kernels) == 12 and not read & {id(kernel.value) for kernel in kernels}


def test_prediction_takes_no_labels():
    asked = []

    def noting_model_fn(features, labels, mode, params, model):
        asked.append((labels, mode, params, model))
        return type("Spec", (), {"predictions": {"logits": fingerprints(features)}})

    model = make_model(tiny_params())
    step = Predictor(noting_model_fn, "params", model).step()
    collect_logits(step, toy_eval_batches(toy_tokens(5), 2))
    assert asked == [(None, "predict", "params", model)]  # traced once


@pytest.mark.parametrize("num_rows", [4, 5])
def test_the_last_batch_is_filled_up_only_where_it_is_short(num_rows):
    weights = [w.numpy().tolist() for _, _, w in toy_eval_batches(toy_tokens(num_rows), 2)]
    assert weights == [[1, 1], [1, 1]] + ([[1, 0]] if num_rows == 5 else [])
