# SPDX-License-Identifier: Apache-2.0
"""The masks that stand in records, as the features and targets of a batch.

It is called as `masking.Masking` is, which draws masks of its own.
"""

import math
from dataclasses import dataclass

import tensorflow as tf

ROUNDING = 1e-6  # above that of a share in float64 times a length


@dataclass(frozen=True)
class FileMasks:
    """Puts the masks of rows where those rows lie in a batch.

    Shapes: R rows of T tokens; B short rows, which are the same R rows, or lie packed in them;
    P tokens to predict in each of the B, W in each of the R.

    Args:
        num_predictions: int, P.
        densest: float. No row has more tokens to predict than this share of its tokens.
    Call, on the CPU:
        features: of `input/features.py`, padded or packed, already masked.
        targets: with masked_lm_positions, from each row's first token, masked_lm_ids: <int32>[B, P]
            and masked_lm_weights <float32>[B, P], above 0 on tokens to predict, which come first.
        epoch: not looked at.
        rows: <int>[B], -1 for filler, which has none to predict.
    Returns:
        features with "masked_lm_positions" <int32>[R, W], ascending, 0 on filler; targets with
        masked_lm_ids and masked_lm_weights [R, W], and without the positions.
    """

    num_predictions: int
    densest: float

    def width(self, length, is_packed):
        """W for rows of `length` tokens: int. Every token to predict of a long row has a place."""
        if not is_packed:
            return self.num_predictions
        return max(self.num_predictions, math.floor(self.densest * length + ROUNDING))

    @tf.autograph.experimental.do_not_convert  # no control flow depends on a tensor
    def __call__(self, features, targets, epoch, rows):
        targets = dict(targets)
        positions = targets.pop("masked_lm_positions")
        ids, weights = targets["masked_lm_ids"], targets["masked_lm_weights"]
        is_masked = (weights > 0) & (rows >= 0)[:, None]
        starts = features.get("starts")
        if starts is None:
            filled = [tf.where(is_masked, each, 0) for each in (positions, ids)]
            filled.append(tf.where(is_masked, weights, 0.0))
        else:
            shape = tf.shape(features["input_ids"])
            length = tf.cast(shape[1], tf.float64)
            width = tf.cast(tf.math.floor(self.densest * length + ROUNDING), tf.int32)
            width = tf.maximum(self.num_predictions, width)
            # Both the rows and the positions in each ascend, so that the places do.
            place = tf.boolean_mask(starts[:, None] + positions, is_masked)
            row = place // shape[1]
            number = tf.range(tf.size(row)) - tf.cast(tf.searchsorted(row, row), tf.int32)
            target = tf.stack([row, number], axis=1)
            values = place % shape[1], *(tf.boolean_mask(x, is_masked) for x in (ids, weights))
            filled = [tf.scatter_nd(target, each, (shape[0], width)) for each in values]
        positions, targets["masked_lm_ids"], targets["masked_lm_weights"] = filled
        return {**features, "masked_lm_positions": positions}, targets
