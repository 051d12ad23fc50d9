# SPDX-License-Identifier: Apache-2.0
"""TFDS builder of the embedded sample: `sample_glue/sst2` and `sample_glue/mnli`.

Features and label order are those of TFDS' `glue/sst2` and `glue/mnli`, so that the sample takes
the same path as the real data. The rows are in the TSV files beside this file.
"""

import csv
import zlib
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

FOLDER = Path(__file__).parent
TEXT_KEYS = {"sst2": ("sentence",), "mnli": ("premise", "hypothesis")}
LABEL_NAMES = {
    "sst2": ("negative", "positive"),
    "mnli": ("entailment", "neutral", "contradiction"),
}
SPLITS = {
    "sst2": ("train", "validation"),
    "mnli": ("train", "validation_matched", "validation_mismatched"),
}


def _version():
    """Returns 1.0.n, n a checksum of the rows, so that an edited file is prepared again."""
    rows = b"".join(path.read_bytes() for path in sorted(FOLDER.glob("*.tsv")))
    return tfds.core.Version(f"1.0.{zlib.crc32(rows)}")


class SampleGlue(tfds.core.GeneratorBasedBuilder):
    """Sentences with their sentiment and pairs with their relation, in the format of GLUE."""

    VERSION = _version()
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in TEXT_KEYS]  # noqa: RUF012

    def _info(self):
        name = self.builder_config.name
        features = {key: tfds.features.Text() for key in TEXT_KEYS[name]}
        features["label"] = tfds.features.ClassLabel(names=LABEL_NAMES[name])
        features["idx"] = tfds.features.Scalar(dtype=np.int32)
        return self.dataset_info_from_configs(
            description="Sentences written for this project; no row stems from another data set.",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing to download
        name = self.builder_config.name
        return {
            split: self._generate_examples(FOLDER / f"{name}_{split}.tsv") for split in SPLITS[name]
        }

    def _generate_examples(self, path):
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            for idx, row in enumerate(rows):
                yield idx, {**row, "label": int(row["label"]), "idx": idx}
