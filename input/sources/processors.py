# SPDX-License-Identifier: Apache-2.0
"""The table of data processors: the data set, features and splits that each of them reads.

Another task on TFDS data is a row here and a name in `common/params/inputs.py`.
"""

from dataclasses import dataclass, replace

from common.params.inputs import TEXT_FILES
from common.params.words import QUESTION_FILES, TAGGED_FILES, TAGGED_RECORDS
from input.sources.question_files import QuestionFileSource
from input.sources.tagged_files import LABEL, WORD, TaggedFileSource
from input.sources.text_files import TextFileSource
from input.sources.tfds import TfdsSource
from input.sources.tfds_words import TfdsQuestionSource, TfdsTaggedSource
from input.sources.word_records import TaggedRecordSource


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
    QUESTION_FILES: DataProcessor("question_files", ("question", "context"), ("validation",)),
    TAGGED_FILES: DataProcessor("tagged_files", (WORD,), ("validation",), LABEL),
    TAGGED_RECORDS: DataProcessor("tagged_records", ("input_ids",), ("validation",), "label_ids"),
}

# {data processor: its source}, where it is none of TFDS.
SOURCES = {
    TEXT_FILES: TextFileSource,
    TAGGED_FILES: TaggedFileSource,
    TAGGED_RECORDS: TaggedRecordSource,
    QUESTION_FILES: QuestionFileSource,
}
# {what rows are of: the source of a data set of TFDS}, where it is another one than TfdsSource.
OF_TFDS = {"words": TfdsTaggedSource, "questions": TfdsQuestionSource}


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
    of_tfds = OF_TFDS.get(targets.rows, TfdsSource)
    kind = SOURCES.get(cfg.data_processor, of_tfds)
    return kind(cfg, get_processor(cfg), targets, needs_targets)
