# SPDX-License-Identifier: Apache-2.0
"""The table of data processors: the data set, features and splits that each of them reads.

Another task on TFDS data is a row here and a name in `common/params/inputs.py`.
"""

from dataclasses import dataclass, replace

from input.sources.text_files import TextFileSource
from input.sources.tfds import TfdsSource


@dataclass(frozen=True)
class DataProcessor:
    """A data set, its features and its splits."""

    dataset: str  # name in TFDS, `builder/config`; `text_files` for files
    text_keys: tuple[str, ...]  # one feature name or column (a sentence) or two (a pair)
    eval_splits: tuple[str, ...]  # scored together and separately; empty: the source chooses them
    label_key: str = "label"  # feature name or column of the label
    train_split: str = "train"


# GLUE (Wang et al. 2019) as TFDS names it. The hidden test splits have no labels and are not used.
PROCESSORS = {
    "Sst2DataProcessor": DataProcessor("glue/sst2", ("sentence",), ("validation",)),
    "MnliDataProcessor": DataProcessor(
        "glue/mnli", ("premise", "hypothesis"), ("validation_matched", "validation_mismatched")
    ),
    "TfdsDataProcessor": DataProcessor("", (), ()),
    "TextFileDataProcessor": DataProcessor("text_files", (), ("validation",)),
}


def get_processor(cfg):
    """Returns the DataProcessor that InputParams `cfg` name, with the keys of `cfg` filled in."""
    keys = {
        "dataset": cfg.dataset,
        "text_keys": cfg.text_keys or cfg.text_columns,
        "label_key": cfg.label_key or cfg.label_column,
    }
    keys = {name: value for name, value in keys.items() if value is not None}
    processor = replace(PROCESSORS[cfg.data_processor], **keys)
    old_names = {new: old for old, new in (cfg.feature_rename_map or {}).items()}
    return replace(
        processor,
        text_keys=tuple(old_names.get(key, key) for key in processor.text_keys),
        label_key=old_names.get(processor.label_key, processor.label_key),
    )


def open_source(cfg, targets, needs_targets=True):
    """Returns the Source that InputParams `cfg` name.

    targets: Targets of the task; needs_targets: bool, see Source.
    """
    kind = TextFileSource if cfg.data_processor == "TextFileDataProcessor" else TfdsSource
    return kind(cfg, get_processor(cfg), targets, needs_targets)
