# SPDX-License-Identifier: Apache-2.0
"""Token ids -> the documented features: [CLS] A [SEP] (B [SEP]), mask, segments, in the graph."""

import tensorflow as tf


def assemble_features(tokenizer, ids, starts, counts, length):
    """Lays the tokens of each row between [CLS] and [SEP], and pads.

    B rows, K texts a row (1 or 2), T = length.

    Args:
        tokenizer: WordPieceTokenizer, for the ids of [CLS], [SEP] and [PAD].
        ids: <int32>[at least 1], token ids of many texts.
        starts, counts: <int32>[B, K], where in `ids` each text begins, and how much of it to take.
        length: <int32>[], at least the longest row with its special tokens.
    Returns:
        {"input_ids", "input_mask", "segment_ids"}: <int32>[B, T], input_mask 1 on padding.
    """
    texts_per_row = counts.shape[1]
    end = tf.reduce_sum(counts, axis=1, keepdims=True) + 1 + texts_per_row  # [B, 1]
    if texts_per_row == 1:  # a second text that is not there: no tokens and no [SEP]
        counts = tf.concat([counts, tf.zeros_like(counts)], axis=1)
        starts = tf.concat([starts, tf.zeros_like(starts)], axis=1)
    first, second = counts[:, :1], counts[:, 1:]  # [B, 1]
    position = tf.range(length)[None, :]  # [1, T]
    in_first = (position >= 1) & (position <= first)  # [B, T]
    in_second = (position >= first + 2) & (position < first + 2 + second)
    in_text = in_first | in_second
    source = tf.where(in_first, starts[:, :1] + position - 1, starts[:, 1:] + position - first - 2)
    token = tf.gather(ids, tf.where(in_text, source, 0))
    is_padding = position >= end
    special = tf.where(position == 0, tokenizer.cls_id, tokenizer.sep_id)
    special = tf.where(is_padding, tokenizer.pad_id, special)
    return {
        "input_ids": tf.where(in_text, token, special),
        "input_mask": tf.cast(is_padding, tf.int32),
        "segment_ids": tf.cast((position >= first + 2) & ~is_padding, tf.int32),
    }


class TextFeatures:
    """Texts -> features as one graph, for an exported model.

    What `token_cache`, `epoch_plan` and `batches` do between them for a data set.

    Args:
        tokenizer: WordPieceTokenizer.
        texts_per_row: int. K, 1 or 2.
        max_sequence_length: int. Longer rows are cut, see `epoch_plan.truncated_lengths`.
    Call:
        texts: <string>[B, K].
    Returns:
        {"input_ids", "input_mask", "segment_ids"}: <int32>[B, T], input_mask 1 on padding.
    """

    def __init__(self, tokenizer, texts_per_row, max_sequence_length):
        self.tokenizer = tokenizer
        self.texts_per_row = texts_per_row
        self.max_sequence_length = max_sequence_length

    def __call__(self, texts):
        tokens = self.tokenizer.tokenize(tf.reshape(texts, [-1]))  # [B * K, (tokens)]
        ids = tf.concat([tokens.flat_values, [self.tokenizer.pad_id]], axis=0)  # never empty
        starts = tf.reshape(tf.cast(tokens.row_starts(), tf.int32), [-1, self.texts_per_row])
        counts = tf.reshape(tf.cast(tokens.row_lengths(), tf.int32), [-1, self.texts_per_row])
        counts = self._truncated(counts)
        num_special = 1 + self.texts_per_row
        longest = tf.reduce_max(tf.reduce_sum(counts, axis=1))  # of no rows: the smallest int32
        length = tf.maximum(longest, 0) + num_special
        return assemble_features(self.tokenizer, ids, starts, counts, length)

    def _truncated(self, lengths):
        """`epoch_plan.truncated_lengths` of <int32>[B, K], in the graph."""
        room = self.max_sequence_length - 1 - self.texts_per_row
        if self.texts_per_row == 1:
            return tf.minimum(lengths, room)
        first, second = lengths[:, 0], lengths[:, 1]
        most_first = tf.maximum(room - second, (room + 1) // 2)
        most_second = tf.maximum(room - first, room // 2)
        return tf.stack([tf.minimum(first, most_first), tf.minimum(second, most_second)], axis=1)
