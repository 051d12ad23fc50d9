# SPDX-License-Identifier: Apache-2.0
"""The loss over a vocabulary and its gradients, against NumPy in float64."""

import numpy as np
import pytest
import tensorflow as tf

from common.kernels.vocabulary import SharedTable, word_losses

N, E, V = 7, 5, 23


def arrays():
    generator = np.random.default_rng(0)
    return {
        "x": generator.normal(size=(N, E)),
        "table": generator.normal(size=(V, E)),
        "bias": generator.normal(size=V),
        "upstream": generator.normal(size=N),
        "ids": generator.integers(0, V, N).astype(np.int32),
    }


def expected(x, table, bias, upstream, ids):
    """Losses, and the gradients of sum(upstream * losses) by x, table and bias."""
    logits = x @ table.T + bias
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    of_logits = upstream[:, None] * (probabilities - np.eye(V)[ids])
    losses = -np.log(probabilities[np.arange(N), ids])
    return losses, of_logits @ table, of_logits.T @ x, of_logits.sum(axis=0)


@pytest.mark.parametrize(
    ("dtype", "num_parts", "atol"),
    # bfloat16 has 8 bits, and the values are up to 10.
    [("float32", 1, 1e-5), ("float32", 3, 1e-5), ("bfloat16", 2, 0.15), ("float16", 2, 0.02)],
)
def test_losses_and_gradients_are_those_of_float64(dtype, num_parts, atol):
    given = arrays()
    values = expected(**given)

    @tf.function(autograph=False)
    def compute(x, table, bias, upstream, ids):
        x = tf.cast(x, dtype)
        with tf.GradientTape() as tape:
            tape.watch((x, table, bias))
            losses = word_losses(x, table, bias, ids, num_parts)
            total = tf.reduce_sum(upstream * losses)
        return losses, *tape.gradient(total, (x, table, bias))

    tensors = {
        name: tf.constant(each, tf.int32 if name == "ids" else tf.float32)
        for name, each in given.items()
    }
    for actual, wanted in zip(compute(**tensors), values, strict=True):
        np.testing.assert_allclose(tf.cast(actual, tf.float32), wanted, rtol=0, atol=atol)


def test_without_a_bias():
    given = arrays() | {"bias": np.zeros(V)}
    x, table = (tf.constant(given[name], tf.float32) for name in ("x", "table"))
    losses = word_losses(x, table, None, tf.constant(given["ids"]))
    np.testing.assert_allclose(losses, expected(**given)[0], rtol=0, atol=1e-5)


def test_a_word_that_is_next_to_impossible_has_a_finite_loss():
    """In bfloat16 its probability is 0, where XLA does not keep float32: the loss is 200 then."""
    x, table = tf.constant([[200.0]], tf.bfloat16), tf.constant([[1.0], [0.0]])
    (loss,) = word_losses(x, table, None, tf.constant([1])).numpy()
    assert loss in (pytest.approx(126 * np.log(2.0)), pytest.approx(200.0))


def test_a_shared_table_has_the_gradients_of_both_uses():
    """A word that is looked up several times counts as often."""
    generator = np.random.default_rng(1)
    table = tf.Variable(generator.normal(size=(V, E)), dtype=tf.float32)
    ids = np.array([[3, 5, 3], [3, 22, 0]], np.int32)
    of_rows, of_table = generator.normal(size=(2, 3, E)), generator.normal(size=(V, E))
    with tf.GradientTape() as tape:
        shared = SharedTable(table)
        rows = shared.look_up(tf.constant(ids))
        total = tf.reduce_sum(rows * of_rows) + tf.reduce_sum(shared.predicting * of_table)
    np.testing.assert_array_equal(rows, table.numpy()[ids])
    wanted = of_table.copy()
    np.add.at(wanted, ids, of_rows)
    np.testing.assert_allclose(tape.gradient(total, table), wanted, rtol=0, atol=1e-5)
