# SPDX-License-Identifier: Apache-2.0
"""`train_input`, `eval_input`, `predict_input`: which rows, and how they become batches."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator
from pydantic_core import PydanticCustomError

from common.params.values import (
    BetweenZeroAndOne,
    Count,
    LabelNames,
    Name,
    Path,
    Section,
    TextKeys,
    Whole,
    not_a_number,
    refusal,
    to_int,
)

# One processor in input/sources/processors.py for each.
DataProcessor = Literal[
    "MnliDataProcessor", "Sst2DataProcessor", "TextFileDataProcessor", "TfdsDataProcessor"
]

INPUTS = ("train_input", "eval_input", "predict_input")

# Keys that only one kind of data has.
FILE_KEYS = ("train_file", "eval_file", "text_columns", "label_column")
TFDS_KEYS = ("dataset", "text_keys", "label_key")


class InputParams(Section):
    """Where the text comes from, and how it becomes batches. What the three inputs share."""

    # Which data
    data_processor: DataProcessor = Field(
        description="The kind of data. Sst2, Mnli: that task of GLUE. Tfds: any data set of "
        "TensorFlow Datasets. TextFile: CSV, TSV or JSON Lines files."
    )
    task: Literal["classification", "regression"] = Field(
        "classification",
        description="classification: a label is one of several classes. regression: it is a "
        "number, and the network has one output, trained with the mean squared error.",
    )
    label_names: LabelNames | None = Field(
        None,
        description="The name of each class, from class 0 on. Not given: the data set's; of files, "
        "the distinct labels of train_file in order.",
    )
    max_train_samples: Count | None = Field(
        None, description="Train on that many rows, drawn once and for all. Not given: all."
    )
    max_eval_samples: Count | None = Field(
        None, description="Score or predict that many rows of each split. Not given: all."
    )
    eval_fraction: BetweenZeroAndOne | None = Field(
        None,
        description="Hold this share of the training rows out, and score them instead of another "
        "split or file. Which ones is drawn once and for all.",
    )
    on_bad_row: Literal["error", "skip"] = Field(
        "error",
        description="A row that cannot be used. error: stop, and list all of them. skip: leave "
        "them out, and list them in model_dir/skipped_rows.",
    )

    # Data sets of TensorFlow Datasets
    dataset: str | None = Field(
        None,
        min_length=1,
        validate_default=True,
        description="Name in TensorFlow Datasets, such as sample_glue/sst2. "
        "Not given: the processor's own, glue/sst2 or glue/mnli.",
    )
    data_dir: Path | None = Field(
        None,
        validate_default=True,
        description="Folder in which TensorFlow Datasets keeps, or puts, the prepared data.",
    )
    text_keys: TextKeys | None = Field(
        None,
        validate_default=True,
        description="The data set's features that hold the text, or the two texts of a pair. "
        "Not given: the processor's own.",
    )
    label_key: Name | None = Field(
        None, description="The feature that holds the label. Not given: label."
    )
    feature_rename_map: dict[Name, Name] | None = Field(
        None,
        description="{old: new}. New names for features of the data set, or columns of the files, "
        "before any are looked up: {text: sentence} lets Sst2DataProcessor read a feature text.",
    )

    # Files
    train_file: Path | None = Field(
        None, description="CSV, TSV or JSON Lines file to train on: .csv, .tsv or .jsonl."
    )
    eval_file: Path | None = Field(
        None, description="File to score or predict. Not given: the rows of eval_fraction."
    )
    text_columns: TextKeys | None = Field(
        None,
        validate_default=True,
        description="Columns, or keys of JSON Lines, of the text, or of the two texts of a pair.",
    )
    label_column: Name | None = Field(
        None, description="Column that holds the label, a name or a number. Not given: label."
    )

    # Tokens
    vocab_file: Path | None = Field(
        None,
        description="WordPiece vocabulary: a token a line, or a tokenizer.json. Not given: the "
        "checkpoint brings it.",
    )
    vocab_size: Count | None = Field(
        None, description="Lines of vocab_file. Where it is given, the file has to agree."
    )
    max_sequence_length: Annotated[int, Field(ge=3), BeforeValidator(to_int)] = Field(
        description="Tokens of the longest row, [CLS] and [SEP] among them; longer text is cut."
    )
    do_lower: bool = Field(
        True, strict=True, description="Lower-case the text, as an uncased vocabulary needs."
    )
    add_special_tokens: bool = Field(
        True,
        strict=True,
        description="Put [CLS] before and [SEP] behind each text. false: a row is its texts alone.",
    )
    pad_id: Whole | None = Field(
        None, description="Id that fills rows up. Not given: that of [PAD] in the vocabulary."
    )
    invert_mask: bool = Field(
        True,
        strict=True,
        description="The feature input_mask is 1 on padding and 0 on tokens; false: the other way "
        "round. The network means the same.",
    )

    # Batches
    batch_size: Count = Field(
        description="Rows in a batch, over all devices and machines that share it."
    )
    shuffle: bool = Field(True, strict=True, description="Draw a new order of rows every epoch.")
    shuffle_seed: Whole | None = Field(
        None, description="Seed of those orders. Not given: runconfig.tf_random_seed."
    )
    packing: Literal["auto", "packed", "buckets", "none"] = Field(
        "buckets",
        description="packed: batch random rows, several of which share a row of the network, which "
        "keeps them apart. buckets: batch rows of like length, padded to one of a few lengths. "
        "none: pad every row to max_sequence_length. auto: packed or buckets, whichever computes "
        "less. Evaluation and prediction, where no order of rows matters, pack "
        "them all into batches of one shape, or of two.",
    )
    num_buckets: Count = Field(
        8,
        description="How many lengths `packing: buckets` and `packing: packed` have, at most.",
    )
    cache_dir: Path | None = Field(
        None, description="Folder of the token cache. Not given: ~/.cache/bert_classifier."
    )
    repeat: bool = Field(
        True,
        strict=True,
        description="Begin another epoch after the last row. false: training ends there.",
    )

    # Without effect here (NO_EFFECT)
    drop_remainder: bool = Field(
        True, strict=True, description="Leave out the rows after an epoch's last whole batch."
    )
    shuffle_buffer: Count = Field(1500, description="Rows among which the next one is drawn.")
    cache: bool = Field(False, strict=True, description="Keep the rows in memory.")
    disable_eval_metrics: bool = Field(
        False, strict=True, description="Leave out the metrics of an evaluation."
    )
    mixed_precision: Annotated[bool | str, BeforeValidator(not_a_number)] = Field(
        False, description="The original's copy of model.mixed_precision."
    )
    scale_mlm_weights: bool = Field(
        False, strict=True, description="Of pre-training: scale the masked words' weights."
    )

    @field_validator(*FILE_KEYS, *TFDS_KEYS, "data_dir")
    @classmethod
    def keys_fit_the_processor(cls, value, info):
        """Asks for the keys that a data_processor needs, and refuses those of another."""
        processor, key = info.data.get("data_processor"), info.field_name
        of_files = processor == "TextFileDataProcessor"
        if processor is None:
            return value
        if value is None:
            if key == "data_dir" and not of_files:
                raise PydanticCustomError("missing", "not given")
            needed = {"text_columns"} if of_files else set()
            needed = {"dataset", "text_keys"} if processor == "TfdsDataProcessor" else needed
            if key in needed:
                raise refusal(f"not given; {processor} needs it")
        elif key in (TFDS_KEYS if of_files else FILE_KEYS):
            other = "Sst2, Mnli and TfdsDataProcessor" if of_files else "TextFileDataProcessor"
            raise refusal(f"belongs to {other}, but data_processor is {processor}; leave it out")
        return value


class TrainInputParams(InputParams):
    """Rows to train on."""


class EvalInputParams(InputParams):
    """Rows to score: each of them, once, in the order of the data set."""

    shuffle: bool = Field(
        False, strict=True, description="Draw an order of rows; they are read in the data's order."
    )
    drop_remainder: bool = Field(
        False, strict=True, description="Leave out the rows after the last whole batch."
    )
    repeat: bool = Field(False, strict=True, description="Begin again after the last row.")


# What an input that is copied from train_input does otherwise than training.
EVALUATION = {"shuffle": False, "drop_remainder": False, "repeat": False}
