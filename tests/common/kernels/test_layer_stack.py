# SPDX-License-Identifier: Apache-2.0
"""A LayerStack computes what its layers compute one after the other."""

import numpy as np
import pytest
import tensorflow as tf

from common.kernels.layer_stack import LayerStack
from common.kernels.needed_tokens import ALL_TOKENS, FIRST_TOKEN
from model import make_model
from tests.reference.tiny_bert import HIDDEN_SIZE, random_features, randomize, tiny_params


def values_and_gradients(encoder, x, mask, around):
    weights = [weight.value for weight in encoder.trainable_weights]
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = encoder(x, mask, around=around, training=True)[:, :1]
        loss = tf.reduce_sum(y**3)  # after a layer norm the gradient of y**2 would vanish
    return [y, *tape.gradient(loss, [x, *weights])]


@pytest.mark.parametrize(
    ("num_streams", "recompute", "first_token_only"),
    [(1, True, False), (2, False, True), (3, False, False)],
)
def test_a_stack_gives_the_values_and_gradients_of_the_plain_layers(
    num_streams, recompute, first_token_only
):
    rate = 0.0 if first_token_only else 0.3  # a mask depends on how many tokens there are
    model = make_model(tiny_params(dropout_rate=rate))
    randomize(model)
    stack = LayerStack(model.clock, num_streams, recompute)
    mask = random_features(batch=7, tokens=9)["padding_mask"]
    x = tf.constant(np.random.default_rng(0).normal(size=(*mask.shape, HIDDEN_SIZE)), "float32")

    def around(layers, x, mask):
        return stack.around(
            layers, x, mask, needed=FIRST_TOKEN if first_token_only else ALL_TOKENS, training=True
        )

    actual = values_and_gradients(model.encoder, x, mask, around)
    expected = values_and_gradients(model.encoder, x, mask, None)
    for one, other in zip(actual, expected, strict=True):
        # float32: sums over each stream, then over the streams, are rounded in another order.
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * max(1, np.abs(other).max()))
