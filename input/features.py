# SPDX-License-Identifier: Apache-2.0
"""Token ids -> the documented features: [CLS] A [SEP] (B [SEP]), mask, segments, in the graph."""

from dataclasses import dataclass

import tensorflow as tf

from input.epoch_plan import truncated_lengths
from input.tokenizers.library import LibraryTokenizer
from input.tokenizers.wordpiece import WordPieceTokenizer


@dataclass(frozen=True)
class Layout:
    """How the tokens of a row become features; the keys of the same names in InputParams."""

    add_special_tokens: bool = True  # [CLS] before the texts and [SEP] after each, or neither
    invert_mask: bool = True  # input_mask is 1 on padding, or else on tokens
    pad_id: int | None = None  # None: the vocabulary's [PAD]
    num_between: int = 1  # [SEP]s between the texts of a row, of the tokenizer

    def num_special_tokens(self, texts_per_row):
        between = self.num_between * (texts_per_row - 1)
        return 2 + between if self.add_special_tokens else 0


STANDARD_LAYOUT = Layout()


def assemble_features(tokenizer, ids, starts, counts, length, layout=STANDARD_LAYOUT):
    """Puts the tokens of each row between [CLS] and [SEP], and pads.

    B rows, K texts per row (1 or 2), T = length.

    Args:
        tokenizer: for the ids of [CLS], [SEP] and [PAD].
        ids: <int32>[at least 1], token ids of many texts.
        starts, counts: <int32>[B, K], where each text begins in `ids`, and how many ids to take.
        length: <int32>[], at least the longest row with its special tokens.
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
    """Returns the features at each of S places, <int32>[*S]: tokens of a row, or padding.

    starts, counts: <int32>[*S, K], of the row that a place belongs to; position: <int32>[*S], in
    that row. Shapes are broadcast.
    """
    end = tf.reduce_sum(counts, axis=-1) + layout.num_special_tokens(counts.shape[-1])
    first, *rest = tf.unstack(counts, axis=-1)
    second = rest[0] if rest else tf.zeros_like(first)
    begin_first = 1 if layout.add_special_tokens else 0  # after [CLS]
    begin_second = first + begin_first * (1 + layout.num_between)  # after [SEP]
    in_first = (position >= begin_first) & (position < begin_first + first)
    in_second = (position >= begin_second) & (position < begin_second + second)
    in_text = in_first | in_second
    place = tf.where(in_first, position - begin_first, position - begin_second)  # in the text
    source = place + tf.where(in_first, starts[..., 0], starts[..., -1])
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


def assemble_token_targets(arrays, starts, counts, length, layout=STANDARD_LAYOUT):
    """Puts what is true of each token where the token stands in its row.

    Args:
        arrays: {name: <int32>[at least 1]}, of the tokens of many texts.
        starts, counts: <int32>[B, 1], as of `assemble_features`.
        length: <int32>[], T.
    Returns:
        {name: <int32>[B, T]}, -1 on special tokens and padding.
    """
    begin = 1 if layout.add_special_tokens else 0
    place = tf.range(length)[None, :] - begin  # [1, T], in the text
    in_text = (place >= 0) & (place < counts)  # [B, T]
    source = tf.where(in_text, starts + place, 0)
    return {name: tf.where(in_text, tf.gather(array, source), -1) for name, array in arrays.items()}


@dataclass(frozen=True)
class TextFeatures:
    """Texts -> features in one graph, for an exported model.

    For a data set, `token_cache`, `epoch_plan` and `batches` share this work. It is called with
    texts <string>[B, K], and returns what `assemble_features` does.
    """

    tokenizer: WordPieceTokenizer | LibraryTokenizer
    texts_per_row: int  # K, 1 or 2
    max_sequence_length: int  # longer rows are truncated, see `epoch_plan.truncated_lengths`
    layout: Layout = STANDARD_LAYOUT

    @property
    def in_graph(self):
        """Whether an exported graph can have the tokenizer."""
        return self.tokenizer.in_graph

    def __call__(self, texts):
        tokens = self.tokenizer.tokenize(tf.reshape(texts, [-1]))  # [B * K, (tokens)]
        ids = tf.concat([tokens.flat_values, [self.tokenizer.pad_id]], axis=0)  # never empty
        starts, counts = (
            tf.reshape(tf.cast(each, tf.int32), [-1, self.texts_per_row])
            for each in (tokens.row_starts(), tokens.row_lengths())
        )
        num_special = self.layout.num_special_tokens(self.texts_per_row)
        counts = truncated_lengths(counts, self.max_sequence_length - num_special, ops=tf)
        longest = tf.reduce_max(tf.reduce_sum(counts, axis=1))  # without rows: the smallest int32
        length = tf.maximum(tf.maximum(longest, 0) + num_special, 1)
        return assemble_features(self.tokenizer, ids, starts, counts, length, self.layout)
