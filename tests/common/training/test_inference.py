# SPDX-License-Identifier: Apache-2.0
"""Inference sees every row exactly once, and gives outputs in the order of the split."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from common.BaseModel import PREDICT
from common.export.engine import Engine
from common.metrics.row_metrics import RowMetrics
from common.reports.listener import Listener
from common.training.inference import Inference
from common.training.session import Session
from model import make_model, model_fn
from tests.reference.tiny_bert import randomize, tiny_params
from tests.reference.toy_rows import rows_of, toy_eval_batches, toy_tokens


def make_inference(params=None, model_fn=model_fn, model=None, listeners=None):
    params = params or tiny_params()
    session = Session(params, make_model, model_fn, data=None)
    return Inference(session, model or session.new_model(), listeners)


class Rows(RowMetrics):
    """Keeps which rows there were, too."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def update(self, outputs, targets, rows):
        super().update(outputs, targets, rows)
        self.rows += rows[rows >= 0].tolist()


def collect(inference, batches, engine=None):
    """Returns the logits [N, C] in row order, and which rows they are."""
    splits = {"split": batches}
    collected = inference.collect(splits, Rows, "eval", engine)["split"]
    return collected.outputs["logits"], sorted(collected.rows)


def fingerprints(features):
    """In the place of a network: two numbers that tell a row whatever it is padded to."""
    real = 1 - features["input_mask"]  # [B, T], 1 on real tokens
    ids = features["input_ids"] * real
    places = tf.range(1, ids.shape[1] + 1)
    numbers = tf.stack([tf.reduce_sum(ids * places, 1), tf.reduce_sum(real, 1)], 1)
    return {"logits": tf.cast(numbers, tf.float32)}


class Fingerprints(Engine):
    def run(self, features):
        return {name: each.numpy() for name, each in fingerprints(features).items()}


def expected_fingerprints(tokens):
    return [
        [sum(place * token for place, token in enumerate(row, start=1)), len(row)]
        for row in rows_of(tokens)
    ]


INFERENCE = make_inference()


@settings(max_examples=12, deadline=None)
@given(num_rows=st.integers(1, 17), batch_size=st.integers(1, 19), num_buckets=st.integers(1, 4))
def test_every_row_is_scored_once_and_in_order_for_any_batch_size(
    num_rows, batch_size, num_buckets
):
    tokens = toy_tokens(num_rows)
    batches = toy_eval_batches(tokens, batch_size, num_buckets)
    assert sum(int(tf.reduce_sum(weights)) for _, _, weights in batches) == num_rows
    logits, rows = collect(INFERENCE, batches, Fingerprints("nowhere"))
    assert rows == list(range(num_rows))
    np.testing.assert_array_equal(logits, expected_fingerprints(tokens))


def test_every_batch_is_told_under_its_description():
    told = []

    class Telling(Listener):
        def on_batch(self, description, done, total):
            told.append((description, done, total))

    batches = {"validation": toy_eval_batches(toy_tokens(7), 3)}
    inference = make_inference(listeners=Telling())
    inference.collect(batches, RowMetrics, "eval", Fingerprints("nowhere"))
    assert told == [("eval validation", n, 3) for n in range(4)]


def test_logits_of_a_row_do_not_depend_on_the_batch_it_is_in():
    keras.utils.set_random_seed(1)
    params = tiny_params(num_classes=2, num_hidden_layers=1, dropout_rate=0.5)
    model = make_model(params)
    randomize(model)
    tokens = toy_tokens(7)
    batches = toy_eval_batches(tokens, 3, num_buckets=2)
    actual, _ = collect(make_inference(params, model=model), batches)
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
    expected, rows = collect(make_inference(params, model=model), batches)
    in_streams = params.with_runconfig(num_streams=3)  # programs are made by the threads
    actual, same_rows = collect(make_inference(in_streams, model=model), batches)
    assert rows == same_rows == list(range(17))
    np.testing.assert_array_equal(actual, expected)


def test_a_step_computes_with_the_weights_of_its_moment_and_rounds_no_kernel_itself():
    params = tiny_params(num_hidden_layers=2, mixed_precision="mixed_bfloat16")
    model = make_model(params)
    inference = make_inference(params, model=model)
    ((features, *_), *_) = toy_eval_batches(toy_tokens(3), 3).dataset

    @tf.function
    def rounding_itself():
        return model_fn(features, None, PREDICT, params, model).predictions["logits"]

    randomize(model)
    results = []
    for _ in range(2):
        for weight in model.weights_by_name().values():
            weight.assign(1.5 * weight)
        results.append(inference.step()(features)["logits"].numpy())
        np.testing.assert_array_equal(results[-1], rounding_itself().numpy())
    assert not np.array_equal(*results)
    concrete = tf.function(inference.outputs_of).get_concrete_function(
        features, inference.kernels()
    )
    read = {id(variable) for variable in concrete.graph.variables}
    kernels = [each.kernel for each in model.all_dense()]
    assert len(kernels) == 12 and not read & {id(kernel.value) for kernel in kernels}


def test_prediction_takes_no_labels():
    asked = []

    def noting_model_fn(features, labels, mode, params, model):
        asked.append((labels, mode, params, model))
        return type("Spec", (), {"predictions": fingerprints(features)})

    params = tiny_params()
    model = make_model(params)
    inference = make_inference(params, noting_model_fn, model)
    collect(inference, toy_eval_batches(toy_tokens(5), 2))
    assert asked == [(None, "predict", params, model)]  # traced once


@pytest.mark.parametrize("num_rows", [4, 5])
def test_the_last_batch_is_filled_up_only_where_it_is_short(num_rows):
    weights = [w.numpy().tolist() for _, _, w in toy_eval_batches(toy_tokens(num_rows), 2)]
    assert weights == [[1, 1], [1, 1]] + ([[1, 0]] if num_rows == 5 else [])
