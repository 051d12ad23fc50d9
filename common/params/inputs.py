# SPDX-License-Identifier: Apache-2.0
"""`train_input`, `eval_input`, `predict_input`: which rows, and how they become batches."""

from functools import partial
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from common.params import pretraining, words
from common.params.documents import DOCUMENTS, DocumentKeys
from common.params.records import WriterKeys
from common.params.values import (
    BetweenZeroAndOne,
    Character,
    Count,
    CourseKey,
    Key,
    LabelNames,
    Name,
    Names,
    Path,
    Paths,
    Section,
    Switch,
    TextKeys,
    Whole,
    not_a_number,
    refusal,
    to_int,
)

DataKey = partial(Key, compiled=False)  # programs depend only on the shapes of batches
# In an evaluation the size of batches decides nothing else.
BatchKey = partial(DataKey, changes_in_evaluation="speed")
# Decides which rows there are: eval_fraction must divide the same rows in both inputs.
RowsKey = partial(DataKey, same_in_inputs="with eval_fraction")

# One processor in input/sources/processors.py for each.
DataProcessor = Literal[
    "MnliDataProcessor",
    "Sst2DataProcessor",
    "TextFileDataProcessor",
    "TfdsDataProcessor",
    *pretraining.PROCESSORS,
    *words.PROCESSORS,
    *words.QUESTION_PROCESSORS,
]
# {task: the data processors that imply it, and go with no other}. Tasks of words read data sets of
# TensorFlow Datasets, too.
PROCESSORS_OF_TASK = {
    pretraining.TASK: pretraining.PROCESSORS,
    words.TAGGING: words.PROCESSORS,
    words.ANSWERING: words.QUESTION_PROCESSORS,
}

INPUTS = ("train_input", "eval_input", "predict_input")

# Keys that only one kind of data has.
FILE_KEYS = (
    *("train_file", "eval_file", "text_columns", "label_column", "label_separator"),
    *("delimiter", "id_columns"),
)
TAGGED_KEYS = ("train_file", "eval_file", "text_columns", "label_column", "delimiter")
TFDS_KEYS = ("dataset", "text_keys", "label_key")
TEXT_FILES = "TextFileDataProcessor"
OF_FILES = (
    TEXT_FILES,
    words.TAGGED_FILES,
    words.QUESTION_FILES,
)  # the processors that read train_file and eval_file
TFDS_PROCESSORS = ("Sst2DataProcessor", "MnliDataProcessor", "TfdsDataProcessor")
# {key: the processors that read it}, and what they need.
READERS = {
    **dict.fromkeys(FILE_KEYS, (TEXT_FILES,)),
    **dict.fromkeys(TAGGED_KEYS, (TEXT_FILES, words.TAGGED_FILES)),
    **dict.fromkeys(("train_file", "eval_file"), OF_FILES),
    **dict.fromkeys(TFDS_KEYS, TFDS_PROCESSORS),
    "text_columns": (TEXT_FILES, words.TAGGED_FILES, DOCUMENTS),
    **dict.fromkeys(("dataset", "text_keys"), (*TFDS_PROCESSORS, DOCUMENTS)),
    **dict.fromkeys((*DocumentKeys.model_fields, *WriterKeys.model_fields), (DOCUMENTS,)),
}
RECORDS = (*pretraining.RECORDS, words.TAGGED_RECORDS)  # the processors of folders of records
NEEDED_KEYS = {
    TEXT_FILES: ("text_columns",),
    **dict.fromkeys((*TFDS_PROCESSORS, *RECORDS), ("data_dir",)),
    "TfdsDataProcessor": ("data_dir", "dataset", "text_keys"),
}
NAMES_OF_CLASSES = ("train_file", "label_names")  # eval_input takes these keys from train_input


class InputParams(Section):
    """The keys of all inputs: where the text comes from, and how it becomes batches."""

    # Which data
    data_processor: DataProcessor = RowsKey(
        ...,
        "The kind of data. Sst2, Mnli: that task of GLUE. Tfds: any data set of TensorFlow "
        "Datasets. TextFile: CSV, TSV or JSON Lines files. TaggedText: sentences with a label for "
        "each word, in CoNLL files or JSON Lines. Ner: the original's records of such sentences. "
        "QuestionAnswering: questions on texts, in files of SQuAD or JSON Lines, or records.",
    )
    task: Literal[
        *("classification", "multi_label", "regression", "pretraining", "token_classification"),
        "question_answering",
    ] = Key(
        "classification",
        "classification: a label is one of several classes. multi_label: a row has any number of "
        "several labels, each with a sigmoid, trained with the binary cross entropy. regression: a "
        "label is a number, and the network has one output, trained with the mean squared error. "
        "pretraining: masked words and the order of sentences. token_classification: a label for "
        "each word, such as named entities. question_answering: where the answer to a question "
        "stands in a text. All three are implied by their data_processors.",
        same_in_inputs="always",
    )
    label_names: LabelNames | None = RowsKey(
        None,
        "The names of the classes, starting at class 0. Not given: those of the data set, or the "
        "sorted distinct labels of train_file. Files take them from train_input, too.",
    )
    max_train_samples: Count | None = DataKey(
        None, "Train on a fixed random sample of that many rows. Not given: all."
    )
    max_eval_samples: Count | None = DataKey(
        None, "Score or predict that many rows of each split. Not given: all."
    )
    eval_fraction: BetweenZeroAndOne | None = RowsKey(
        None,
        "Hold out a fixed random fraction of the training rows. An input without eval_file scores "
        "these instead of another split.",
    )
    on_bad_row: Literal["error", "skip"] = RowsKey(
        "error",
        "What happens to rows that cannot be used. error: stop, and list all of them. skip: leave "
        "them out, and list them in model_dir/skipped_rows.",
    )

    # Data sets of TensorFlow Datasets
    dataset: str | None = RowsKey(
        None,
        "Name in TensorFlow Datasets, such as sample_glue/sst2. Not given: the processor's, "
        "glue/sst2 or glue/mnli.",
        min_length=1,
        validate_default=True,
    )
    data_dir: Paths | None = RowsKey(
        None,
        "Folder of the prepared data of TensorFlow Datasets, which is prepared there if it is "
        "missing; or of records, files named *.tfrecord*, of which there may be a list.",
        validate_default=True,
        changes="where and how long",
        flag=True,
    )
    text_keys: TextKeys | None = RowsKey(
        None,
        "The feature of the data set that holds the text, or the two of a pair. Not given: the "
        "processor's.",
        validate_default=True,
    )
    label_key: Name | None = RowsKey(None, "The feature that holds the label. Not given: label.")
    feature_rename_map: dict[Name, Name] | None = Key(
        None,
        "{old: new}. Renames features of the data set, or columns of the files, before they are "
        "looked up: {text: sentence} lets Sst2DataProcessor read a feature text.",
        same_in_inputs="with eval_fraction",
    )

    # Files
    train_file: Path | None = RowsKey(
        None,
        "File to train on: .csv, .tsv or .jsonl (JSON Lines). Not given in eval_input: that of "
        "train_input, whose labels name the classes.",
        names_data=True,
        flag=True,
    )
    eval_file: Path | None = DataKey(
        None,
        "File to score or predict, whole. Not given: the rows of eval_fraction.",
        names_data=True,
        flag=True,
    )
    text_columns: TextKeys | None = RowsKey(
        None,
        "The column, or key of JSON Lines, that holds the text, or the two of a pair. Of tagged "
        "text, the number of the column of the words, from 0. Not given there: the first.",
        validate_default=True,
        flag=True,
    )
    label_column: Name | None = RowsKey(
        None,
        "The column that holds the label, a name or a number. Not given: label; of tagged text, "
        "the last.",
        flag=True,
    )
    label_separator: str | None = RowsKey(
        None,
        "With `task: multi_label`, what stands between the labels of a row in a text, such as a "
        "semicolon. Not given: JSON Lines have lists of labels.",
        min_length=1,
    )
    delimiter: Character | None = RowsKey(
        None,
        "The character between the columns of CSV and TSV files. Not given: a comma in .csv, a "
        "tab in .tsv.",
        flag=True,
    )
    id_columns: Names | None = DataKey(
        None,
        "Further columns of the file, such as a number of each row, which predictions have beside "
        "the text.",
        changes="where and how long",
    )

    # Tokens
    vocab_file: Path | None = CourseKey(
        None,
        "Vocabulary: of WordPiece, one token per line or a tokenizer.json; of byte-level BPE, a "
        "tokenizer.json or a vocab.json with its merges.txt; of ALBERT, a tokenizer.json or its "
        ".model. Not given: the checkpoint brings it.",
    )
    vocab_size: Count | None = CourseKey(
        None, "Number of lines in vocab_file. If given, it must match the file."
    )
    max_sequence_length: Annotated[int, Field(ge=3), BeforeValidator(to_int)] = DataKey(
        ...,
        "Length of the longest row in tokens, including [CLS] and [SEP]; longer text is cut.",
        flag=True,
    )
    do_lower: Switch = DataKey(
        True,
        "Lower-case the text, as an uncased vocabulary needs. Not given: as the checkpoint says of "
        "its vocabulary, and true where it says nothing. Other vocabularies than "
        "WordPiece say what they do.",
    )
    add_special_tokens: Switch = DataKey(
        True,
        "Put [CLS] before and [SEP] after each text. false: a row holds only its texts.",
        same_in_inputs="always",
    )
    pad_id: Whole | None = DataKey(
        None, "Id of padding. Not given: that of [PAD] in the vocabulary."
    )
    invert_mask: Switch = Key(
        True,
        "The feature input_mask is 1 on padding and 0 on tokens; false: the reverse. The network "
        "computes the same.",
        same_in_inputs="always",
    )

    # Batches
    batch_size: Count = BatchKey(
        ..., "Rows in a batch, over all devices and machines that share it.", flag=True
    )
    shuffle: Switch = DataKey(True, "Draw a new order of rows in every epoch.")
    shuffle_seed: Whole | None = DataKey(
        None,
        "Seed of the order of rows. Not given: runconfig.tf_random_seed.",
        only_with={"shuffle": (True,)},
    )
    packing: Literal["auto", "packed", "buckets", "none"] = BatchKey(
        "buckets",
        "packed: batches of random rows, several of which share a row of the network without "
        "attending to one another. buckets: batches of rows of similar length, padded to one of a "
        "few lengths. none: pad every row to max_sequence_length. auto: packed or buckets, "
        "whichever computes less. Evaluation and prediction, where the order does not matter, "
        "pack all rows into batches of one or two shapes.",
    )
    num_buckets: Count = BatchKey(
        8,
        "Largest number of different lengths of `packing: buckets` and `packing: packed`.",
        only_with={"packing": ("auto", "packed", "buckets")},
    )
    cache_dir: Path | None = CourseKey(
        None, "Folder of the token cache. Not given: ~/.cache/bert_classifier."
    )
    repeat: Switch = DataKey(
        True, "Start another epoch after the last row. false: training ends there."
    )

    # Without effect here
    drop_remainder: Switch = DataKey(
        True,
        "Leave out the rows after the last whole batch of an epoch.",
        no_effect="every update has batch_size rows, and every row is scored, those of the last "
        "short batch too",
    )
    shuffle_buffer: Count = DataKey(
        1500,
        "Number of rows from which the next one is drawn.",
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
        no_effect="model.mixed_precision decides",
    )
    scale_mlm_weights: Switch = DataKey(
        False,
        "Pre-training: scale the weights of the masked words.",
        no_effect="model.mlm_loss_scaling decides",
    )

    @model_validator(mode="before")
    @classmethod
    def derive_task(cls, values):
        """The data of pre-training and of token classification implies its task."""
        if not isinstance(values, dict) or values.get("task") is not None:
            return values
        processor = values.get("data_processor")
        implied = [task for task, names in PROCESSORS_OF_TASK.items() if processor in names]
        return values | {"task": implied[0]} if implied else values

    @field_validator(*FILE_KEYS, *TFDS_KEYS, "data_dir")
    @classmethod
    def keys_fit_the_processor(cls, value, info):
        """Requires the keys that the data_processor needs, and refuses those of another one."""
        processor, key = info.data.get("data_processor"), info.field_name
        if processor is None:
            return value
        if isinstance(value, tuple) and key == "data_dir" and processor not in RECORDS:
            raise refusal(f"is a list, but {processor} reads one folder; write its path")
        if value is None:
            if key in NEEDED_KEYS.get(processor, ()):
                if key == "data_dir":
                    raise PydanticCustomError("missing", "not given")
                raise refusal(f"not given; {processor} needs it")
        elif processor not in READERS.get(key, (processor,)):
            *others, last = READERS[key]
            readers = f"{', '.join(others)} and {last}" if others else last
            raise refusal(f"belongs to {readers}, but data_processor is {processor}; leave it out")
        return value

    @property
    def scores_held_out(self):
        """Whether the rows to score or predict are those that eval_fraction holds out."""
        return self.eval_fraction is not None and not (self.eval_file or self.eval_documents)


class TrainInputParams(
    WriterKeys,
    words.WordKeys,
    pretraining.RecordKeys,
    pretraining.MaskingKeys,
    DocumentKeys,
    InputParams,
):
    """Rows to train on."""


class EvalInputParams(
    WriterKeys,
    words.WordKeys,
    pretraining.RecordKeys,
    pretraining.MaskingKeys,
    DocumentKeys,
    InputParams,
):
    """Rows to score or predict: each once, in the order of the data."""

    shuffle: Switch = DataKey(
        False,
        "Draw an order of rows. Rows are read in the order of the data.",
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
        "Start again after the last row.",
        no_effect="evaluation and prediction read every row once; runconfig.eval_steps limits an "
        "evaluation",
    )


# The keys whose values an input does not take from train_input.
NOT_FROM_TRAINING = ("masked_lm_prob",)
EVALUATION = {
    name: field.default
    for name, field in EvalInputParams.model_fields.items()
    if field.default != TrainInputParams.model_fields[name].default or name in NOT_FROM_TRAINING
}
