# SPDX-License-Identifier: Apache-2.0
"""Token ids -> the documented features: [CLS] A [SEP] (B [SEP]), mask, segments, in the graph."""

from dataclasses import dataclass

import tensorflow as tf

from input.epoch_plan import truncated_lengths


@dataclass(frozen=True)
class Layout:
    """How the tokens of a row become features; the keys of the same names in InputParams.

    Attributes:
        add_special_tokens: bool. [CLS] before the texts and [SEP] after each, or neither.
        invert_mask: bool. True: input_mask is 1 on padding. False: it is 1 on tokens.
        pad_id: int, or None for the vocabulary's [PAD].
    """

    add_special_tokens: bool = True
    invert_mask: bool = True
    pad_id: int | None = None

    def num_special_tokens(self, texts_per_row):
        return 1 + texts_per_row if self.add_special_tokens else 0


STANDARD_LAYOUT = Layout()


def assemble_features(tokenizer, ids, starts, counts, length, layout=STANDARD_LAYOUT):
    """Puts the tokens of each row between [CLS] and [SEP], and pads.

    B rows, K texts per row (1 or 2), T = length.

    Args:
        tokenizer: WordPieceTokenizer, for the ids of [CLS], [SEP] and [PAD].
        ids: <int32>[at least 1], token ids of many texts.
        starts, counts: <int32>[B, K], where each text begins in `ids`, and how many ids to take.
        length: <int32>[], at least the longest row with its special tokens.
        layout: Layout.
    Returns:
        {"input_ids", "input_mask", "segment_ids"}: <int32>[B, T], input_mask 1 on padding.
    """
    position = tf.range(length)[None, :]  # [1, T]
    return _fill(tokenizer, ids, starts[:, None], counts[:, None], position, layout)


def assemble_packed_features(
    tokenizer, ids, starts, counts, row_starts, shape, layout=STANDARD_LAYOUT
):
    """Puts rows one behind the other into fewer, longer rows.

    Args:
        row_starts: <int32>[B], increasing from 0: where among the R * T tokens each row begins.
        shape: <int32>[2], R and T.
        others: as for `assemble_features`.
    Returns:
        {"input_ids", "input_mask", "segment_ids"}: <int32>[R, T]; "starts": row_starts.
    """
    place = tf.range(shape[0] * shape[1])  # [R * T]
    row = tf.searchsorted(row_starts, place, side="right") - 1  # the last that begins up to here
    position = place - tf.gather(row_starts, row)
    features = _fill(
        tokenizer, ids, tf.gather(starts, row), tf.gather(counts, row), position, layout
    )
    features = {name: tf.reshape(feature, shape) for name, feature in features.items()}
    return {**features, "starts": row_starts}


def _fill(tokenizer, ids, starts, counts, position, layout):
    """Returns the features at each of S places: tokens of a row, or padding beyond its end.

    Args:
        starts, counts: <int32>[*S, K], of the row that a place belongs to.
        position: <int32>[*S], in that row.
        others: as for `assemble_features`. Shapes are broadcast.
    Returns:
        {"input_ids", "input_mask", "segment_ids"}: <int32>[*S].
    """
    texts_per_row = counts.shape[-1]
    num_special = layout.num_special_tokens(texts_per_row)
    end = tf.reduce_sum(counts, axis=-1) + num_special
    first, start_first = counts[..., 0], starts[..., 0]
    second, start_second = tf.zeros_like(first), tf.zeros_like(first)
    if texts_per_row == 2:
        second, start_second = counts[..., 1], starts[..., 1]
    begin_first = 1 if layout.add_special_tokens else 0  # after [CLS]
    begin_second = begin_first + first + (1 if layout.add_special_tokens else 0)  # after [SEP]
    in_first = (position >= begin_first) & (position < begin_first + first)
    in_second = (position >= begin_second) & (position < begin_second + second)
    in_text = in_first | in_second
    place = tf.where(in_first, position - begin_first, position - begin_second)  # in the text
    source = place + tf.where(in_first, start_first, start_second)
    token = tf.gather(ids, tf.where(in_text, source, 0))
    is_padding = position >= end
    special = tf.where(position == 0, tokenizer.cls_id, tokenizer.sep_id)
    pad_id = tokenizer.pad_id if layout.pad_id is None else layout.pad_id
    special = tf.where(is_padding, pad_id, special)
    return {
        "input_ids": tf.where(in_text, token, special),
        "input_mask": tf.cast(is_padding if layout.invert_mask else ~is_padding, tf.int32),
        "segment_ids": tf.cast((position >= begin_second) & ~is_padding, tf.int32),
    }


class TextFeatures:
    """Texts -> features in one graph, for an exported model.

    For a data set, `token_cache`, `epoch_plan` and `batches` share this work.

    Args:
        tokenizer: WordPieceTokenizer.
        texts_per_row: int. K, 1 or 2.
        max_sequence_length: int. Longer rows are truncated, see `epoch_plan.truncated_lengths`.
        layout: Layout.
    Call:
        texts: <string>[B, K].
    Returns:
        {"input_ids", "input_mask", "segment_ids"}: <int32>[B, T], input_mask 1 on padding.
    """

    def __init__(self, tokenizer, texts_per_row, max_sequence_length, layout=STANDARD_LAYOUT):
        self.tokenizer = tokenizer
        self.texts_per_row = texts_per_row
        self.max_sequence_length = max_sequence_length
        self.layout = layout

    def __call__(self, texts):
        tokens = self.tokenizer.tokenize(tf.reshape(texts, [-1]))  # [B * K, (tokens)]
        ids = tf.concat([tokens.flat_values, [self.tokenizer.pad_id]], axis=0)  # never empty
        starts = tf.reshape(tf.cast(tokens.row_starts(), tf.int32), [-1, self.texts_per_row])
        counts = tf.reshape(tf.cast(tokens.row_lengths(), tf.int32), [-1, self.texts_per_row])
        num_special = self.layout.num_special_tokens(self.texts_per_row)
        counts = truncated_lengths(counts, self.max_sequence_length - num_special, ops=tf)
        longest = tf.reduce_max(tf.reduce_sum(counts, axis=1))  # without rows: the smallest int32
        length = tf.maximum(tf.maximum(longest, 0) + num_special, 1)
        return assemble_features(self.tokenizer, ids, starts, counts, length, self.layout)
