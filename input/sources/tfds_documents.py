# SPDX-License-Identifier: Apache-2.0
"""Documents of a data set of TensorFlow Datasets: a record is a document, its lines sentences."""

import hashlib
import json
from pathlib import Path

import tensorflow_datasets as tfds

from common.errors import UserError
from input.sources.documents import SHARD_BYTES, Found, Stretch, whole_document
from input.sources.tfds import open_builder

MAX_LINES = 2**20  # of a record, in the number that says where a line stands


class TfdsCorpus:
    """As `documents.TextCorpus`, over a split of a prepared data set.

    Args:
        dataset: str, its name in TFDS.
        data_dir: path-like.
        split: str.
        text_key: str, the feature of the text.
        shard_bytes: int.
    Raises:
        UserError: it cannot be prepared, or lacks the split or the feature.
    """

    def __init__(self, dataset, data_dir, split, text_key, shard_bytes=SHARD_BYTES):
        self.dataset, self.data_dir, self.split = dataset, str(data_dir), split
        self.text_key, self.shard_bytes = text_key, shard_bytes
        info = open_builder(dataset, Path(data_dir)).info
        if split not in info.splits:
            raise UserError(f"{self} has no split {split}; it has {', '.join(info.splits)}")
        features = dict(info.features)
        if not isinstance(features.get(text_key), tfds.features.Text):
            raise UserError(
                f"{self} has no feature {text_key} of text; it has "
                f"{', '.join(sorted(features))}. Write text_keys"
            )
        self._files = [str(path) for path in info.splits[split].filepaths]
        records, self.num_bytes = info.splits[split].num_examples, info.splits[split].num_bytes
        number = max(1, round(self.num_bytes / shard_bytes))
        bounds = [records * i // number for i in range(number + 1)]
        self.shards = [[Stretch(0, bounds[i], bounds[i + 1])] for i in range(number)]

    def __str__(self):
        return f"data set {self.dataset} in {self.data_dir}"

    def reopened(self):
        """See TextCorpus."""
        name = self.dataset, self.data_dir, self.split, self.text_key, self.shard_bytes
        return TfdsCorpus(*name)

    @property
    def settings(self):
        return [self.dataset, self.split, self.text_key, self.shard_bytes]

    @property
    def fingerprint(self):
        facts = [Path(path).stat() for path in self._files]
        facts = [[each.st_size, each.st_mtime_ns] for each in facts]
        return hashlib.sha256(json.dumps([self._files, facts, self.settings]).encode()).hexdigest()

    def documents(self, shard, found: Found, with_places=False):
        """See TextCorpus; the order is that of the files."""
        (stretch,) = shard
        builder = open_builder(self.dataset, Path(self.data_dir))
        records = tfds.core.ReadInstruction(
            self.split, from_=stretch.start, to=stretch.end, unit="abs"
        )
        # One file after the other, without a cache in memory, because it is read once.
        config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
        rows = builder.as_dataset(
            split=records,
            shuffle_files=False,
            read_config=config,
            decoders=tfds.decode.PartialDecoding({self.text_key: True}),
        )
        for number, row in enumerate(rows.as_numpy_iterator(), stretch.start):
            lines = row[self.text_key].decode("utf-8", "replace").encode().splitlines()
            yield from whole_document(lines, number * MAX_LINES, found, with_places)

    def place_of(self, shard, place) -> str:
        """See TextCorpus; records count from 0."""
        del shard
        return f"{self}, split {self.split}, record {place // MAX_LINES:,}"
