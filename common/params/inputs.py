# SPDX-License-Identifier: Apache-2.0
"""`train_input`, `eval_input`, `predict_input`: which rows, and how they become batches."""

from functools import partial
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator
from pydantic_core import PydanticCustomError

from common.params.values import (
    BetweenZeroAndOne,
    Count,
    Key,
    LabelNames,
    Name,
    Path,
    Section,
    Switch,
    TextKeys,
    Whole,
    not_a_number,
    refusal,
    to_int,
)

DataKey = partial(Key, compiled=False)  # of it a program sees only the shapes of batches
# Says which rows there are, so that eval_fraction divides the same rows for both inputs.
RowsKey = partial(DataKey, same_in_inputs="with eval_fraction")

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
    data_processor: DataProcessor = RowsKey(
        ...,
        "The kind of data. Sst2, Mnli: that task of GLUE. Tfds: any data set of "
        "TensorFlow Datasets. TextFile: CSV, TSV or JSON Lines files.",
    )
    task: Literal["classification", "regression"] = Key(
        "classification",
        "classification: a label is one of several classes. regression: it is a "
        "number, and the network has one output, trained with the mean squared error.",
        same_in_inputs="always",
    )
    label_names: LabelNames | None = RowsKey(
        None,
        "The name of each class, from class 0 on. Not given: the data set's; of files, "
        "the distinct labels of train_file in order.",
    )
    max_train_samples: Count | None = DataKey(
        None, "Train on that many rows, drawn once and for all. Not given: all."
    )
    max_eval_samples: Count | None = DataKey(
        None, "Score or predict that many rows of each split. Not given: all."
    )
    eval_fraction: BetweenZeroAndOne | None = RowsKey(
        None,
        "Hold this share of the training rows out, and score them instead of another "
        "split or file. Which ones is drawn once and for all.",
    )
    on_bad_row: Literal["error", "skip"] = RowsKey(
        "error",
        "A row that cannot be used. error: stop, and list all of them. skip: leave "
        "them out, and list them in model_dir/skipped_rows.",
    )

    # Data sets of TensorFlow Datasets
    dataset: str | None = RowsKey(
        None,
        "Name in TensorFlow Datasets, such as sample_glue/sst2. "
        "Not given: the processor's own, glue/sst2 or glue/mnli.",
        min_length=1,
        validate_default=True,
    )
    data_dir: Path | None = RowsKey(
        None,
        "Folder in which TensorFlow Datasets keeps, or puts, the prepared data.",
        validate_default=True,
        changes="where and how long",
        flag=True,
    )
    text_keys: TextKeys | None = RowsKey(
        None,
        "The data set's features that hold the text, or the two texts of a pair. "
        "Not given: the processor's own.",
        validate_default=True,
    )
    label_key: Name | None = RowsKey(
        None,
        "The feature that holds the label. Not given: label.",
    )
    feature_rename_map: dict[Name, Name] | None = Key(
        None,
        "{old: new}. New names for features of the data set, or columns of the files, "
        "before any are looked up: {text: sentence} lets Sst2DataProcessor read a feature text.",
        same_in_inputs="with eval_fraction",
    )

    # Files
    train_file: Path | None = RowsKey(
        None,
        "CSV, TSV or JSON Lines file to train on: .csv, .tsv or .jsonl.",
        names_data=True,
    )
    eval_file: Path | None = DataKey(
        None, "File to score or predict. Not given: the rows of eval_fraction.", names_data=True
    )
    text_columns: TextKeys | None = RowsKey(
        None,
        "Columns, or keys of JSON Lines, of the text, or of the two texts of a pair.",
        validate_default=True,
    )
    label_column: Name | None = RowsKey(
        None,
        "Column that holds the label, a name or a number. Not given: label.",
    )

    # Tokens
    vocab_file: Path | None = DataKey(
        None,
        "WordPiece vocabulary: a token a line, or a tokenizer.json. Not given: the "
        "checkpoint brings it.",
        changes="where and how long",
    )
    vocab_size: Count | None = DataKey(
        None,
        "Lines of vocab_file. Where it is given, the file has to agree.",
        changes="where and how long",
    )
    max_sequence_length: Annotated[int, Field(ge=3), BeforeValidator(to_int)] = DataKey(
        ..., "Tokens of the longest row, [CLS] and [SEP] among them; longer text is cut."
    )
    do_lower: Switch = DataKey(True, "Lower-case the text, as an uncased vocabulary needs.")
    add_special_tokens: Switch = DataKey(
        True,
        "Put [CLS] before and [SEP] behind each text. false: a row is its texts alone.",
        same_in_inputs="always",
    )
    pad_id: Whole | None = DataKey(
        None, "Id that fills rows up. Not given: that of [PAD] in the vocabulary."
    )
    invert_mask: Switch = Key(
        True,
        "The feature input_mask is 1 on padding and 0 on tokens; false: the other way "
        "round. The network means the same.",
        same_in_inputs="always",
    )

    # Batches
    batch_size: Count = DataKey(
        ...,
        "Rows in a batch, over all devices and machines that share it.",
        changes_in_evaluation="speed",
    )
    shuffle: Switch = DataKey(True, "Draw a new order of rows every epoch.")
    shuffle_seed: Whole | None = DataKey(
        None, "Seed of those orders. Not given: runconfig.tf_random_seed."
    )
    packing: Literal["auto", "packed", "buckets", "none"] = DataKey(
        "buckets",
        "packed: batch random rows, several of which share a row of the network, which "
        "keeps them apart. buckets: batch rows of like length, padded to one of a few lengths. "
        "none: pad every row to max_sequence_length. auto: packed or buckets, whichever computes "
        "less. Evaluation and prediction, where no order of rows matters, pack "
        "them all into batches of one shape, or of two.",
        changes_in_evaluation="speed",
    )
    num_buckets: Count = DataKey(
        8,
        "How many lengths `packing: buckets` and `packing: packed` have, at most.",
        changes_in_evaluation="speed",
    )
    cache_dir: Path | None = DataKey(
        None,
        "Folder of the token cache. Not given: ~/.cache/bert_classifier.",
        changes="where and how long",
    )
    repeat: Switch = DataKey(
        True, "Begin another epoch after the last row. false: training ends there."
    )

    # Without effect here
    drop_remainder: Switch = DataKey(
        True,
        "Leave out the rows after an epoch's last whole batch.",
        no_effect="every update has batch_size rows, and every row is scored, those of the last "
        "short batch too",
    )
    shuffle_buffer: Count = DataKey(
        1500,
        "Rows among which the next one is drawn.",
        no_effect="every epoch is a new order of all rows, without a buffer",
    )
    cache: Switch = DataKey(
        False,
        "Keep the rows in memory.",
        changes="nothing",
        no_effect="the tokens are always kept in memory, and on disk in cache_dir",
    )
    disable_eval_metrics: Switch = DataKey(
        False,
        "Leave out the metrics of an evaluation.",
        no_effect="the metrics cost milliseconds, and are always reported; --mode train evaluates "
        "nothing",
    )
    mixed_precision: Annotated[bool | str, BeforeValidator(not_a_number)] = DataKey(
        False,
        "The original's copy of model.mixed_precision.",
        no_effect="model.mixed_precision says it",
    )
    scale_mlm_weights: Switch = DataKey(
        False,
        "Of pre-training: scale the masked words' weights.",
        no_effect="a classifier predicts no masked words",
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

    shuffle: Switch = DataKey(
        False,
        "Draw an order of rows; they are read in the data's order.",
        no_effect="evaluation and prediction read the rows in order; shuffle of train_input is "
        "what training draws",
    )
    drop_remainder: Switch = DataKey(
        False,
        "Leave out the rows after the last whole batch.",
        no_effect="every update has batch_size rows, and every row is scored, those of the last "
        "short batch too",
    )
    repeat: Switch = DataKey(
        False,
        "Begin again after the last row.",
        no_effect="evaluation and prediction read every row once; runconfig.eval_steps limits an "
        "evaluation",
    )


# What an input that is copied from train_input does otherwise than training.
EVALUATION = {
    name: field.default
    for name, field in EvalInputParams.model_fields.items()
    if field.default != TrainInputParams.model_fields[name].default
}
