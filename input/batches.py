# SPDX-License-Identifier: Apache-2.0
"""Tokens and an epoch plan -> batches of the documented features, assembled in the graph."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from input.epoch_plan import truncated_lengths
from input.features import STANDARD_LAYOUT, assemble_features, assemble_packed_features

NUM_AHEAD = 2  # batches that are made while a step is computed


@dataclass(frozen=True)
class Batches:
    """What an input function returns: iterate it for batches.

    Attributes:
        dataset: tf.data.Dataset of (features, targets) in training and of (features, targets,
            weights) elsewhere. features: {"input_ids", "input_mask", "segment_ids"}:
            <int32>[B, T], input_mask 1 on padding; targets: {name: tensor [B, ...]}, those of the
            task; weights: <float32>[B], 0 on rows that only fill up the last batch. T is one
            of a few static lengths. Packed, the features are [R, T], R one of a few numbers, and
            "starts", <int32>[B], says where among the R * T tokens each of the B rows begins;
            rows that only fill up stand first, at 0, and have no token.
        rows: int32 [steps, B]: which row of the split stands where; -1 for filling.
        shapes: int32 [steps, 2]: that of the features of each batch.
        targets: {name: array [N, ...]} of the split, in its own order.
        num_tokens: int [N]: tokens of each row with its special tokens.
        num_truncated: int. Rows that were longer than max_sequence_length, and have been cut.
    """

    dataset: tf.data.Dataset
    rows: np.ndarray
    shapes: np.ndarray
    targets: dict[str, np.ndarray]
    num_tokens: np.ndarray
    num_truncated: int

    def __len__(self):
        return len(self.rows)

    @property
    def num_rows(self):
        """int, N: the rows of the split."""
        return len(self.num_tokens)

    @property
    def is_packed(self):
        """bool. Whether several rows share one of the features'."""
        return "starts" in self.dataset.element_spec[0]

    @property
    def num_packed(self):
        """How many rows share the long ones of a batch: int, None where they share none."""
        return self.rows.shape[1] if self.is_packed else None

    @property
    def description(self):
        """A clause on how rows of different length share a batch."""
        counts, lengths = (", ".join(map(str, np.unique(sizes))) for sizes in self.shapes.T)
        if self.is_packed:
            return f"packed into {counts} rows of {lengths} tokens"
        return f"padded to {lengths} tokens"

    @property
    def num_computed(self):
        """Tokens that all batches have together, padding included: int."""
        return int(self.shapes.prod(axis=1, dtype=np.int64).sum())

    @property
    def num_real(self):
        """Those that are no padding: int."""
        return int(self.num_tokens[self.rows[self.rows >= 0]].sum())

    def __iter__(self):
        return iter(self.dataset)


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

    def features_of(ids, start, count, length):
        features = assemble_features(tokenizer, ids, start, count, length, layout)
        for feature in features.values():
            feature.set_shape((rows.shape[1], *feature.shape[1:]))
        return features

    shapes = np.stack([np.full_like(lengths, rows.shape[1]), lengths], axis=1)
    size = max_sequence_length
    return _batches(features_of, (rows, lengths), shapes, tokens, size, with_weights, layout)


def make_packed_batches(
    tokens,
    tokenizer,
    rows,
    starts,
    shapes,
    max_sequence_length,
    with_weights,
    layout=STANDARD_LAYOUT,
):
    """Assembles batches whose rows share longer ones.

    Args:
        rows, starts: int32 [steps, B], of `packing.PackedPlan` or `packing.pack_every_row`.
        shapes: int32 [steps, 2]: R and T of each batch.
        others: as of `make_batches`.
    Returns:
        Batches.
    """

    def features_of(ids, start, count, *place):
        return assemble_packed_features(tokenizer, ids, start, count, *place, layout)

    plan, size = (rows, starts, shapes), max_sequence_length
    return _batches(features_of, plan, shapes, tokens, size, with_weights, layout)


def _batches(features_of, plan, shapes, tokens, max_sequence_length, with_weights, layout):
    """What both kinds of batch have in common.

    Args:
        features_of: (ids of all texts; begin and count of each text of the batch; its step of the
            other arrays of the plan) -> features, within the graph.
        plan: tuple of arrays [steps, ...], the rows first.
        others: as of `make_batches`.
    """
    cut, num_tokens = _cut(tokens, max_sequence_length, layout)

    def assemble(source, batch_rows, *place):
        is_real = batch_rows >= 0
        batch_rows = tf.maximum(batch_rows, 0)  # filling is row 0 with weight 0
        features = features_of(source.ids, *source.texts_of(batch_rows), *place)
        targets = {name: tf.gather(each, batch_rows) for name, each in source.targets.items()}
        if with_weights:
            return features, targets, tf.cast(is_real, tf.float32)
        return features, targets

    dataset = _assembled(plan, assemble, tokens, cut)
    num_truncated = int((cut < tokens.lengths).any(axis=1).sum())
    return Batches(dataset, plan[0], shapes, tokens.targets, num_tokens, num_truncated)


class _TokenTensors:
    """The rows of a split within the graph.

    Attributes:
        ids: <int32>[at least 1], token ids of all texts.
        targets: {name: tensor [N, ...]}.
    """

    def __init__(self, tokens, cut):
        self.ids = tf.constant(tokens.ids if len(tokens.ids) else np.zeros(1, np.int32))
        self.targets = {name: tf.constant(each) for name, each in tokens.targets.items()}
        self._starts = tf.constant(tokens.offsets[:-1].reshape(cut.shape), tf.int32)
        self._counts = tf.constant(cut, tf.int32)

    def texts_of(self, rows):
        """Where in `ids` each text of the rows begins, and how much of it to take: <int32>[B, K]"""
        return tf.gather(self._starts, rows), tf.gather(self._counts, rows)


def _assembled(plan, assemble, tokens, cut):
    """tf.data.Dataset of assemble(source, *plan[i]) for every step i. plan: tuple of arrays."""
    with tf.device("/cpu:0"):  # where the input runs, whichever device the network is on
        source = _TokenTensors(tokens, cut)
        dataset = tf.data.Dataset.from_tensor_slices(plan)
        # Nothing in it depends on a tensor's value, so AutoGraph would change nothing, in 0.4 s.
        as_written = tf.autograph.experimental.do_not_convert
        dataset = dataset.map(as_written(lambda *step: assemble(source, *step)))
        dataset = dataset.prefetch(NUM_AHEAD)
    options = tf.data.Options()
    # There is nothing to tune; its thread sleeps for longer and longer, up to a minute, and at the
    # end of a run, 15 s were spent to wait for it.
    options.autotune.enabled = False
    return dataset.with_options(options)


def _cut(tokens, max_sequence_length, layout):
    """Returns tokens of each text after truncation, int [N, K], and of each row, int [N].

    A row without any token, where no special tokens are added, is one token of padding.
    """
    num_special = layout.num_special_tokens(tokens.texts_per_row)
    cut = truncated_lengths(tokens.lengths, max_sequence_length - num_special)
    return cut, np.maximum(cut.sum(axis=1) + num_special, 1)
