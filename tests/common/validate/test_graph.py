# SPDX-License-Identifier: Apache-2.0
"""Traced programs against arithmetic by hand."""

import pytest
import tensorflow as tf

from common.optimizers.factory import optimizer_of
from common.validate.graph import Program, trace_predict_step, trace_train_step
from model import make_model, model_fn
from tests.reference.tiny_bert import (
    FILTER_SIZE,
    HIDDEN_SIZE,
    NUM_CLASSES,
    NUM_LAYERS,
    VOCAB_SIZE,
    tiny_params,
)

BATCH, TOKENS = 3, 7


def trace(params):
    """Returns the Programs of a training step and of an evaluation step."""
    with tf.Graph().as_default():
        model = make_model(params)
        optimizer = optimizer_of(model, params)
        train = trace_train_step(model_fn, params, model, optimizer, (BATCH, TOKENS))
        return train, trace_predict_step(model_fn, params, model, (BATCH, TOKENS))


def test_a_step_of_pre_training_computes_the_words_to_predict_alone():
    """2 words of each of 3 rows: 6 x E x V of the table for the logits, and twice for gradients."""
    params, (rows, predicted) = tiny_params(task="pretraining"), (BATCH, 2)
    with tf.Graph().as_default():
        model = make_model(params)
        optimizer, shape = optimizer_of(model, params), (BATCH, TOKENS)
        train = trace_train_step(model_fn, params, model, optimizer, shape, None, predicted)
        score = trace_predict_step(model_fn, params, model, shape, None, predicted, is_scored=True)
        predict = trace_predict_step(model_fn, params, model, shape, None, predicted)

    def of_vocabulary(program):
        products = [op for op in program.operations if op.type == "MatMul"]
        sizes = [sorted({*op.inputs[0].shape, *op.inputs[1].shape}) for op in products]
        return [size for size in sizes if VOCAB_SIZE in size]

    product = [rows * predicted, VOCAB_SIZE]
    assert rows * predicted == HIDDEN_SIZE  # so that the set of sizes has two
    bias = [1, rows * predicted, VOCAB_SIZE]
    assert sorted(of_vocabulary(train)) == sorted([product, product, product, bias])
    assert of_vocabulary(score) == of_vocabulary(predict) == [product]


@pytest.fixture(scope="module")
def programs():
    return trace(tiny_params())


def flops_by_hand():
    """Of the forward pass; the last layer computes its first token alone, from all of them."""
    b, t, d, f = BATCH, TOKENS, HIDDEN_SIZE, FILTER_SIZE

    def layer(queries):  # tokens whose output is computed
        projections = 2 * b * d * d * (2 * queries + 2 * t)  # query and output; key and value
        attention = 2 * (2 * b * queries * t * d)  # scores; their sum over the values
        return projections + attention + 2 * (2 * b * queries * d * f)

    head = 2 * b * d * d + 2 * b * d * NUM_CLASSES
    return (NUM_LAYERS - 1) * layer(t) + layer(1) + head


def test_the_operations_of_a_forward_pass_are_those_counted_by_hand(programs):
    assert programs[1].flops == flops_by_hand()


def test_a_training_step_takes_three_times_a_forward_pass(programs):
    # For y = xW the backward pass has two products of the same size: of dy with x and with W.
    assert programs[0].flops == 3 * flops_by_hand()


def test_recomputing_takes_a_forward_pass_more_and_less_memory(programs):
    params = tiny_params(recompute=True)
    recomputing, _ = trace(params)
    assert 3 * flops_by_hand() < recomputing.flops < 4 * flops_by_hand()
    assert recomputing.peak_bytes < programs[0].peak_bytes


def test_frozen_layers_take_no_backward_pass():
    frozen, _ = trace(tiny_params(freeze=["embeddings", "encoder"]))
    assert flops_by_hand() < frozen.flops < 1.5 * flops_by_hand()


def test_the_peak_is_what_lives_at_the_same_time():
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [1000])
        first = len(graph.get_operations())
        a = x + x  # 4,000 bytes, read again at the end
        b = tf.reshape(a * a, [10, 100])  # 4,000 more, and no more for the view
        c = tf.nn.relu(b)  # 4,000 more: a, b and c
        d = tf.nn.relu(c)  # and d, when b is gone
        _ = tf.reshape(d, [1000]) * a  # and this one, when c is gone
        program = Program((1, 1), tuple(graph.get_operations()[first:]), ())
    small = 4 * (2 + 1)  # the shapes of the two views
    assert 12_000 <= program.peak_bytes <= 12_000 + small


def test_every_operation_of_a_step_has_a_kernel_on_the_cpu(programs):
    for program in programs:
        assert not program.without_kernel("CPU")


def test_an_operation_without_a_kernel_is_named_with_its_type():
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.uint8, [2, 2])
        tf.linalg.matmul(x, x)
        program = Program((1, 1), tuple(graph.get_operations()), ())
    assert dict(program.without_kernel("CPU")) == {"MatMul (uint8)": 1}
