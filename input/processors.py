# SPDX-License-Identifier: Apache-2.0
"""Where the text comes from: one processor per kind of data, over TensorFlow Datasets (TFDS)."""

import hashlib
from dataclasses import dataclass
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
    return DataProcessor(cfg.dataset, processor.text_keys, processor.eval_splits)


class TextDataset:
    """A prepared TFDS data set: its texts, labels, label names, and a fingerprint of its files.

    Opening it prepares what is not prepared yet: the embedded sample from the project's own files,
    any other by TFDS, which downloads it.

    Args:
        cfg: InputParams: data_processor, dataset, data_dir.
    Raises:
        UserError: it is neither prepared nor can it be, or it lacks a feature.
    """

    def __init__(self, cfg):
        self.processor = get_processor(cfg)
        self.data_dir = Path(cfg.data_dir)
        self.builder = self._open()
        features = self.builder.info.features
        wanted = (*self.processor.text_keys, self.processor.label_key)
        missing = [key for key in wanted if key not in features]
        if missing:
            raise UserError(
                f"data set {self.processor.dataset} has no feature {', '.join(missing)}; it has "
                f"{', '.join(features)}. Choose the data_processor that fits it."
            )
        self.label_names = tuple(features[self.processor.label_key].names)

    def _open(self):
        name = self.processor.dataset
        folder = self.data_dir / name
        versions = sorted(folder.glob("*/dataset_info.json"))
        if versions:
            return tfds.builder_from_directory(versions[-1].parent)
        if name.split("/")[0] == SampleGlue.name:
            builder = SampleGlue(config=name.split("/")[1], data_dir=self.data_dir)
            builder.download_and_prepare()
            return builder
        try:
            builder = tfds.builder(name, data_dir=self.data_dir)
            builder.download_and_prepare()
            return builder
        except Exception as error:  # TFDS lets through whatever the network layer raises
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise UserError(
                f"data set {name} is not prepared in {folder} and could not be downloaded "
                f"({type(error).__name__}: {reason}). On a machine with a network run\n"
                f"  python -c \"import tensorflow_datasets as tfds; tfds.load('{name}', "
                f"data_dir='DIR')\"\n"
                f"copy DIR here, and give it as data_dir (or --data_dir)."
            ) from error

    def fingerprint(self, split):
        """Returns a hash of what the split's rows depend on: the files' names, sizes and times."""
        digest = hashlib.sha256(self.processor.dataset.encode())
        digest.update("|".join((split, *self.processor.text_keys)).encode())
        self._check_split(split)
        for file in self.builder.info.splits[split].filepaths:
            stat = Path(file).stat()
            digest.update(f"|{Path(file).name}:{stat.st_size}:{stat.st_mtime_ns}".encode())
        return digest.hexdigest()

    def num_rows(self, split):
        self._check_split(split)
        return self.builder.info.splits[split].num_examples

    def read(self, split):
        """Returns a tf.data.Dataset of one split, in the order of its files.

        Elements: (texts: <string>[1 or 2], label: <int64>[]).
        """
        self._check_split(split)
        text_keys, label_key = self.processor.text_keys, self.processor.label_key
        config = tfds.ReadConfig(interleave_cycle_length=1)  # one file after the other
        rows = self.builder.as_dataset(split=split, shuffle_files=False, read_config=config)
        return rows.map(lambda row: (tf.stack([row[key] for key in text_keys]), row[label_key]))

    def read_texts(self, split):
        """Returns the texts of one split, in row order: list of tuples of str."""
        rows = self.read(split).as_numpy_iterator()
        return [tuple(t.decode("utf-8", "replace") for t in texts) for texts, _ in rows]

    def _check_split(self, split):
        splits = self.builder.info.splits
        if split not in splits:
            raise UserError(
                f"data set {self.processor.dataset} in {self.data_dir} has no split {split}; "
                f"it has {', '.join(splits)}"
            )
