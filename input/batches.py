# SPDX-License-Identifier: Apache-2.0
"""Tokens and an epoch plan -> batches of the documented features, assembled in the graph."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from input.epoch_plan import truncated_lengths
from input.features import STANDARD_LAYOUT, assemble_features


@dataclass(frozen=True)
class Batches:
    """What an input function returns: iterate it for batches.

    Attributes:
        dataset: tf.data.Dataset of (features, labels) in training and of (features, labels,
            weights) elsewhere. features: {"input_ids", "input_mask", "segment_ids"}:
            <int32>[B, T], input_mask 1 on padding; labels: <int32>[B], or <float32>[B] of a
            regression; weights: <float32>[B], 0 on rows that only fill up the last batch. T is one
            of a few static lengths.
        rows: int32 [steps, B]: which row of the split stands where; -1 for filling.
        lengths: int32 [steps]: T of each batch.
        labels: int32 [N], or float32 [N], of the split, in its own order.
        num_tokens: int [N]: tokens of each row with its special tokens.
        num_truncated: int. Rows that were longer than max_sequence_length, and have been cut.
    """

    dataset: tf.data.Dataset
    rows: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    num_tokens: np.ndarray
    num_truncated: int

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        return iter(self.dataset)

    def in_row_order(self, values):
        """Puts per-batch values back in the order of the split.

        values: array [steps, B, ...]. Returns array [N, ...]; rows that were not in any batch (a
        limit on the steps) are left out.
        """
        values = values.reshape(-1, *values.shape[2:])
        rows = self.rows[: len(values) // self.rows.shape[1]].reshape(-1)
        real = rows >= 0
        return values[real][np.argsort(rows[real], kind="stable")]

    def row_numbers(self, num_steps):
        """Returns which rows `in_row_order` gives for the first num_steps batches: int [<= N]."""
        rows = self.rows[:num_steps].reshape(-1)
        return np.sort(rows[rows >= 0])


def row_lengths(tokens, max_sequence_length, layout=STANDARD_LAYOUT):
    """Returns tokens of each row after truncation, with its special tokens: int [N], above 0."""
    return _cut(tokens, max_sequence_length, layout)[1]


def make_batches(
    tokens,
    tokenizer,
    rows,
    lengths,
    max_sequence_length,
    with_weights,
    layout=STANDARD_LAYOUT,
):
    """Assembles the batches that a plan lists.

    Args:
        tokens: Tokens of the split.
        tokenizer: WordPieceTokenizer, for the ids of [CLS], [SEP] and [PAD].
        rows, lengths: int32 [steps, B] and [steps], of EpochPlan.
        max_sequence_length: int. Longer rows are cut, see truncated_lengths.
        with_weights: bool. True outside training.
        layout: Layout.
    Returns:
        Batches.
    """
    cut, num_tokens = _cut(tokens, max_sequence_length, layout)
    with tf.device("/cpu:0"):  # where the input runs, whichever device the network is on
        assemble = _make_assemble(tokens, tokenizer, cut, rows.shape[1], with_weights, layout)
        dataset = tf.data.Dataset.from_tensor_slices((rows, lengths))
        dataset = dataset.map(assemble).prefetch(tf.data.AUTOTUNE)
    num_truncated = int((cut < tokens.lengths).any(axis=1).sum())
    return Batches(dataset, rows, lengths, tokens.labels, num_tokens, num_truncated)


def _cut(tokens, max_sequence_length, layout):
    """Returns tokens of each text after truncation, int [N, K], and of each row, int [N].

    A row without any token, where no special tokens are added, is one token of padding.
    """
    num_special = layout.num_special_tokens(tokens.texts_per_row)
    cut = truncated_lengths(tokens.lengths, max_sequence_length - num_special)
    return cut, np.maximum(cut.sum(axis=1) + num_special, 1)


def _make_assemble(tokens, tokenizer, cut, batch_size, with_weights, layout):
    """Returns the function of one batch's rows <int32>[B] and length <int32>[] to its features."""
    starts = tf.constant(tokens.offsets[:-1].reshape(cut.shape), tf.int32)
    cut = tf.constant(cut, tf.int32)
    ids = tf.constant(tokens.ids if len(tokens.ids) else np.zeros(1, np.int32))
    all_labels = tf.constant(tokens.labels)

    def assemble(batch_rows, length):
        is_real = batch_rows >= 0
        batch_rows = tf.maximum(batch_rows, 0)  # filling repeats row 0, with weight 0
        start, count = tf.gather(starts, batch_rows), tf.gather(cut, batch_rows)  # [B, K]
        features = assemble_features(tokenizer, ids, start, count, length, layout)
        labels = tf.gather(all_labels, batch_rows)
        for tensor in (*features.values(), labels):
            tensor.set_shape((batch_size, *tensor.shape[1:]))
        if with_weights:
            return features, labels, tf.cast(is_real, tf.float32)
        return features, labels

    return assemble
