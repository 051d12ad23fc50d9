# SPDX-License-Identifier: Apache-2.0
"""Where the text comes from: one processor per kind of data, over TensorFlow Datasets (TFDS)."""

import contextlib
import hashlib
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import tensorflow as tf
import tensorflow_datasets as tfds

from common.errors import UserError
from input.samples.sample_glue import SampleGlue


@dataclass(frozen=True)
class DataProcessor:
    """Which data set, which of its features, which splits.

    Attributes:
        dataset: name in TFDS, `builder/config`.
        text_keys: one feature name (a sentence) or two (a pair).
        eval_splits: names of the splits to score, together and each for itself.
        label_key: feature name of the class.
    """

    dataset: str
    text_keys: tuple[str, ...]
    eval_splits: tuple[str, ...]
    label_key: str = "label"
    train_split: str = "train"


# GLUE (Wang et al. 2019) as TFDS names it. The hidden test splits have no labels and are not used.
PROCESSORS = {
    "Sst2DataProcessor": DataProcessor("glue/sst2", ("sentence",), ("validation",)),
    "MnliDataProcessor": DataProcessor(
        "glue/mnli",
        ("premise", "hypothesis"),
        ("validation_matched", "validation_mismatched"),
    ),
}


def get_processor(cfg):
    """Returns the DataProcessor that InputParams `cfg` name, with `cfg.dataset` put in."""
    processor = PROCESSORS[cfg.data_processor]
    if cfg.dataset is None:
        return processor
    return replace(processor, dataset=cfg.dataset)


class TextDataset:
    """A prepared TFDS data set: its texts, labels, label names, and a fingerprint of its files.

    Opening it (milliseconds) prepares what is not prepared yet: the embedded sample from the
    project's own files, any other by TFDS, which downloads it.

    Args:
        cfg: InputParams: data_processor, dataset, data_dir.
    Attributes:
        processor: DataProcessor.
        folder: Path, where the data set lies.
        label_names: tuple of str, the name of each class.
    Raises:
        UserError: it is neither prepared nor can it be, or it lacks a feature.
    """

    def __init__(self, cfg):
        self.processor = get_processor(cfg)
        self.folder = Path(cfg.data_dir) / self.processor.dataset
        self._builder = _open(self.processor.dataset, Path(cfg.data_dir))
        features = self._builder.info.features
        label_key = self.processor.label_key
        missing = [key for key in (*self.processor.text_keys, label_key) if key not in features]
        if missing:
            raise UserError(
                f"{self} has no feature {', '.join(missing)}; it has {', '.join(features)}. "
                f"Choose the data_processor that fits it."
            )
        if not isinstance(features[label_key], tfds.features.ClassLabel):
            raise UserError(
                f"{self} has a feature {label_key} that is no class (tfds.features.ClassLabel); "
                "choose a data set for classification"
            )
        self.label_names = tuple(features[label_key].names)

    def __str__(self):
        return f"data set {self.processor.dataset} in {self.folder}"

    def fingerprint(self, split):
        """Returns a hash of what the split's rows depend on: the contents of its files."""
        processor = self.processor
        names = (processor.dataset, split, *processor.text_keys, processor.label_key)
        digest = hashlib.sha256("|".join(names).encode())
        for path in self._split_info(split).filepaths:
            try:
                with open(path, "rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
            except OSError as error:
                raise UserError(
                    f"{self} is incomplete: {error}. Copy it there again; or delete the folder, "
                    "and it is prepared anew"
                ) from None
        return digest.hexdigest()

    def num_rows(self, split):
        return self._split_info(split).num_examples

    def read(self, split):
        """Returns a tf.data.Dataset of one split, in the order of its files.

        Elements: (texts: <string>[1 or 2], label: <int64>[]).
        """
        self._split_info(split)
        text_keys, label_key = self.processor.text_keys, self.processor.label_key
        # One file after the other; read once, so there is nothing to keep in memory.
        config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
        rows = self._builder.as_dataset(split=split, shuffle_files=False, read_config=config)
        return rows.map(lambda row: (tf.stack([row[key] for key in text_keys]), row[label_key]))

    def read_texts(self, split):
        """Returns the texts of one split, in row order: list of tuples of str."""
        batches = self.read(split).batch(1024).as_numpy_iterator()
        rows = (row for batch, _ in batches for row in batch)
        return [tuple(text.decode("utf-8", "replace") for text in row) for row in rows]

    def _split_info(self, split):
        """Returns what TFDS knows of a split."""
        splits = self._builder.info.splits
        if split not in splits or not splits[split].num_examples:
            raise UserError(
                f"{self} has no rows in split {split}; its splits are {', '.join(splits)}"
            )
        return splits[split]


def _open(name, data_dir):
    """Returns the TFDS builder of a data set that is prepared by then.

    The sample is always asked for by its builder, which knows whether what is prepared is what the
    project's files hold now.
    """
    is_sample = name.split("/")[0] == SampleGlue.name
    prepared = None if is_sample else _newest_version(data_dir / name)
    if prepared is not None:
        try:
            return tfds.builder_from_directory(prepared)
        except Exception as error:  # whatever a damaged file makes TFDS raise
            raise UserError(
                f"the data set in {prepared} cannot be read ({_reason(error)}). Copy it there "
                "again; or delete the folder, and it is prepared anew"
            ) from error
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except Exception as error:  # an unknown name, an unknown part of it, or one it cannot parse
        raise UserError(
            f"data set {name} is neither prepared in {data_dir / name} nor known to TensorFlow "
            f"Datasets ({_reason(error)}); dataset is a name such as glue/sst2 or sample_glue/sst2"
        ) from error
    tfds.display_progress_bar(not is_sample)  # the sample takes 0.3 s
    try:
        with contextlib.redirect_stdout(sys.stderr):  # results alone go to stdout
            builder.download_and_prepare()
    except Exception as error:  # TFDS lets through whatever the network or the disk raises
        elsewhere = (
            " If it is the network that is missing, run where there is one\n"
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
    """Returns the folder of the highest version that is prepared, or None.

    What a killed download leaves behind has another name, `incomplete.XXXXXX_2.0.0`.
    """
    paths = [info.parent for info in folder.glob("*/dataset_info.json")]
    versions = [path for path in paths if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
    return max(versions, key=lambda path: [*map(int, path.name.split("."))], default=None)


def _reason(error):
    """The kind of an exception and the first line of what it says."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
