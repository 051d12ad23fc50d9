# SPDX-License-Identifier: Apache-2.0
"""Tokens and a plan -> batches of the documented features, assembled in the graph."""

import functools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from common.console import counted
from common.tasks.targets import POSITIONS
from input.epoch_plan import truncated_lengths
from input.features import (
    STANDARD_LAYOUT,
    Layout,
    assemble_features,
    assemble_packed_features,
    assemble_token_targets,
)
from input.summary import row_hashes
from input.word_rows import WordRows

NUM_PREFETCHED = 2  # batches assembled during a step
MOST_BY_THEMSELVES = 100  # batches, see ScoredDataset


@dataclass(frozen=True)
class Batches:
    """The result of an input function; iterate it for batches.

    The elements of `dataset` are (features, targets) in training and (features, targets, weights)
    elsewhere. features: {"input_ids", "input_mask", "segment_ids"}: <int32>[B, T], input_mask 1 on
    padding, T one of a few static lengths; targets: {name: tensor [B, ...]}, those of the task;
    weights: <float32>[B], 0 on filler rows of the last batch. Packed, the features are [R, T], R
    one of a few numbers, and "starts", <int32>[B], is where among the R * T tokens each of the B
    rows begins; filler rows come first, at 0, and have no token.
    """

    dataset: tf.data.Dataset  # or a ScoredDataset, which makes one
    rows: np.ndarray  # int32 [steps, B]: the row of the split at each place; -1 for filler
    shapes: np.ndarray  # int32 [steps, 2]: shape of the features of each batch
    targets: dict[str, np.ndarray]  # {name: [N, ...]} of the split, in its own order
    num_tokens: np.ndarray  # int [N]: tokens of each row with its special tokens
    num_cut: np.ndarray  # int [N]: tokens that each row lost to `cut_by`
    row_hashes: np.ndarray  # int64 [N], of `summary.row_hashes`
    is_whole: bool = True  # whether they have all usable rows of the split, and not a sample
    origins: Callable | None = None  # () -> `rows.Origins`, of rows to score or predict
    notes: Sequence[str] = ()  # on the tokens, for whoever trains on them or predicts them
    num_per_epoch: int | None = None  # whole batches of an epoch, in training
    token_counts: np.ndarray | None = None  # int [V], how often the rows have each token
    word_rows: WordRows | None = None  # of tasks that answer for words; `targets` are of words
    cut_by: str = "max_sequence_length"  # the key that limits what a row has of its texts

    def __len__(self):
        return len(self.rows)

    @property
    def batch_size(self):
        """int, B."""
        return self.rows.shape[1]

    def rows_of(self, first, last):
        """Returns the rows of the batches first <= number < last: int [last - first, B]."""
        return self.rows[first:last]

    def from_batch(self, number):
        """Returns a tf.data.Dataset of the batches from a number on."""
        return self.dataset.skip(number)

    @property
    def checksum(self):
        """int, the same for the same rows in the same batches."""
        return zlib.crc32(self.rows)

    @property
    def distinct_shapes(self):
        """The shapes that features of a batch can have: increasing list of [rows, tokens]."""
        return np.unique(self.shapes, axis=0).tolist()

    def num_predictions(self, length):
        """Returns how many tokens to predict a row of the features has, whose length is given: int,
        or None where there are none."""
        positions = self.dataset.element_spec[0].get(POSITIONS)
        return None if positions is None else positions.shape[1]

    @property
    def num_rows(self):
        """int, N: the rows of the split."""
        return len(self.num_tokens)

    @property
    def num_truncated(self):
        """int, rows that lost tokens to `cut_by`."""
        return int(np.count_nonzero(self.num_cut))

    @property
    def truncation(self):
        """str, for the log: what `cut_by` cut off; empty if nothing."""
        if not self.num_truncated:
            return ""
        return (
            f"{self.cut_by} cuts {self.num_truncated:,} of {counted(self.num_rows, 'row')} "
            f"({self.num_truncated / self.num_rows:.1%}), tokens lost: {self.num_cut.sum():,}"
        )

    @property
    def is_packed(self):
        """bool. Whether several rows share one row of the features."""
        return "starts" in self.dataset.element_spec[0]

    @property
    def num_packed(self):
        """int, rows in the long rows of a batch; None if the batches are not packed."""
        return self.batch_size if self.is_packed else None

    @property
    def description(self):
        """str, for the log: how rows of different length share a batch."""
        sizes = zip(*self.distinct_shapes, strict=True)
        counts, lengths = (", ".join(map(str, sorted(set(each)))) for each in sizes)
        if self.is_packed:
            return f"packed into {counts} rows of {lengths} tokens"
        return f"padded to {lengths} tokens"

    @property
    def num_computed(self):
        """int, tokens of all batches, with padding."""
        return int(self.shapes.prod(axis=1, dtype=np.int64).sum())

    @property
    def num_real(self):
        """int, tokens of all batches, without padding."""
        return int(self.num_tokens[self.rows[self.rows >= 0]].sum())

    @property
    def share_real(self):
        """float, the share of the computed tokens that is no padding."""
        return self.num_real / self.num_computed

    def __iter__(self):
        return iter(self.dataset)


def row_lengths(tokens, max_sequence_length, layout=STANDARD_LAYOUT):
    """Returns tokens of each row after truncation, with its special tokens: int [N], above 0."""
    return _truncate(tokens, max_sequence_length, layout)[1]


def make_batches(
    tokens, tokenizer, rows, lengths, max_sequence_length, with_weights, layout=STANDARD_LAYOUT
):
    """Returns the padded Batches of a plan.

    Args:
        tokens: Tokens of the split.
        tokenizer: WordPieceTokenizer, for the ids of [CLS], [SEP] and [PAD].
        rows, lengths: int32 [steps, B] and [steps], of EpochPlan.
        max_sequence_length: int. Longer rows are truncated, see truncated_lengths.
        with_weights: bool. True outside training.
    """
    shapes = np.stack([np.full_like(lengths, rows.shape[1]), lengths], axis=1)
    assembly = Assembly.of(tokenizer, layout, False, with_weights)
    return _batches(assembly, (rows, lengths), shapes, tokens, max_sequence_length)


def make_packed_batches(
    tokens, tokenizer, rows, starts, shapes, max_sequence_length, with_weights, layout
):
    """Returns the packed Batches of a plan.

    Args:
        rows, starts: int32 [steps, B], of `packing.PackedPlan` or `packing.pack_every_row`.
        shapes: int32 [steps, 2]: R and T of each batch.
        others: as for `make_batches`.
    """
    assembly = Assembly.of(tokenizer, layout, True, with_weights)
    return _batches(assembly, (rows, starts, shapes), shapes, tokens, max_sequence_length)


@dataclass(frozen=True)
class Assembly:
    """How rows of a split become a batch, in the graph. Equal ones share a trace."""

    cls_id: int
    sep_id: int
    pad_id: int
    layout: Layout
    is_packed: bool
    with_weights: bool

    @classmethod
    def of(cls, tokenizer, *others):
        return cls(tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id, *others)

    def __call__(self, split, batch_rows, *place):
        """Returns an element of `Batches.dataset`.

        split: {"ids", "starts", "counts", "targets", "of_tokens"} of all its texts; batch_rows,
        place: the batch's element of each array of the plan.
        """
        rows = tf.maximum(batch_rows, 0)  # filler is row 0 with weight 0
        where = tf.gather(split["starts"], rows), tf.gather(split["counts"], rows)
        make = assemble_packed_features if self.is_packed else assemble_features
        features = make(self, split["ids"], *where, *place, self.layout)
        targets = {name: tf.gather(each, rows) for name, each in split["targets"].items()}
        if split["of_tokens"]:
            length = tf.shape(features["input_ids"])[1]
            targets |= assemble_token_targets(split["of_tokens"], *where, length, self.layout)
        if not self.with_weights:
            return features, targets
        return features, targets, tf.cast(batch_rows >= 0, tf.float32)


@functools.lru_cache(maxsize=64)
def _traced(assembly, texts_per_row):
    """Returns an Assembly as a function that is traced twice at most, for any rows."""
    del texts_per_row  # a number that the trace depends on
    return tf.function(lambda *args: assembly(*args), autograph=False, reduce_retracing=True)


class ScoredDataset:
    """A tf.data.Dataset of batches that is made when it is needed, not for iterating a few.

    Making it and its iterator takes 45 ms, a batch by itself 0.4 ms.
    """

    def __init__(self, make, element, number):
        """make: () -> tf.data.Dataset; element: (number) -> element; number: int, elements."""
        self._make, self._element, self._number = make, element, number

    @functools.cached_property
    def _dataset(self):
        return self._make()

    def __getattr__(self, name):
        return getattr(self._dataset, name)

    def __iter__(self):
        if self._number > MOST_BY_THEMSELVES:
            return iter(self._dataset)
        return map(self._element, range(self._number))


def _batches(assembly, plan, shapes, tokens, max_sequence_length):
    """Returns the Batches of either kind. plan: tuple of arrays [steps, ...], the rows first."""
    cut, num_tokens = _truncate(tokens, max_sequence_length, assembly.layout)
    with tf.device("/cpu:0"):  # the input runs on the CPU, whatever the network's device
        split = {
            "ids": tf.constant(tokens.ids if len(tokens.ids) else np.zeros(1, np.int32)),
            "starts": tf.constant(tokens.offsets[:-1].reshape(cut.shape), tf.int32),
            "counts": tf.constant(cut, tf.int32),
            "targets": {name: tf.constant(each) for name, each in tokens.targets.items()},
            "of_tokens": {
                name: tf.constant(np.append(each, np.int32(-1)))
                for name, each in tokens.token_targets.items()
            },
        }
    num_rows = plan[0].shape[1]

    def make_dataset():
        # No control flow depends on a tensor, so AutoGraph would cost 0.4 s for nothing.
        @tf.autograph.experimental.do_not_convert
        def assemble(*of_batch):
            features, *others = assembly(split, *of_batch)
            if not assembly.is_packed:
                for feature in features.values():
                    feature.set_shape((num_rows, *feature.shape[1:]))
            return features, *others

        with tf.device("/cpu:0"):
            dataset = tf.data.Dataset.from_tensor_slices(plan).map(assemble)
            dataset = dataset.prefetch(NUM_PREFETCHED)
        options = tf.data.Options()
        # There is nothing to tune, and the tuner's thread sleeps for up to a minute: the end of a
        # run waited 15 s for it.
        options.autotune.enabled = False
        return dataset.with_options(options)

    def element(number):
        with tf.device("/cpu:0"):
            of_batch = (tf.constant(each[number], tf.int32) for each in plan)
            return _traced(assembly, cut.shape[1])(split, *of_batch)

    is_scored = assembly.with_weights
    dataset = ScoredDataset(make_dataset, element, len(shapes)) if is_scored else make_dataset()
    num_cut = (tokens.lengths - cut).sum(axis=1)
    hashes = row_hashes(tokens)
    return Batches(dataset, plan[0], shapes, tokens.targets, num_tokens, num_cut, hashes)


def _truncate(tokens, max_sequence_length, layout):
    """Returns the tokens of each text after truncation, int [N, K], and of each row, int [N].

    A row without any token, not even special ones, becomes one token of padding.
    """
    num_special = layout.num_special_tokens(tokens.texts_per_row)
    cut = truncated_lengths(tokens.lengths, max_sequence_length - num_special)
    return cut, np.maximum(cut.sum(axis=1) + num_special, 1)
