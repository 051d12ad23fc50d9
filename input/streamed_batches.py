# SPDX-License-Identifier: Apache-2.0
"""Batches of rows that are read by position, a stretch at a time: memory does not grow with them.

A Python generator reads the rows of a batch while the step before is computed, and another thread
plans the next stretch. The features are assembled, and masked, in the graph as those of
`batches.py`.
"""

import functools
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from common.errors import UserError
from input.batches import NUM_PREFETCHED
from input.features import STANDARD_LAYOUT, assemble_features, assemble_packed_features
from input.stream_plan import PACKED, StreamPlan


@dataclass(frozen=True)
class StreamedBatches:
    """As `batches.Batches`, without arrays of all rows."""

    dataset: tf.data.Dataset
    plan: StreamPlan
    first_step: int  # the batches of the plan's steps first_step <= step < last_step
    last_step: int
    source: Any  # _Elements
    notes: Sequence[str] = ()
    is_whole: bool = True
    origins: Callable | None = None
    targets: dict = field(default_factory=dict)  # not of all rows at once
    num_truncated: int = 0  # rows were cut when they were prepared
    truncation: str = ""

    def __len__(self):
        return self.last_step - self.first_step

    def __iter__(self):
        try:
            yield from self.dataset
        except tf.errors.OpError:
            if self.source.fault is not None:  # such as a damaged shard
                raise self.source.fault from None
            raise

    @property
    def batch_size(self):
        return self.plan.batch_size

    def num_predictions(self, length):
        """See Batches."""
        mask = self.source.mask
        return None if mask is None else mask.width(length, self.is_packed)

    @property
    def num_rows(self):
        return self.plan.num_rows

    @property
    def token_counts(self):
        return self.plan.store.token_counts

    @property
    def num_per_epoch(self):
        return self.plan.steps_per_epoch

    def rows_of(self, first, last):
        """See Batches."""
        steps = self.first_step + first, min(self.first_step + last, self.last_step)
        parts = [np.zeros((0, self.batch_size), np.int64)]
        for number, begin, end in self.plan.stretches(*steps):
            parts.append(self.source.stretch(number).rows[begin:end])
        return np.concatenate(parts)

    def from_batch(self, number):
        """See Batches."""
        return self.source.dataset(self.first_step + number, self.last_step)

    @property
    def checksum(self):
        facts = self.plan.store.content, self.plan.seed, self.first_step, self.last_step
        return zlib.crc32(repr((facts, self.plan.distinct_shapes)).encode())

    @property
    def distinct_shapes(self):
        return self.plan.distinct_shapes

    @property
    def is_packed(self):
        return self.plan.kind == PACKED

    @property
    def num_packed(self):
        return self.batch_size if self.is_packed else None

    @property
    def description(self):
        lengths = ", ".join(str(length) for _, length in self.distinct_shapes)
        if self.is_packed:
            return f"packed into {self.plan.num_long} rows of {lengths} tokens"
        return f"padded to {lengths} tokens"

    @functools.cached_property
    def share_real(self):
        """Of the first stretch, which is much like the others."""
        return self.plan.share_real()

    def summary(self, split):
        """Returns the StreamSummary."""
        counts = np.asarray(self.plan.store.length_counts)
        lengths = np.flatnonzero(counts) + self.plan.num_special
        median = np.searchsorted(np.cumsum(counts), counts.sum() / 2) + self.plan.num_special
        num_tokens = int((np.arange(len(counts)) * counts).sum())
        whole = len(self.plan.store)
        return StreamSummary(
            split, whole, num_tokens, int(lengths[0]), int(median), int(lengths[-1])
        )


@dataclass(frozen=True)
class StreamSummary:
    """The rows of a split, as `summary.Summary`."""

    split: str
    num_rows: int
    num_tokens: int  # without special tokens
    least: int  # tokens of the shortest row, with special tokens
    median: int
    most: int

    @property
    def lines(self):
        return [
            f"Data {self.split}: {self.num_rows:,} rows of {self.num_tokens:,} tokens; "
            f"{self.least} to {self.most} tokens a row with special ones, median {self.median}"
        ]


def make_streamed_batches(
    plan,
    tokenizer,
    first_step,
    last_step,
    with_weights,
    layout=STANDARD_LAYOUT,
    mask=None,
    notes=(),
):
    """Returns the StreamedBatches of the steps first_step <= step < last_step of a StreamPlan.

    Args:
        tokenizer: tokenizer, for the ids of [CLS], [SEP] and [PAD].
        with_weights: bool. True outside training.
        layout: Layout. Its rows with special tokens are at most `plan.longest` long.
        mask: (features, targets, epoch, rows) -> (features, targets) in the graph, or None. epoch:
            <int32>[]; rows: <int64>[B], numbers in the store, -1 on filler.
        notes: list of str.
    """
    source = _Elements(plan, tokenizer, layout, mask, with_weights)
    dataset = source.dataset(first_step, last_step)
    is_whole = plan.num_rows == len(plan.store)
    notes = [*plan.store.notes, *notes]
    return StreamedBatches(dataset, plan, first_step, last_step, source, notes, is_whole)


class _Elements:
    """Reads the rows of batches, and makes features of them. `fault`: UserError of the reader."""

    def __init__(self, plan, tokenizer, layout, mask, with_weights):
        self.plan, self.tokenizer, self.layout = plan, tokenizer, layout
        self.mask, self.with_weights, self.fault = mask, with_weights, None
        self.stretch = functools.lru_cache(maxsize=2)(plan.stretch)
        self.example = plan.store.read(np.zeros(1, np.int64))

    def dataset(self, first_step, last_step):
        """Returns a tf.data.Dataset of the batches of steps first_step <= step < last_step."""
        with tf.device("/cpu:0"):  # the input runs on the CPU, whatever the network's device
            dataset = tf.data.Dataset.from_generator(
                functools.partial(self.read, first_step, last_step),
                output_signature=self._signature(),
            )
            # No control flow depends on a tensor, so AutoGraph would cost time for nothing.
            assemble = tf.autograph.experimental.do_not_convert(self.assemble)
            dataset = dataset.prefetch(NUM_PREFETCHED).map(assemble).prefetch(NUM_PREFETCHED)
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(last_step - first_step))
        options = tf.data.Options()
        options.autotune.enabled = False  # as in `batches.py`
        return dataset.with_options(options)

    def _signature(self):
        size, texts = self.plan.batch_size, self.plan.store.texts_per_row
        places = (tf.TensorSpec((2,), tf.int32),)
        if self.plan.kind == PACKED:
            places = (tf.TensorSpec((size,), tf.int32), *places)
        targets = {
            name: tf.TensorSpec((size, *array.shape[1:]), array.dtype)
            for name, array in self.example.targets.items()
        }
        return (
            tf.TensorSpec((None,), tf.int32),  # ids
            tf.TensorSpec((size, texts), tf.int32),  # where each text begins in them
            tf.TensorSpec((size, texts), tf.int32),  # and its length
            places,
            targets,
            tf.TensorSpec((), tf.int32),  # epoch
            tf.TensorSpec((size,), tf.int64),  # rows
        )

    def read(self, first_step, last_step):
        """Yields the elements of batches."""
        try:
            with ThreadPoolExecutor(1) as thread:
                wanted = list(self.plan.stretches(first_step, min(last_step, first_step + 1)))
                waiting = thread.submit(self.stretch, wanted[0][0]) if wanted else None
                step = first_step
                while step < last_step:
                    stretch = waiting.result()
                    begin, end = self._part(step, last_step)
                    step += end - begin
                    if step < last_step:  # planned while this one is read
                        (number, *_) = next(self.plan.stretches(step, step + 1))
                        waiting = thread.submit(self.stretch, number)
                    for place in range(begin, end):
                        yield self._element(stretch, place)
        except UserError as error:
            self.fault = error
            raise

    def _part(self, step, last_step):
        """Returns the first and last batch that are wanted of the stretch of a step."""
        _, begin, end = next(self.plan.stretches(step, last_step))
        return begin, end

    def _element(self, stretch, place):
        rows = stretch.rows[place]
        # Filler is any row, with weight 0; packed, it has no token.
        tokens = self.plan.store.read(np.where(rows < 0, rows.max(), rows))
        starts = tokens.offsets[:-1].reshape(len(tokens), -1).astype(np.int32)
        places = (stretch.shapes[place].astype(np.int32),)
        if stretch.starts is not None:
            places = (stretch.starts[place], *places)
        ids = tokens.ids if len(tokens.ids) else np.zeros(1, np.int32)
        counts = tokens.lengths.astype(np.int32)
        return ids, starts, counts, places, tokens.targets, stretch.epoch, rows

    def assemble(self, ids, starts, counts, places, targets, epoch, rows):
        """Returns the features and targets of a batch, in the graph."""
        if self.plan.kind == PACKED:
            features = assemble_packed_features(
                self.tokenizer, ids, starts, counts, *places, self.layout
            )
        else:
            features = assemble_features(
                self.tokenizer, ids, starts, counts, places[0][1], self.layout
            )
            for feature in features.values():
                feature.set_shape((self.plan.batch_size, *feature.shape[1:]))
        if self.mask is not None:
            features, targets = self.mask(features, targets, epoch, rows)
        batch = features, targets
        return (*batch, tf.cast(rows >= 0, tf.float32)) if self.with_weights else batch
