# SPDX-License-Identifier: Apache-2.0
"""Data sets of TensorFlow Datasets (TFDS) as a source of rows."""

import contextlib
import functools
import hashlib
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource

from common.console import counted
from common.errors import UserError
from common.files import sha256_once
from common.platform.machine import check_reachable
from common.tasks.targets import LabelColumn
from input.samples.sample_glue import SampleGlue
from input.sources.source import Source

# Features whose stored value TFDS returns unchanged.
PLAIN_FEATURES = (
    tfds.features.Text,
    tfds.features.ClassLabel,
    tfds.features.Tensor,
    tfds.features.Scalar,
)
SERIALIZED_FORMATS = (tfds.core.FileFormat.TFRECORD, tfds.core.FileFormat.ARRAY_RECORD)
# Evaluation splits if the processor names none: the first group that the data set has.
EVAL_SPLITS = (("validation",), ("validation_matched", "validation_mismatched"), ("test",))


class TfdsSource(Source):
    """A Source over a prepared TFDS data set.

    Opening it takes milliseconds if it is prepared. Else the embedded sample is prepared from the
    project's files, and any other data set by TFDS, which downloads it.

    cfg: InputParams: data_dir, feature_rename_map, on_bad_row, eval_fraction.

    Raises:
        UserError: it is not prepared and cannot be prepared, or it lacks a feature.
    """

    def __init__(self, cfg, processor, targets, needs_targets=True):
        self.processor, self.needs_targets = processor, needs_targets
        self.folder = Path(cfg.data_dir) / processor.dataset
        self._builder = open_builder(processor.dataset, Path(cfg.data_dir))
        self._skips_bad_rows = cfg.on_bad_row == "skip"
        self._counted = {}  # {split and state of its files: of `_records`}
        self._check_features(cfg.feature_rename_map or {})
        self.targets = targets.named(self._label_column())
        if not processor.eval_splits:
            self.processor = replace(processor, eval_splits=self._eval_splits(cfg.eval_fraction))

    def _check_features(self, rename_map):
        self._check_names(rename_map)
        features = self._builder.info.features
        for key in self.processor.text_keys:
            if not isinstance(features[key], tfds.features.Text):
                raise UserError(
                    f"{self} has a feature {key} that is no text (tfds.features.Text) but "
                    f"{features[key]}; choose other text_keys"
                )

    def _check_names(self, rename_map):
        """Raises UserError where the data set lacks a feature."""
        features = self._builder.info.features
        wanted = (*self.processor.text_keys, self.processor.label_key, *rename_map)
        missing = [key for key in dict.fromkeys(wanted) if key not in features]
        if missing:
            raise UserError(
                f"{self} has no feature {', '.join(missing)}; it has "
                f"{', '.join(sorted(features))}. Choose the data_processor that fits it, "
                "or write text_keys and label_key."
            )

    def _label_column(self):
        key = self.processor.label_key
        feature = self._builder.info.features[key]
        kind, names = "other", ()
        if isinstance(feature, tfds.features.ClassLabel):
            kind, names = "class", tuple(feature.names)
        elif isinstance(feature, tfds.features.Text):
            pass  # a Tensor of TFDS too
        elif isinstance(feature, tfds.features.Tensor) and feature.shape == ():
            kind = "integer" if np.issubdtype(feature.np_dtype, np.integer) else "number"
        return LabelColumn(str(self), key, kind, names, str(feature))

    def _eval_splits(self, eval_fraction):
        splits = self._builder.info.splits
        for names in EVAL_SPLITS:
            if all(name in splits and splits[name].num_examples for name in names):
                return names
        if eval_fraction is not None:
            return ()  # held-out rows of the training split are scored
        raise UserError(
            f"{self} has no split validation or test; its splits are {', '.join(splits)}. Write "
            "eval_fraction, the share of the training split to hold out"
        )

    def __str__(self):
        return f"data set {self.processor.dataset} in {self.folder}"

    def fingerprint(self, split):
        processor = self.processor
        names = [processor.dataset, split, *processor.text_keys, processor.label_key]
        names += ["skip"] * self._skips_bad_rows
        names += self.targets.settings
        return hashlib.sha256("|".join([*names, self.content(split)]).encode()).hexdigest()

    def content(self, split):
        digest = hashlib.sha256()
        for path in self._split_info(split).filepaths:
            try:
                digest.update(bytes.fromhex(sha256_once(path)))
            except OSError as error:
                raise UserError(
                    f"{self} is incomplete: {error}. Copy it there again; or delete the folder to "
                    "have it prepared again"
                ) from None
        return f"{counted(self._split_info(split).num_examples, 'row')}, {digest.hexdigest()[:32]}"

    def num_rows(self, split):
        return self._split_info(split).num_examples

    def read(self, split, batch_size):
        """See Source. The order is that of the files."""
        text_keys, label_key = self.processor.text_keys, self.processor.label_key
        specs = self.targets.specs
        return self._batches(split, batch_size).map(
            lambda rows: (
                tf.stack([rows[key] for key in text_keys], axis=1),
                {name: tf.cast(rows[label_key], spec.dtype) for name, spec in specs.items()},
            )
        )

    def _batches(self, split, batch_size):
        """Returns a tf.data.Dataset of {feature: [n]} with the features of texts and label."""
        stored, records = self._stored_features(), self._stored_records(split)
        if records is None or stored is None:
            return self._decoded(split, records).batch(batch_size)
        return records.batch(batch_size).map(lambda batch: tf.io.parse_example(batch, stored))

    def _decoded(self, split, records):
        """Returns a tf.data.Dataset of the rows of a split, {feature: value}, as TFDS decodes them.

        records: of `_stored_records`.
        """
        if records is not None:
            return records.map(self._builder.info.features.deserialize_example)
        # One file after the other, without a cache in memory, because it is read once.
        config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
        return self._builder.as_dataset(split=split, shuffle_files=False, read_config=config)

    def _stored_records(self, split):
        """Returns a tf.data.Dataset of the records of a split, <string>[] each; None where only
        TFDS can read them."""
        info = self._split_info(split)
        counted = self._records(split) if self._skips_bad_rows else []
        if any(count < expected for _, count, expected in counted):
            files = [self._serialized(path).take(count) for path, count, _ in counted]
            return functools.reduce(tf.data.Dataset.concatenate, files)
        if self._builder.info.file_format not in SERIALIZED_FORMATS:
            return None
        records = self._serialized(*info.filepaths)
        return records.apply(tf.data.experimental.assert_cardinality(info.num_examples))

    def _serialized(self, *paths):
        """Returns a tf.data.Dataset of the records of files, <string>[] each."""
        paths = list(map(str, paths))
        if self._builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
            return tf.data.TFRecordDataset(paths)
        source = ArrayRecordDataSource(paths)
        return tf.data.Dataset.from_generator(
            lambda: (source[i] for i in range(len(source))),
            output_signature=tf.TensorSpec((), tf.string),
        )

    def _stored_features(self):
        """Returns how the features are stored, {feature: tf.io.FixedLenFeature}, or None.

        With it, many rows are parsed at once, while TFDS parses them one by one. None if a feature
        is no plain value, or the files are of another format.
        """
        info, stored = self._builder.info, {}
        if info.file_format not in SERIALIZED_FORMATS:
            return None
        for key in (*self.processor.text_keys, self.processor.label_key):
            feature = info.features[key]
            if type(feature) not in PLAIN_FEATURES:
                return None
            value = feature.get_serialized_info()
            is_text = isinstance(feature, tfds.features.Text)
            if value.shape != () or is_text != (value.tf_dtype == tf.string):
                return None  # such as a compressed value
            number = tf.float32 if value.tf_dtype.is_floating else tf.int64  # as TFDS stores them
            stored[key] = tf.io.FixedLenFeature((), tf.string if is_text else number)
        return stored

    def tokenize(self, split, tokenizer):
        from input.token_cache import tokenize_source

        return tokenize_source(self, split, tokenizer)

    def read_texts(self, split):
        batches = self.read(split, 1024).as_numpy_iterator()
        rows = (row for batch, _ in batches for row in batch)
        return [tuple(text.decode("utf-8", "replace") for text in row) for row in rows]

    def skipped(self, split):
        return self.damages(split) if self._skips_bad_rows else []

    def places(self, split, rows):
        """See Source. Records count from 0."""
        records = self._records(split)
        starts = np.cumsum([0, *(count for _, count, _ in records)])
        files = np.searchsorted(starts, rows, side="right") - 1
        return [
            f"{records[file][0]}, record {row - starts[file]}"
            if file < len(records)
            else f"row {row}"
            for row, file in zip(rows, files, strict=True)
        ]

    def id_columns(self, split):
        """Returns {}: only files have the key."""
        del split
        return {}

    def damages(self, split):
        return [
            f"{path}, record {count}: damaged or missing; this record and those after it, "
            f"{expected - count} of {expected}, cannot be read"
            for path, count, expected in self._records(split)
            if count < expected
        ]

    def _records(self, split):
        """Returns [(path, number of readable records, expected number of records)].

        Counting takes 3 s for SST-2, so files that have not changed are counted once.
        """
        paths = filter(os.path.exists, self._split_info(split).filepaths)
        state = split, *((path, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in paths)
        if state not in self._counted:
            self._counted[state] = self._count_records(split)
        return self._counted[state]

    def _count_records(self, split):
        info, records = self._split_info(split), []
        for path, expected in zip(info.filepaths, info.shard_lengths, strict=True):
            count = 0
            with contextlib.suppress(tf.errors.OpError):
                for _ in self._serialized(path).take(expected):
                    count += 1
            records.append((path, count, expected))
        return records

    def _split_info(self, split):
        """Returns the tfds.core.SplitInfo of a split that has rows."""
        splits = self._builder.info.splits
        if split not in splits or not splits[split].num_examples:
            raise UserError(
                f"{self} has no rows in split {split}; its splits are {', '.join(splits)}"
            )
        return splits[split]


def open_builder(name, data_dir):
    """Returns the TFDS builder of a data set, which is prepared if need be.

    The sample always goes through its builder, which prepares it again when its files change.
    """
    is_sample = name.split("/")[0] == SampleGlue.name
    prepared = None if is_sample else _newest_version(data_dir / name)
    if prepared is not None:
        try:
            return tfds.builder_from_directory(prepared)
        except Exception as error:  # TFDS raises many types for damaged files
            raise UserError(
                f"the data set in {prepared} cannot be read ({_reason(error)}). Copy it there "
                "again; or delete the folder to have it prepared again"
            ) from error
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except Exception as error:  # the name, or a part of it, is unknown or cannot be parsed
        raise UserError(
            f"data set {name} is neither prepared in {data_dir / name} nor known to TensorFlow "
            f"Datasets ({_reason(error)}); dataset is a name such as glue/sst2 or sample_glue/sst2"
        ) from error
    tfds.display_progress_bar(not is_sample)  # the sample takes 0.3 s
    try:
        if not is_sample and not builder.data_path.exists():
            check_reachable(builder.url_infos or ())
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
            builder.download_and_prepare()
    except Exception as error:  # TFDS passes on any error of the network or the disk
        elsewhere = (
            " If there is no network here, run on a machine with one\n"
            f"  python -c \"import tensorflow_datasets as tfds; tfds.load('{name}', "
            "data_dir='DIR')\"\n"
            "copy DIR here, and give it as data_dir (or --data_dir)."
        )
        raise UserError(
            f"data set {name} is not prepared in {data_dir / name}, and could not be prepared "
            f"there ({_reason(error)})." + ("" if is_sample else elsewhere)
        ) from error
    return builder


def _newest_version(folder):
    """Returns the folder of the highest prepared version, or None.

    A killed download leaves a folder of another name, `incomplete.XXXXXX_2.0.0`.
    """
    paths = [info.parent for info in folder.glob("*/dataset_info.json")]
    versions = [path for path in paths if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
    return max(versions, key=lambda path: [*map(int, path.name.split("."))], default=None)


def _reason(error):
    """Returns the type of an exception and the first line of its message."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
