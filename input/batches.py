# SPDX-License-Identifier: Apache-2.0
"""Tokens and an epoch plan -> batches of the documented features, assembled in the graph."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from input.epoch_plan import truncated_lengths


@dataclass(frozen=True)
class Batches:
    """What an input function returns: iterate it for batches.

    Attributes:
        dataset: tf.data.Dataset of (features, labels) in training and of (features, labels,
            weights) elsewhere. features: {"input_ids", "input_mask", "segment_ids"}:
            <int32>[B, T], input_mask 1 on padding; labels: <int32>[B]; weights: <float32>[B],
            0 on rows that only fill up the last batch. T is one of a few static lengths.
        rows: int32 [steps, B]: which row of the split stands where; -1 for filling.
        lengths: int32 [steps]: T of each batch.
        labels: int32 [N] of the split, in its own order.
        num_tokens: int [N]: tokens of each row with its special tokens.
    """

    dataset: tf.data.Dataset
    rows: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    num_tokens: np.ndarray

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


def row_lengths(tokens, max_sequence_length):
    """Returns tokens of each row after truncation, with [CLS] and [SEP]: int [N]."""
    cut = truncated_lengths(tokens.lengths, max_sequence_length)
    return cut.sum(axis=1) + 1 + tokens.texts_per_row


def make_batches(tokens, tokenizer, rows, lengths, max_sequence_length, with_weights):
    """Assembles the batches that a plan lists.

    Args:
        tokens: Tokens of the split.
        tokenizer: WordPieceTokenizer, for the ids of [CLS], [SEP] and [PAD].
        rows, lengths: int32 [steps, B] and [steps], of EpochPlan.
        max_sequence_length: int. Longer rows are cut, see truncated_lengths.
        with_weights: bool. True outside training.
    Returns:
        Batches.
    """
    num_tokens = row_lengths(tokens, max_sequence_length)
    cut = truncated_lengths(tokens.lengths, max_sequence_length)
    starts = tokens.offsets[:-1].reshape(cut.shape)
    if tokens.texts_per_row == 1:  # a second text that is not there: no tokens and no [SEP]
        cut = np.concatenate([cut, np.zeros_like(cut)], axis=1)
        starts = np.concatenate([starts, np.zeros_like(starts)], axis=1)
    ids = tf.constant(tokens.ids if len(tokens.ids) else np.zeros(1, np.int32))
    starts, cut = tf.constant(starts, tf.int32), tf.constant(cut, tf.int32)
    all_labels = tf.constant(tokens.labels)
    ends = tf.constant(num_tokens, tf.int32)  # position after the last [SEP]
    batch_size = rows.shape[1]

    def assemble(batch_rows, length):
        is_real = batch_rows >= 0
        batch_rows = tf.maximum(batch_rows, 0)  # filling repeats row 0, with weight 0
        start, text = tf.gather(starts, batch_rows), tf.gather(cut, batch_rows)  # [B, 2]
        end = tf.gather(ends, batch_rows)[:, None]  # [B, 1]
        first, second = text[:, :1], text[:, 1:]  # [B, 1]
        position = tf.range(length)[None, :]  # [1, T]

        in_first = (position >= 1) & (position <= first)
        in_second = (position >= first + 2) & (position < first + 2 + second)
        source = tf.where(in_first, start[:, :1] + position - 1, start[:, 1:] + position - first - 2)
        token = tf.gather(ids, tf.where(in_first | in_second, source, 0))  # [B, T]
        is_padding = position >= end
        special = tf.where(position == 0, tokenizer.cls_id, tokenizer.sep_id)
        special = tf.where(is_padding, tokenizer.pad_id, special)
        features = {
            "input_ids": tf.where(in_first | in_second, token, special),
            "input_mask": tf.cast(is_padding, tf.int32),
            "segment_ids": tf.cast((position >= first + 2) & ~is_padding, tf.int32),
        }
        labels = tf.gather(all_labels, batch_rows)
        for tensor in (*features.values(), labels):
            tensor.set_shape((batch_size, *tensor.shape[1:]))
        if with_weights:
            return features, labels, tf.cast(is_real, tf.float32)
        return features, labels

    dataset = tf.data.Dataset.from_tensor_slices((rows, lengths))
    dataset = dataset.map(assemble, num_parallel_calls=1).prefetch(tf.data.AUTOTUNE)
    return Batches(dataset, rows, lengths, tokens.labels, num_tokens)
