# SPDX-License-Identifier: Apache-2.0
"""Attention between the queries, keys and values of the heads."""

import keras
from keras import ops

from common.kernels.attention import is_long, make_attention, softmax
from common.kernels.fusion import is_compiled

# Added to the scores of padding before the softmax: its exponential is zero in every dtype that the
# softmax runs in, and it is finite, so a row of nothing but padding gives no NaN.
MASKED_SCORE = -1e9


def dot_product_attention(query, key, value, attention_mask, dropout, training=False):
    """dropout(softmax(query keyᵀ + mask)) value, of every head by itself: <float>[B, H, T, d].

    Vaswani et al. 2017, section 3.2.1; `query` is already scaled. Shapes: B batch, H heads,
    T query tokens, S key tokens, d = D / H.

    Args:
        query: <float>[B, H, T, d]. key, value: <float>[B, H, S, d].
        attention_mask: <int32>[B, S], 1 on real tokens; or [B, T, S].
        dropout: Dropout, of the probabilities.
    """
    masked = MASKED_SCORE * (1.0 - ops.cast(attention_mask, "float32"))
    if len(masked.shape) == 2:
        masked = ops.expand_dims(masked, 1)  # the same for every query token
    # And for every head: [B, 1, T or 1, S]. LiteRT lacks the operation that `masked[:, None]` is.
    masked = ops.expand_dims(masked, 1)
    if keras.backend.backend() == "tensorflow" and (training or is_long(query, key)):
        place = dropout.place_of((*query.shape[:-1], key.shape[2])) if training else ()
        return make_attention(dropout.rate)(query, key, value, masked, *place)
    scores = ops.matmul(query, ops.swapaxes(key, -1, -2))  # [B, H, T, S]
    probabilities = softmax(scores, masked, is_compiled(query))
    return ops.matmul(dropout(probabilities, training=training), value)
