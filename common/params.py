# SPDX-License-Identifier: Apache-2.0
"""Every key that a YAML file may hold: its type, range, default and meaning.

`utils.get_params` reads a file into `Params`; the rest of the project sees checked, frozen values:
`params.model.hidden_size`, `params.runconfig.max_steps`. Read this file to learn the keys. Their
names and meaning are those of the original Cerebras TensorFlow BERT classifier (Model Zoo 1.7.1).

The sections are the top level of a file:

    train_input: {...}      InputParams      rows to train on
    eval_input: {...}       InputParams      rows to score; absent: as train_input, in order
    predict_input: {...}    InputParams      as eval_input, with the keys given here in place
    model: {...}            ModelParams      the network
    optimizer: {...}        OptimizerParams  one update of the weights
    runconfig: {...}        RunParams        what to do, for how long, what to keep
    csconfig: {...}         CsParams         a CS system, and how it is reached

An empty value (`null`) means "not given". A number may be written as text: PyYAML reads `1e-6` so.
"""

import json
import math
import os
import re
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from common.errors import UserError

# ---- Kinds of value ------------------------------------------------------------------------------


def found(value):
    """The value as YAML would write it, for a message; cut when it is long."""
    text = (
        repr(value)
        if isinstance(value, str)
        else json.dumps(value, default=str, ensure_ascii=False)
    )
    return text if len(text) <= 60 else text[:57] + "..."


def refusal(text):
    """The exception of a validator whose text stands behind the dotted key, as it is."""
    return PydanticCustomError("refused", "{text}", {"text": text})


def to_float(value):
    """A finite number, or the text of one, as a float. True and false are no numbers."""
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise refusal(f"is {found(value)}; a number is wanted, such as 0.1 or 1e-6")


def to_int(value):
    """A whole number, or the text of one (`2e4` is 20000), as an int."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        number = to_float(value)
    except PydanticCustomError:
        number = math.nan
    if number == number // 1:
        return int(number)
    raise refusal(f"is {found(value)}; a whole number is wanted")


def to_path(value):
    """The name of a file or folder, `~` expanded; a relative one starts where the command runs."""
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise refusal(f"is {found(value)}; the path of a file or folder is wanted")
    return os.path.expanduser(value)


def to_names(value):
    """One name, or a list of names."""
    return (value,) if isinstance(value, str) else value


def to_lower(value):
    return value.lower() if isinstance(value, str) else value


def to_name(value):
    """A name as text: `1` is "1". YAML reads an unquoted `no` or `yes` as false or true."""
    if isinstance(value, bool):
        raise refusal(
            f"is {found(value)}, as YAML reads no, yes, on and off; put the name between quotes"
        )
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str) and value.strip():
        return value
    raise refusal(f"is {found(value)}; a name is wanted")


def to_text_keys(value):
    """One name, or a list of one or two."""
    value = to_names(value)
    if isinstance(value, list | tuple) and 1 <= len(value) <= 2:
        return tuple(map(to_name, value))
    raise refusal(f"is {found(value)}; a name is wanted, or a list of two for pairs")


def to_label_names(value):
    """A list of two or more names, all different."""
    if not isinstance(value, list | tuple) or len(value) < 2:
        raise refusal(f"is {found(value)}; a list of a name for each class is wanted")
    names = tuple(map(to_name, value))
    if len(set(names)) < len(names):
        raise refusal(f"is {found(value)}; a name stands twice in it, and each is one class")
    return names


def not_a_number(value):
    """1 would pass for true, which it equals in Python."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise refusal(f"is {found(value)}; true, false or the name of a dtype policy is wanted")
    return value


MAX_INT = 2**63 - 1  # what TensorFlow's int64 holds

Count = Annotated[int, Field(gt=0, le=MAX_INT), BeforeValidator(to_int)]
Whole = Annotated[int, Field(ge=0, le=MAX_INT), BeforeValidator(to_int)]
PadId = Annotated[int, Field(ge=-1, le=MAX_INT), BeforeValidator(to_int)]
Seed = Annotated[int, Field(ge=0, lt=2**32), BeforeValidator(to_int)]  # NumPy's bound
Number = Annotated[float, BeforeValidator(to_float)]
Positive = Annotated[float, Field(gt=0), BeforeValidator(to_float)]
NonNegative = Annotated[float, Field(ge=0), BeforeValidator(to_float)]
Probability = Annotated[float, Field(ge=0, lt=1), BeforeValidator(to_float)]
# A factor whose multiples and fractions float32 holds.
Scale = Annotated[float, Field(ge=2.0**-126, le=2.0**127), BeforeValidator(to_float)]
BetweenZeroAndOne = Annotated[float, Field(gt=0, lt=1), BeforeValidator(to_float)]
Path = Annotated[
    str, BeforeValidator(to_path), WithJsonSchema({"type": "string", "format": "path"})
]
Name = Annotated[str, BeforeValidator(to_name)]
OneOrMore = str | tuple[str, ...]  # what the file may hold
TextKeys = Annotated[
    tuple[str, ...], BeforeValidator(to_text_keys, json_schema_input_type=OneOrMore)
]
LabelNames = Annotated[tuple[str, ...], BeforeValidator(to_label_names)]

# One processor in input/processors.py for each.
DataProcessor = Literal[
    "MnliDataProcessor", "Sst2DataProcessor", "TextFileDataProcessor", "TfdsDataProcessor"
]
Mode = Literal["train", "eval", "eval_all", "train_and_eval", "predict", "export"]
ExportFormat = Literal["saved_model", "huggingface", "keras", "onnx", "tf1"]


class Section(BaseModel):
    """A mapping of the file. Unknown keys are refused, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def leave_out_empty_values(cls, values):
        if not isinstance(values, dict):
            return values
        fields = cls.model_fields
        return {k: v for k, v in values.items() if v is not None or k not in fields}


# ---- train_input, eval_input, predict_input ------------------------------------------------------


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
        description="How many lengths `packing: buckets` has, or numbers of rows "
        "`packing: packed`, at most.",
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


# ---- model ---------------------------------------------------------------------------------------


class Constant(Section):
    """Every element the same."""

    name: Literal["constant"]
    value: Number = Field(0.0, description="The element.")


class Uniform(Section):
    """Evenly spread between two bounds."""

    name: Literal["uniform"]
    minval: Number = Field(-0.05, description="Lower bound.")
    maxval: Number = Field(0.05, description="Upper bound.")


class Normal(Section):
    """Normal distribution."""

    name: Literal["normal"]
    mean: Number = Field(0.0, description="Mean.")
    stddev: Positive = Field(0.05, description="Standard deviation.")


class TruncatedNormal(Section):
    """Normal distribution, drawn again beyond two standard deviations."""

    name: Literal["truncated_normal"]
    mean: Number = Field(0.0, description="Mean.")
    stddev: Positive = Field(0.05, description="Standard deviation, before the cut.")


class GlorotNormal(Section):
    """Normal, spread by the widths of both sides (Glorot and Bengio 2010)."""

    name: Literal["glorot_normal"]


class GlorotUniform(Section):
    """Uniform, spread by the widths of both sides (Glorot and Bengio 2010)."""

    name: Literal["glorot_uniform"]


class VarianceScaling(Section):
    """Spread by the width of one side, or of both (He et al. 2015)."""

    name: Literal["variance_scaling"]
    scale: Positive = Field(1.0, description="Factor on the variance.")
    mode: Literal["fan_in", "fan_out", "fan_avg"] = Field("fan_in", description="The side.")
    distribution: Literal["truncated_normal", "untruncated_normal", "uniform"] = Field(
        "truncated_normal", description="The shape."
    )


Initializer = Annotated[
    Constant | Uniform | Normal | TruncatedNormal | GlorotNormal | GlorotUniform | VarianceScaling,
    Field(discriminator="name"),
    BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value),
]

KERAS_INITIALIZERS = {
    "constant": "Constant",
    "uniform": "RandomUniform",
    "normal": "RandomNormal",
    "truncated_normal": "TruncatedNormal",
    "glorot_normal": "GlorotNormal",
    "glorot_uniform": "GlorotUniform",
    "variance_scaling": "VarianceScaling",
}


def keras_initializer(initializer):
    """An Initializer as `keras.initializers.get` takes it: {"class_name", "config"}."""
    config = initializer.model_dump()
    return {"class_name": KERAS_INITIALIZERS[config.pop("name")], "config": config}


Nonlinearity = Literal["gelu", "gelu_erf", "gelu_tanh", "relu", "tanh", "silu", "linear"]

# Other spellings, in the config.json of checkpoints.
NONLINEARITIES = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_python": "gelu_erf",
    "swish": "silu",
}

# Which GELU a checkpoint with "gelu" was trained with: Hugging Face takes the erf form, Google's
# last TF1 code and the original Cerebras TF model the tanh form; they differ by up to 4.7e-4.
GELU_OF_FAMILY = {"huggingface": "gelu_erf", "google": "gelu_tanh", "cerebras": "gelu_tanh"}

# 1e-12 is that of google-research/bert and of Hugging Face's BertConfig; Cerebras configs say 1e-5.
LAYER_NORM_EPSILON_OF_FAMILY = {"huggingface": 1e-12, "google": 1e-12, "cerebras": 1e-5}
LAYER_NORM_EPSILON = 1e-8  # the original's, where nothing says otherwise

# auto: until `data.complete_params` has asked the machine.
DTYPE_POLICIES = {False: "float32", True: "mixed_float16", "auto": "float32"}


class ModelParams(Section):
    """The network: BERT's embeddings and encoder, and the two dense layers of the classifier.

    A key that says "Not given: the checkpoint's" may be left out where `--checkpoint_path` names
    pre-trained weights; one that gives the tables or layers another shape than theirs is refused.
    """

    # Embeddings
    hidden_size: Count | None = Field(
        None, description="D, the width between layers. Not given: the checkpoint's."
    )
    vocab_size: Count | None = Field(
        None, description="Rows of the word table. Not given: the checkpoint's, or the inputs'."
    )
    max_position_embeddings: Count | None = Field(
        None,
        description="Rows of the position table. Not given: the checkpoint's, or the longest "
        "max_sequence_length.",
    )
    use_position_embedding: bool = Field(
        True, strict=True, description="Add a vector for the position of each token."
    )
    use_segment_embedding: bool = Field(
        True, strict=True, description="Add a vector for the sentence, A or B, of each token."
    )
    position_embedding_type: Literal["learned", "fixed"] = Field(
        "learned",
        description="Where the position vectors come from: a table of weights, or sines and "
        "cosines.",
    )
    embedding_size: Count | None = Field(
        None,
        description="E, the width of the word table, where it is not hidden_size: a matrix without "
        "bias leads from one to the other. Not given: the checkpoint's, or hidden_size.",
    )
    initializer: Initializer = Field(
        TruncatedNormal(name="truncated_normal", stddev=0.02),
        description="How weights begin that no checkpoint brings: a name, or a mapping with "
        "`name`. Accepted at the top level of the file too, as in the original.",
    )
    embedding_initializer: Initializer | None = Field(
        None, description="How the word table begins. Not given: as initializer says."
    )
    weight_initialization_seed: Whole | None = Field(
        None, description="Seed of those weights. Not given: runconfig.tf_random_seed."
    )

    # Encoder
    num_hidden_layers: Count | None = Field(
        None, description="Encoder blocks. Not given: the checkpoint's."
    )
    num_heads: Count | None = Field(
        None,
        description="Attention heads, each hidden_size / num_heads wide. "
        "Not given: the checkpoint's.",
    )
    filter_size: Count | None = Field(
        None,
        description="F, the inner width of the feed-forward block. Not given: the checkpoint's.",
    )
    encoder_nonlinearity: Nonlinearity | None = Field(
        None,
        description="Between the two feed-forward layers. gelu: the form that the checkpoint's "
        "family uses, tanh where there is none. Not given: the checkpoint's.",
    )
    layer_norm_epsilon: Positive | None = Field(
        None,
        description="Added to the variance in every layer norm. Not given: the checkpoint's, or "
        "what is usual in its family; 1e-8 where there is none.",
    )
    dropout_rate: Probability = Field(
        0.1, description="Share of elements dropped after embeddings and before each residual."
    )
    attention_dropout_rate: Probability = Field(
        0.0, description="Share of attention weights dropped."
    )
    use_pre_normalization: bool = Field(
        False, strict=True, description="Layer norm before each block, not after its residual."
    )
    use_ffn_bias: bool = Field(True, strict=True, description="A bias in the feed-forward layers.")
    use_projection_bias_in_attention: bool = Field(
        True, strict=True, description="A bias in query, key and value."
    )
    use_ffn_bias_in_attention: bool = Field(
        True, strict=True, description="A bias in the attention's output layer."
    )
    attention_type: Literal["scaled_dot_product", "dot_product"] = Field(
        "scaled_dot_product",
        description="How query and key are compared: their product divided by the root of a head's "
        "width, or as it is.",
    )
    dropout_seed: Whole | None = Field(
        None, description="Seed of what is dropped. Not given: runconfig.tf_random_seed."
    )
    recompute: bool = Field(
        False,
        strict=True,
        description="Compute every encoder layer a second time in the backward pass instead of "
        "keeping what it computed: less memory, more time, the same gradients.",
    )

    # Classifier
    num_cls_classes: Count | None = Field(
        None, description="Classes; 1 for a regression. Not given: the data's."
    )
    pooler_type: Annotated[
        Literal["first", "last", "mean", "max", "sum"], BeforeValidator(to_lower)
    ] = Field(
        "first",
        description="The vector that stands for a row: of its first token, [CLS], of its last, "
        "or the mean, maximum or sum over its tokens, padding left out.",
    )
    cls_dropout_rate: Probability = Field(
        0.0, description="Share of elements dropped between the classifier's two dense layers."
    )
    disable_nsp: bool = Field(
        False,
        strict=True,
        description="Begin the classifier's first dense layer afresh, not from the checkpoint's "
        "pooler.",
    )
    pretrain_params_path: Path | None = Field(
        None,
        description="YAML file of the pre-training run, from the folder of this one or the one "
        "above it: the keys of its `model` hold where this file gives no other. What is saved has "
        "them written out.",
    )

    # Training
    class_weights: Literal["auto"] | tuple[Positive, ...] | None = Field(
        None,
        description="Factor on the loss of a row for each label; auto: rows / (classes x rows of "
        "the label), so that all labels count the same.",
    )
    focal_gamma: NonNegative = Field(
        0.0,
        description="Times (1 - p) ** focal_gamma, p being the probability of the label: less "
        "weight on rows that are right already. 0: plain cross entropy.",
    )
    label_smoothing: Probability = Field(
        0.0, description="Share of each label that is spread over all classes in the loss."
    )
    r_drop_alpha: NonNegative = Field(
        0.0,
        description="R-Drop: each row goes through the network twice, under two dropout masks, and "
        "so much weighs in the loss how far the two answers are apart. A step takes twice as long. "
        "0: once.",
    )
    freeze: Annotated[
        tuple[str, ...], BeforeValidator(to_names, json_schema_input_type=OneOrMore)
    ] = Field(
        (),
        description="What keeps its weights: embeddings, encoder, pooler, layers:N (the first N "
        "encoder layers), or a list of these.",
    )

    # Precision
    mixed_precision: Annotated[
        Literal[False, True, "auto", "float32", "mixed_bfloat16", "mixed_float16"],
        BeforeValidator(not_a_number),
    ] = Field(
        False,
        description="Keras dtype policy. false: float32; true: mixed_float16, as in the original; "
        "auto: mixed_bfloat16 where the processor or GPU multiplies it faster, else float32.",
    )

    # Without effect here (NO_EFFECT)
    boundary_casting: bool = Field(
        False, strict=True, description="Round the inputs of layers to float16, as the CS-1 does."
    )
    tf_summary: bool = Field(
        False, strict=True, description="Write the activations and gradients of layers out."
    )
    enable_gpu_optimizations: bool = Field(
        False, strict=True, description="Gather masked tokens in a way that suits GPUs."
    )
    share_embedding_weights: bool = Field(
        True, strict=True, description="Use the word table for the words to predict, too."
    )
    mlm_loss_weight: NonNegative = Field(1.0, description="Factor on the masked words' loss.")
    mlm_loss_scaling: Literal["precomputed_num_masked", "num_masked", "batch_size"] = Field(
        "precomputed_num_masked", description="What the masked words' loss is divided by."
    )
    mlm_nonlinearity: str = Field("gelu", description="Of the masked words' head.")
    use_ffn_bias_in_mlm: bool = Field(
        True, strict=True, description="A bias in the dense layer of the masked words' head."
    )
    use_output_bias_in_mlm: bool = Field(
        True, strict=True, description="A bias for each word to predict."
    )
    nsp_nonlinearity: str = Field("tanh", description="Of the next-sentence head.")
    use_nsp_bias: bool = Field(True, strict=True, description="Biases in the next-sentence head.")
    include_padding_in_loss: bool = Field(
        False, strict=True, description="Count padding in a loss over tokens."
    )
    use_vsl: bool = Field(
        False, strict=True, description="Let the length of rows vary on a CS system."
    )
    input_pad_id: PadId | None = Field(None, description="Id of padding in input_ids, with VSL.")
    segment_pad_id: PadId | None = Field(
        None, description="Id of padding in segment_ids, with VSL."
    )
    mlm_pad_id: PadId | None = Field(None, description="Id of padding in the labels, with VSL.")
    multireplica: bool = Field(
        False, strict=True, description="Copies of the network on one CS system."
    )

    @field_validator("freeze")
    @classmethod
    def every_name_is_of_a_part(cls, names):
        for name in names:
            if not re.fullmatch(r"embeddings|encoder|pooler|layers:[1-9]\d{0,3}", name):
                last = "; the classifier is what always has to be trained"
                raise refusal(
                    f"names {found(name)}; available: embeddings, encoder, pooler, and layers:N "
                    "for the first N encoder layers, as layers:4"
                    + (last if name == "classifier" else "")
                )
        return names

    @property
    def head_size(self):
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def dtype_policy(self):
        """Name of the Keras dtype policy: float32, mixed_bfloat16 or mixed_float16."""
        return DTYPE_POLICIES.get(self.mixed_precision, self.mixed_precision)

    @property
    def word_size(self):
        """Width of the word table."""
        return self.embedding_size or self.hidden_size

    @property
    def is_factorized(self):
        """Whether a matrix leads from the word table's width to the network's."""
        return self.word_size != self.hidden_size

    @property
    def keras_initializer(self):
        """`initializer` as `keras.initializers.get` takes it: {"class_name", "config"}."""
        return keras_initializer(self.initializer)

    @property
    def keras_embedding_initializer(self):
        """`embedding_initializer`, likewise."""
        return keras_initializer(self.embedding_initializer or self.initializer)


# ---- optimizer -----------------------------------------------------------------------------------


class Schedule(Section):
    """A learning rate as a function of the step. Formulas: common/optimizers/schedules.py."""

    steps: Count | None = Field(
        None, description="How long, where another schedule follows in a list."
    )

    @property
    def length(self):
        """Steps until the next schedule of a list begins; None where the file does not say."""
        return self.steps


class ConstantSchedule(Schedule):
    """One rate throughout."""

    scheduler: Literal["Constant"]
    learning_rate: NonNegative = Field(description="The rate.")


class PiecewiseConstantSchedule(Schedule):
    """One rate after the other, each held for a while."""

    scheduler: Literal["PiecewiseConstant"]
    boundaries: tuple[Count, ...] = Field(
        min_length=1, description="The last step of each rate but the last, increasing."
    )
    values: tuple[NonNegative, ...] = Field(description="The rates, one more than boundaries.")


class ExponentialSchedule(Schedule):
    """A rate that falls by the same factor every decay_steps steps."""

    scheduler: Literal["Exponential"]
    initial_learning_rate: NonNegative = Field(description="The rate at the first step.")
    decay_steps: Count = Field(description="Steps in which the rate falls by decay_rate.")
    decay_rate: Positive = Field(description="The factor.")
    staircase: bool = Field(
        False, strict=True, description="Fall once every decay_steps steps, not a little each step."
    )


class InverseExponentialTimeDecaySchedule(Schedule):
    """The first rate divided by a number that grows with a power of the step."""

    scheduler: Literal["InverseExponentialTimeDecay"]
    initial_learning_rate: NonNegative = Field(description="The rate at the first step.")
    step_exponent: Positive = Field(description="The power of the step.")
    decay_steps: Count = Field(description="What that power is divided by.")
    decay_rate: NonNegative = Field(description="Times the quotient, plus 1, is the divisor.")
    staircase: bool = Field(False, strict=True, description="Round the quotient down.")


class LinearSchedule(Schedule):
    """A straight line from one rate to another, which is held from then on."""

    scheduler: Literal["Linear"]
    initial_learning_rate: NonNegative = Field(description="The rate at the first step.")
    end_learning_rate: NonNegative = Field(description="The rate after `steps` steps.")
    steps: Count = Field(description="How long the way from one to the other takes.")
    cycle: bool = Field(
        False, strict=True, description="Once at the end, begin again with a longer way."
    )


class PolynomialSchedule(LinearSchedule):
    """A power of the steps left, from one rate to another, which is held from then on."""

    scheduler: Literal["Polynomial"]
    power: Positive = Field(1.0, description="1 is a straight line, 2 bends towards the end.")


class CosineSchedule(Schedule):
    """Half a wave of the cosine, down to a share of the first rate, held from then on."""

    scheduler: Literal["Cosine"]
    initial_learning_rate: NonNegative = Field(description="The rate at the first step.")
    decay_steps: Count = Field(
        description="How long the way down takes; its length in a list too, but for `steps`."
    )
    alpha: Annotated[float, Field(ge=0, le=1), BeforeValidator(to_float)] = Field(
        0.0, description="The last rate, as a share of the first."
    )

    @property
    def length(self):
        return self.decay_steps if self.steps is None else self.steps


# Another schedule is another class here, with a `scheduler` name of its own.
AnySchedule = Annotated[
    ConstantSchedule
    | PiecewiseConstantSchedule
    | ExponentialSchedule
    | InverseExponentialTimeDecaySchedule
    | LinearSchedule
    | PolynomialSchedule
    | CosineSchedule,
    Field(discriminator="scheduler"),
]


def learning_rate_form(value):
    """Which of its three forms a learning rate has."""
    if isinstance(value, list | tuple):
        return "list"
    return "schedule" if isinstance(value, dict | Section) else "number"


LearningRate = Annotated[
    Annotated[NonNegative, Tag("number")]
    | Annotated[AnySchedule, Tag("schedule")]
    | Annotated[tuple[AnySchedule, ...], Tag("list")],
    Discriminator(learning_rate_form),
]


# What loss_scaling_factor `dynamic` and `tf_dynamic` do where the keys of their rule are not given:
# the original's Cerebras rule, and tf.mixed_precision's (a factor of at least 1, without a ceiling
# below float32's, halved at every overflow).
LOSS_SCALES = {
    "dynamic": {
        "min_loss_scale": 2.0**-14,
        "max_loss_scale": 2.0**15,
        "overflow_tolerance": 0.05,
    },
    "tf_dynamic": {
        "min_loss_scale": 1.0,
        "max_loss_scale": 2.0**127,
        "overflow_tolerance": 0.0,
    },
}

# TF1's optimizers' own; RMSProp's stands under the root, and the original left it as it is.
RMSPROP_EPSILON = 1e-10


class OptimizerParams(Section):
    """One update of the weights; the default is AdamW as in google-research/bert."""

    optimizer_type: Annotated[
        Literal["adam", "adamw", "momentum", "rmsprop", "sgd"], BeforeValidator(to_lower)
    ] = Field("adamw", description="The rule of the update.")

    # Learning rate
    learning_rate: LearningRate = Field(
        5e-5,
        description="A number; or a schedule, a mapping with `scheduler`; or a list of schedules, "
        "one after the other, where all but the last need `steps`.",
    )
    disable_lr_steps_reset: bool = Field(
        False,
        strict=True,
        description="In a list, let every schedule count from step 0 rather than from its start.",
    )
    layer_wise_lr_decay: Annotated[float, Field(gt=0, le=1), BeforeValidator(to_float)] = Field(
        1.0,
        description="Factor on the rate, and so on the decay, from each layer to the one below "
        "it; the classifier and the pooler have the rate itself.",
    )

    # The rule's numbers
    momentum: Probability = Field(0.9, description="momentum: decay of the sum of the gradients.")
    beta1: Probability = Field(0.9, description="adam, adamw: decay of the mean of the gradients.")
    beta2: Probability = Field(
        0.999, description="adam, adamw: decay of the mean of their squares."
    )
    epsilon: Positive | None = Field(
        None,
        description="adam, adamw: added to the square root of that mean; rmsprop: to the mean "
        "itself. Not given: 1e-5 in mixed precision, 1e-8 in float32; rmsprop 1e-10.",
    )
    use_bias_correction: bool = Field(
        False,
        strict=True,
        description="adamw: correct both means for having begun at 0; adam always does.",
    )
    rmsprop_decay: Probability = Field(0.9, description="rmsprop: decay of the mean of squares.")
    rmsprop_momentum: Probability = Field(0.0, description="rmsprop: decay of the sum of updates.")

    # Decay, clipping, accumulation, average
    weight_decay_rate: NonNegative = Field(
        0.0, description="Times the weight, added to the update before the learning rate."
    )
    exclude_from_weight_decay: tuple[str, ...] = Field(
        ("LayerNorm", "layer_norm", "bias", "Bias"),
        description="Regular expressions, searched in a weight's name; those found do not decay.",
    )
    max_gradient_norm: NonNegative | None = Field(
        None, description="Scale all gradients down to this norm together. 0 or null: never."
    )
    max_gradient_value: NonNegative | None = Field(
        None, description="Cut every element of the gradients to +- this. 0 or null: never."
    )
    grad_accum_steps: Count = Field(
        1,
        description="Batches whose mean gradient makes one update: batch_size times as many rows "
        "an update, in the memory of one batch. Steps count updates.",
    )
    moving_average_decay: BetweenZeroAndOne | None = Field(
        None,
        description="Keep an exponential moving average of the weights, which is what evaluation, "
        "checkpoints and exports have; 0.999 remembers about 1000 steps. Not given: none.",
    )

    # Loss scale
    loss_scaling_factor: Scale | Literal["dynamic", "tf_dynamic"] = Field(
        1.0,
        description="Factor on the loss, taken off the gradients again, to keep float16 from "
        "underflow. dynamic: halved and doubled as the gradients allow; tf_dynamic: the same with "
        "TensorFlow's bounds, halved at every overflow.",
    )
    initial_loss_scale: Scale = Field(2.0**15, description="The dynamic factor's first value.")
    min_loss_scale: Scale | None = Field(
        None,
        description="The dynamic factor's least value. Not given: 2^-14; tf_dynamic 1.",
    )
    max_loss_scale: Scale | None = Field(
        None,
        description="The dynamic factor's largest value. Not given: 2^15; tf_dynamic 2^127.",
    )
    steps_per_increase: Count = Field(
        2000, description="Steps since its last change after which the dynamic factor doubles."
    )
    overflow_tolerance: Probability | None = Field(
        None,
        description="Share of steps with overflow above which the dynamic factor halves. "
        "Not given: 0.05; tf_dynamic 0.",
    )

    # Figures
    log_summaries: bool = Field(
        True,
        strict=True,
        description="Report the rate, the gradients' norm before clipping, and the loss scale.",
    )
    log_grads: bool = Field(
        False,
        strict=True,
        description="Report the sparsity, the share of denormal numbers and the norm of the "
        "gradient of every kernel and bias, at steps with a summary.",
    )
    log_hists: bool = Field(
        False,
        strict=True,
        description="Write a histogram of log2 of those gradients to TensorBoard, at steps with a "
        "summary.",
    )
    ws_summary: bool = Field(
        False,
        strict=True,
        description="Report how many elements of the gradients are 0, and the norm of all "
        "trained weights, at steps with a summary.",
    )

    def loss_scale_setting(self, name):
        """A key of the dynamic loss scale, or what its rule does where the key is not given."""
        given = getattr(self, name)
        rule = self.loss_scaling_factor if self.loss_scaling_factor in LOSS_SCALES else "dynamic"
        return LOSS_SCALES[rule][name] if given is None else given

    @field_validator("exclude_from_weight_decay")
    @classmethod
    def every_pattern_compiles(cls, patterns):
        for pattern in patterns:
            try:
                re.compile(pattern)
            except (re.error, OverflowError, RecursionError) as error:
                raise refusal(
                    f"{found(pattern)} is no regular expression: {error}; names need none of its "
                    "signs, such as `layer_norm`"
                ) from None
        return patterns

    @field_validator("max_gradient_norm", "max_gradient_value")
    @classmethod
    def zero_is_never(cls, value):
        return value or None


# ---- runconfig -----------------------------------------------------------------------------------


class RunParams(Section):
    """What to do, for how long, and what to keep. Flags of `run.py` of the same name override."""

    # What to do
    mode: Mode | None = Field(None, description="What to do. Normally given as --mode.")
    model_dir: Path | None = Field(
        None, description="Folder of checkpoints, events and results. Normally --model_dir."
    )
    checkpoint_path: Path | None = Field(
        None, description="Weights to begin training from, or to score in eval and predict."
    )
    validate_only: bool = Field(
        False, strict=True, description="Check everything, train nothing. Normally --validate_only."
    )
    compile_only: bool = Field(
        False,
        strict=True,
        description="Compile the run's programs ahead, train nothing. Normally --compile_only.",
    )
    device: str | None = Field(None, min_length=1, description="Device to run on, as /gpu:0.")
    cs_ip: str | None = Field(
        None,
        min_length=1,
        description="Address of a cluster of CS systems: run there. Port 9000 if it names none.",
    )

    # For how long
    steps: Count | None = Field(None, description="Train this many more steps.")
    max_steps: Count | None = Field(None, description="Train until this global step.")
    eval_steps: Annotated[int, BeforeValidator(to_int)] | None = Field(
        None, description="Batches to evaluate. 0 or null: the whole split."
    )
    throttle_secs: Whole = Field(
        0, description="Seconds from one evaluation to the next in train_and_eval, at least."
    )

    # What to keep and show
    save_checkpoints_steps: Count = Field(1000, description="Steps between checkpoints.")
    keep_checkpoint_max: Whole = Field(5, description="Newest checkpoints to keep. 0: all.")
    save_summary_steps: Count = Field(100, description="Steps between TensorBoard summaries.")
    log_step_count_steps: Count | None = Field(
        None, description="Steps between lines of the log. Not given: save_summary_steps."
    )

    # Repeatability
    tf_random_seed: Seed | None = Field(
        None, description="Seed of fresh weights, dropout and the order of rows."
    )
    deterministic: bool = Field(
        True, strict=True, description="The same bits again from the same seed, also on a GPU."
    )
    allow_changed_params: bool = Field(
        False,
        strict=True,
        description="Resume although keys have changed that change what is trained. "
        "Normally --allow_changed_params.",
    )

    # Evaluation while training (train_and_eval), and what follows from it
    eval_every_steps: Count | None = Field(
        None, description="Steps between evaluations. Not given: one after each checkpoint."
    )
    best_metric: str | None = Field(
        None,
        min_length=1,
        description="Figure of the evaluation whose best checkpoint is kept, as eval/accuracy_cls "
        "or eval/loss; of several splits, that of all rows, or one's own. Not given: none is.",
    )
    best_metric_mode: Literal["max", "min"] | None = Field(
        None, description="Which of its values is best. Not given: min for a loss, else max."
    )
    early_stopping_patience: Count | None = Field(
        None,
        description="Stop after so many evaluations in a row without a better best_metric. "
        "Not given: train to the end.",
    )
    export_best: ExportFormat | None = Field(
        None, description="Format in which the best checkpoint is exported at the end."
    )
    calibrate_temperature: bool = Field(
        False,
        strict=True,
        description="At the end, fit the temperature that divides the logits, so that "
        "probabilities of predictions and exports fit the evaluation rows best.",
    )

    # Numbers that are not finite
    recover_from_nan: (
        Literal[False, True] | Annotated[float, Field(gt=0, lt=1), BeforeValidator(to_float)]
    ) = Field(
        False,
        description="At a loss or gradient that is not finite, go back to the last checkpoint and "
        "go on with the learning rate times this number (true: 0.5), at most three times.",
    )

    # Several cores
    num_streams: Count = Field(
        1,
        description="Parts of a batch that a CPU computes side by side, each on its share of the "
        "cores; no more than there are cores. 2 is faster on two cores and takes longer to start. "
        "On a GPU, or with several devices: 1.",
    )

    # Several devices
    enable_distributed: bool = Field(
        False,
        strict=True,
        description="Share each batch between all GPUs of the machine, or num_devices of them.",
    )
    num_devices: Count | None = Field(
        None,
        description="How many devices share it. Not given: all GPUs. On a machine without GPUs: "
        "logical devices that share its cores.",
    )
    multiple_workers: bool = Field(
        False,
        strict=True,
        description="Share each batch between the processes, on one machine or several, that the "
        "environment variable TF_CONFIG lists, each with all its GPUs; see docs/distributed.md.",
    )

    # Without effect here (NO_EFFECT)
    predict_steps: Count = Field(
        1, description="Rows to predict on a CS system; elsewhere the whole split is predicted."
    )
    multireplica: bool = Field(
        False, strict=True, description="Copies of the network on one CS system."
    )
    ir_mode: Literal["mlir-cirh", "mlir-xla"] = Field(
        "mlir-cirh", description="Which of the vendor's compilers is used."
    )
    disable_input_pipeline_ckpt: bool = Field(
        False, strict=True, description="Leave the position in the data out of checkpoints."
    )
    disable_standard_logs: bool = Field(
        False, strict=True, description="Leave out the lines of the log that TensorFlow writes."
    )

    @field_validator("eval_steps")
    @classmethod
    def not_positive_is_the_whole_split(cls, value):
        return None if value is None or value <= 0 else value

    @property
    def recovery_factor(self):
        """What `recover_from_nan` multiplies the rate with, or None where it is off."""
        return {False: None, True: 0.5}.get(self.recover_from_nan, self.recover_from_nan)

    @property
    def log_steps(self):
        """Steps between lines of the log."""
        return self.log_step_count_steps or self.save_summary_steps


# ---- csconfig ------------------------------------------------------------------------------------


class CsParams(Section):
    """A CS system and how it is reached; on another device these keys have no meaning."""

    mgmt_address: str | None = Field(
        None,
        pattern=r".:[0-9]+$",
        description="Management server of the cluster, HOST:PORT. Not given: runconfig.cs_ip.",
    )
    credentials_path: Path | None = Field(
        None, description="TLS certificate of the cluster. Not given: the machine's own set-up."
    )
    num_csx: Count = Field(1, description="CS systems that share each batch.")
    num_wgt_servers: Whole = Field(
        0, description="Weight servers, at most. 0: as many as the cluster sees fit."
    )
    mount_dirs: tuple[Path, ...] = Field(
        (),
        description="Folders that the cluster's workers see, besides this project and model_dir.",
    )
    python_paths: tuple[Path, ...] = Field((), description="Folders on their Python path.")
    job_labels: tuple[str, ...] = Field((), description="KEY=VALUE labels of the cluster's jobs.")
    job_time_sec: Count | None = Field(
        None, description="Time limit of the cluster's jobs in seconds, without their queue."
    )
    compile_dir: str | None = Field(
        None, min_length=1, description="Where the cluster keeps compiled programs."
    )
    use_cbfloat16: bool = Field(
        False,
        strict=True,
        description="Compute in the vendor's 16-bit floating-point type instead of float16.",
    )
    backend: Literal["csx", "cpu"] = Field(
        "csx",
        description="What the vendor's SDK runs the model on: csx, CS systems; cpu, this machine, "
        "which needs no cluster.",
    )


# Of `model`: what a classifier has no place for, also in the file of its pre-training.
PRETRAINING_KEYS = (
    "share_embedding_weights",
    "mlm_loss_weight",
    "mlm_loss_scaling",
    "mlm_nonlinearity",
    "use_ffn_bias_in_mlm",
    "use_output_bias_in_mlm",
    "nsp_nonlinearity",
    "use_nsp_bias",
)
VSL_KEYS = ("use_vsl", "input_pad_id", "segment_pad_id", "mlm_pad_id")

# Keys of the original that change nothing here, each with what does their work instead.
# `utils.get_params` warns of those that a file gives another value than their default.
# `*_input` stands for each of the three inputs.
NO_EFFECT = {
    **{
        f"model.{key}": "a classifier has no heads of pre-training; leave the key out"
        for key in PRETRAINING_KEYS
    },
    **{
        f"model.{key}": "train_input.packing: packed or buckets leaves out the padding"
        for key in VSL_KEYS
    },
    "model.boundary_casting": "it imitated the CS-1's 16-bit activations; model.mixed_precision "
    "computes in 16 bits",
    "model.tf_summary": "optimizer.log_grads and optimizer.log_hists show the gradients",
    "model.enable_gpu_optimizations": "it is about masked words; a classifier has none",
    "model.include_padding_in_loss": "a classifier's loss is one number a row, not one a token",
    "model.multireplica": "several devices share the work with runconfig.enable_distributed",
    "*_input.shuffle_buffer": "every epoch is a new order of all rows, without a buffer",
    "*_input.cache": "the tokens are always kept in memory, and on disk in cache_dir",
    "*_input.drop_remainder": "every update has batch_size rows, and every row is scored, those "
    "of the last short batch too",
    "eval_input.shuffle": "evaluation reads the rows in order; shuffle of train_input is what "
    "training draws",
    "predict_input.shuffle": "prediction reads the rows in order",
    "eval_input.repeat": "evaluation reads every row once; runconfig.eval_steps limits it",
    "predict_input.repeat": "prediction reads every row once",
    "*_input.disable_eval_metrics": "the metrics cost milliseconds, and are always reported; "
    "--mode train evaluates nothing",
    "*_input.mixed_precision": "model.mixed_precision says it",
    "*_input.scale_mlm_weights": "a classifier predicts no masked words",
    "runconfig.multireplica": "several devices share the work with runconfig.enable_distributed",
    "runconfig.ir_mode": "the compiler is XLA",
    "runconfig.disable_input_pipeline_ckpt": "every checkpoint holds the position in the data, "
    "which is two numbers; a new --model_dir begins the data anew",
    "runconfig.disable_standard_logs": "runconfig.log_step_count_steps says how many steps lie "
    "between two lines of the log",
    "runconfig.predict_steps": "it counted the rows on a CS system alone; max_eval_samples of "
    "predict_input says how many rows are predicted",
}

# ---- The whole file ------------------------------------------------------------------------------

INPUTS = ("train_input", "eval_input", "predict_input")


def given(section):
    """The keys of a section, read or not yet, or of one that is absent."""
    if section is None:
        return {}
    return dict(section) if isinstance(section, dict | Section) else section


def derive_inputs(values):
    """Puts into a file's mapping the inputs it leaves out. See `Params`."""
    known = (*Params.model_fields, "initializer")
    values = {
        name: value for name, value in values.items() if value is not None or name not in known
    }
    train = given(values.get("train_input"))
    if "eval_input" not in values and "train_input" in values and isinstance(train, dict):
        values["eval_input"] = train | EVALUATION
    evaluation, prediction = given(values.get("eval_input")), given(values.get("predict_input"))
    if isinstance(evaluation, dict) and isinstance(prediction, dict):
        values["predict_input"] = evaluation | prediction
    return values


class Params(Section):
    """A whole file. What `utils.get_params` returns, and what every other part reads."""

    train_input: TrainInputParams | None = Field(
        None, description="Rows to train on. May be absent where eval_input is given."
    )
    eval_input: EvalInputParams = Field(
        description="Rows to score. Absent: train_input's keys, each row once and in order."
    )
    predict_input: EvalInputParams = Field(
        description="Rows to predict: eval_input's keys, but for those given here."
    )
    model: ModelParams = Field(description="The network.")
    optimizer: OptimizerParams = Field(OptimizerParams(), description="One update of the weights.")
    runconfig: RunParams = Field(RunParams(), description="What to do, and for how long.")
    csconfig: CsParams = Field(CsParams(), description="A CS system, and how it is reached.")

    @model_validator(mode="before")
    @classmethod
    def fill_what_follows(cls, values):
        """Inputs from one another, a top-level initializer, epsilon from the precision."""
        if not isinstance(values, dict):
            return values
        model_given = "model" in values
        values = derive_inputs(values)
        if model_given:
            values["model"] = given(values.get("model"))  # `model:` with nothing behind it
        model = values.get("model")
        top = values.get("initializer")
        if top is not None and isinstance(model, dict) and model.get("initializer") in (None, top):
            values["model"] = model = model | {"initializer": values.pop("initializer")}
        optimizer = given(values.get("optimizer"))
        if isinstance(optimizer, dict) and optimizer.get("epsilon") is None:
            policy = given(model).get("mixed_precision") if isinstance(given(model), dict) else None
            mixed = policy is True or policy in ("mixed_float16", "mixed_bfloat16")
            epsilon = 1e-5 if mixed else 1e-8
            if to_lower(optimizer.get("optimizer_type")) == "rmsprop":
                epsilon = RMSPROP_EPSILON
            values["optimizer"] = optimizer | {"epsilon": epsilon}
        return values

    @model_validator(mode="after")
    def keep_the_rules_between_keys(self):
        faults = rule_faults(self)
        if faults:
            raise PydanticCustomError("rules", "{text}", {"text": "", "faults": faults})
        return self

    @property
    def shuffle_seed(self):
        """Seed of the order of training rows: train_input's, or the run's; None: not fixed."""
        seed = None if self.train_input is None else self.train_input.shuffle_seed
        return self.runconfig.tf_random_seed if seed is None else seed

    @property
    def dropout_seed(self):
        """Seed of what is dropped: the model's, or the run's; None: not fixed."""
        seed = self.model.dropout_seed
        return self.runconfig.tf_random_seed if seed is None else seed

    def with_runconfig(self, **values):
        """The same params with other runconfig values."""
        runconfig = RunParams.model_validate(dict(self.runconfig) | values)
        return self.model_copy(update={"runconfig": runconfig})

    def with_precision(self, mixed_precision):
        """The same params with another value of model.mixed_precision."""
        model = self.model.model_copy(update={"mixed_precision": mixed_precision})
        return self.model_copy(update={"model": model})

    def with_inputs_of(self, other):
        """The same params with the input sections of other Params."""
        return self.model_copy(update={name: getattr(other, name) for name in INPUTS})

    def with_vocab_file(self, path):
        """The same params with a vocabulary where an input names none. path: str or None.

        Raises:
            UserError: there is none to take.
        """
        update = {}
        for name in INPUTS:
            section = getattr(self, name)
            if section is None or section.vocab_file is not None:
                continue
            if path is None:
                raise UserError(
                    f"{name}.vocab_file is not given, and no checkpoint brings a vocabulary; "
                    "write it in the params file, or give --checkpoint_path"
                )
            update[name] = section.model_copy(update={"vocab_file": to_path(path)})
        return self.model_copy(update=update)

    def complete(self, checkpoint=None, data=None, source="params"):
        """The same params with what the file leaves to the checkpoint and to the data.

        Args:
            checkpoint: dict or None. What the checkpoint says of its own network: hidden_size,
                num_hidden_layers, num_heads, filter_size, max_position_embeddings, vocab_size,
                encoder_nonlinearity, layer_norm_epsilon (each may be absent or None), and family:
                "huggingface", "google", "cerebras" or "ours". A key `path`, if there, is what
                messages call it.
            data: dict or None. num_cls_classes, and vocab_size (lines of the vocabulary) if known.
            source: str. The YAML file, for messages.
        Returns:
            Params in which only keys are None that may stay so.
        Raises:
            UserError: what is given contradicts the checkpoint or the data, something is given by
                neither, or the whole breaks a rule; all faults together.
        """
        checkpoint, data = checkpoint or {}, data or {}
        faults = contradictions(self.model, checkpoint, data)
        filled = {name: value for name, value in self.model if value is not None}
        for name in FROM_CHECKPOINT:
            if filled.get(name) is None and checkpoint.get(name) is not None:
                filled[name] = checkpoint[name]
        self._fill_the_rest(filled, checkpoint, data)
        faults += [
            (f"model.{name}", f"not given, and {missing}")
            for name, missing in REQUIRED.items()
            if filled.get(name) is None
        ]
        try:
            model = ModelParams.model_validate(filled)
        except ValidationError as error:
            fault = error.errors()[0]
            key = fault["loc"][0]
            who = "the data" if key == "num_cls_classes" else checkpoint_name(checkpoint)
            raise UserError(
                f"{who} says {key} is {found(fault['input'])}, which this "
                f"network cannot have; write model.{key} in {source}, or use another checkpoint"
            ) from None
        completed = self.model_copy(update={"model": model})
        said, faulty = set(), {key for key, _ in faults}
        for key, text in rule_faults(completed):
            name = key.rpartition(".")[2]
            if key not in faulty and (name, text) not in said:  # once for inputs that share a value
                faults.append((key, text))
                said.add((name, text))
        if faults:
            raise UserError(fault_list(source, [("", key, text) for key, text in faults]))
        return completed

    def _fill_the_rest(self, filled, checkpoint, data):
        """Fills in what has a rule or a default where neither file nor checkpoint says it."""
        family = checkpoint.get("family")
        theirs = checkpoint.get("encoder_nonlinearity")
        theirs = NONLINEARITIES.get(theirs, theirs)
        form = self.model.encoder_nonlinearity or theirs or "gelu"
        if form == "gelu":
            known = theirs in ("gelu_erf", "gelu_tanh")
            form = theirs if known else GELU_OF_FAMILY.get(family, "gelu_tanh")
        filled["encoder_nonlinearity"] = form
        filled.setdefault(
            "layer_norm_epsilon", LAYER_NORM_EPSILON_OF_FAMILY.get(family, LAYER_NORM_EPSILON)
        )
        inputs = [section for name in INPUTS if (section := getattr(self, name)) is not None]
        sizes = [data.get("vocab_size"), *(section.vocab_size for section in inputs)]
        if any(sizes):
            filled.setdefault("vocab_size", max(size for size in sizes if size))
        longest = max(section.max_sequence_length for section in inputs)
        filled.setdefault("max_position_embeddings", longest)
        if data.get("num_cls_classes") is not None:
            filled.setdefault("num_cls_classes", data["num_cls_classes"])

    def to_yaml(self):
        """The effective values as a YAML file, in which `get_params` reads equal Params."""
        sections = self.model_dump(mode="json")
        for name, section in sections.items():
            if section is None or name == "predict_input":
                continue  # predict_input in full: what it leaves out would be eval_input's
            fields = type(getattr(self, name)).model_fields
            sections[name] = {
                key: value
                for key, value in section.items()
                if value is not None or fields[key].default is not None
            }
        sections = {name: section for name, section in sections.items() if section is not None}
        return yaml.safe_dump(sections, sort_keys=False, allow_unicode=True)


# ---- Rules between keys --------------------------------------------------------------------------

# What `complete` takes from a checkpoint, and of it what gives weights their shape.
FROM_CHECKPOINT = (
    "hidden_size",
    "num_hidden_layers",
    "num_heads",
    "filter_size",
    "max_position_embeddings",
    "vocab_size",
    "embedding_size",
    "encoder_nonlinearity",
    "layer_norm_epsilon",
)
SHAPES = (
    "hidden_size",
    "num_hidden_layers",
    "num_heads",
    "filter_size",
    "vocab_size",
    "embedding_size",
)

# What decides how a network computes and leaves no trace in its weights. Our checkpoints say it.
COMPUTED_KEYS = ("attention_type", "pooler_type", "position_embedding_type")

NO_CHECKPOINT = "no checkpoint brings it; write it, or give --checkpoint_path"
REQUIRED = {
    "hidden_size": NO_CHECKPOINT,
    "num_hidden_layers": NO_CHECKPOINT,
    "num_heads": NO_CHECKPOINT,
    "filter_size": NO_CHECKPOINT,
    "vocab_size": "neither a checkpoint nor vocab_size of an input brings it; write it, "
    "or give --checkpoint_path",
    "num_cls_classes": "the data does not say it; write it",
}


def checkpoint_name(checkpoint):
    return f"checkpoint {checkpoint['path']}" if checkpoint.get("path") else "the checkpoint"


# Some programs fill their embedding table up to a multiple of 128 rows, which no token has.
MAX_FILLING_ROWS = 128


def contradictions(model, checkpoint, data):
    """Values of the file that its checkpoint or its data cannot have.

    Returns:
        List of (dotted key, text).
    """
    faults = []
    for name in SHAPES:
        own, theirs = getattr(model, name), checkpoint.get(name)
        if own is not None and theirs is not None and own != theirs:
            text = (
                f"is {own}, but {checkpoint_name(checkpoint)} has {theirs}; "
                f"write {theirs}, leave the key out, or use another checkpoint"
            )
            faults.append((f"model.{name}", text))
    for name in COMPUTED_KEYS:
        own, theirs = getattr(model, name), checkpoint.get(name)
        if theirs is not None and own != theirs:
            text = f"is {own}, but {checkpoint_name(checkpoint)} was trained with {theirs}"
            faults.append((f"model.{name}", f"{text}; write {theirs}"))
    own, theirs = model.num_cls_classes, data.get("num_cls_classes")
    if own is not None and theirs is not None and own != theirs:
        text = f"is {own}, but the data has {theirs} classes; write {theirs}, or leave the key out"
        faults.append(("model.num_cls_classes", text))
    rows, tokens = checkpoint.get("vocab_size"), data.get("vocab_size")
    if rows is not None and tokens is not None and not 0 <= rows - tokens < MAX_FILLING_ROWS:
        text = (
            f"has {tokens} tokens, but {checkpoint_name(checkpoint)} has embeddings of {rows}; "
            "give the vocabulary it was trained with, or leave the key out"
        )
        faults.append(("vocab_file", text))
    return faults


def near_divisor(number, wish):
    """The divisor of a number that is nearest to a wish; 1 where none is near."""
    for distance in range(1000):
        for divisor in (wish - distance, wish + distance):
            if divisor > 0 and number % divisor == 0:
                return divisor
    return 1


def rule_faults(params):
    """Every rule between keys that is broken; a key that is None breaks none.

    Returns:
        List of (dotted key, text that names both values).
    """
    faults = []
    model, optimizer = params.model, params.optimizer
    if model.hidden_size and model.num_heads and model.hidden_size % model.num_heads:
        near = near_divisor(model.hidden_size, model.num_heads)
        text = f"{model.num_heads} does not divide hidden_size {model.hidden_size}"
        faults.append(("model.num_heads", f"{text}; choose a divisor such as {near}"))
    faults += training_faults(model)
    faults += input_faults(params)
    for name in INPUTS:
        section = getattr(params, name)
        if section is None:
            continue
        longest, positions = section.max_sequence_length, model.max_position_embeddings
        if model.use_position_embedding and positions and longest > positions:
            text = f"{longest} exceeds model.max_position_embeddings {positions}"
            faults.append((f"{name}.max_sequence_length", f"{text}; write {positions} or less"))
        if section.vocab_size and model.vocab_size and section.vocab_size > model.vocab_size:
            text = f"{section.vocab_size} exceeds model.vocab_size {model.vocab_size}"
            faults.append(
                (f"{name}.vocab_size", f"{text}; take the vocabulary the weights were trained with")
            )
    if isinstance(model.initializer, Uniform) and (
        model.initializer.minval >= model.initializer.maxval
    ):
        text = f"{model.initializer.minval} is not below maxval {model.initializer.maxval}"
        faults.append(("model.initializer.minval", text))
    faults += optimizer_faults(optimizer)
    if params.runconfig.enable_distributed and optimizer.loss_scaling_factor == "dynamic":
        text = (
            "dynamic does not go with runconfig.enable_distributed true, as in the original; "
            "write tf_dynamic or a number"
        )
        faults.append(("optimizer.loss_scaling_factor", text))
    faults += device_faults(params)
    if params.runconfig.best_metric is None:
        for key in ("best_metric_mode", "early_stopping_patience", "export_best"):
            if getattr(params.runconfig, key) is not None:
                text = "is given without best_metric; write that too, as best_metric: eval/loss"
                faults.append((f"runconfig.{key}", text))
    if params.train_input is None and params.runconfig.mode in ("train", "train_and_eval"):
        faults.append(("train_input", f"not given; mode {params.runconfig.mode} needs it"))
    return faults


def device_faults(params):
    """The rules of sharing a batch that are broken, as `rule_faults` lists them."""
    run, faults = params.runconfig, []
    if not (run.enable_distributed or run.multiple_workers):
        if run.num_devices is not None:
            text = f"{run.num_devices} is given without enable_distributed; write that too, as true"
            faults.append(("runconfig.num_devices", text))
        return faults
    if run.device is not None:
        key = "enable_distributed" if run.enable_distributed else "multiple_workers"
        text = f"{run.device} is one device, and {key} is true; leave one of the two out"
        faults.append(("runconfig.device", text))
    if params.train_input is not None and params.train_input.packing == "packed":
        text = "packed rows cannot be shared by several devices; write buckets or auto"
        faults.append(("train_input.packing", text))
    size = None if params.train_input is None else params.train_input.batch_size
    if size and run.num_devices and not run.multiple_workers and size % run.num_devices:
        text = (
            f"{size} rows cannot be shared equally by runconfig.num_devices {run.num_devices}; "
            f"write a multiple of {run.num_devices}"
        )
        faults.append(("train_input.batch_size", text))
    return faults


def optimizer_faults(optimizer):
    """The rules between the optimizer's own keys that are broken, as `rule_faults` lists them."""
    faults = []
    place, schedules = "optimizer.learning_rate", optimizer.learning_rate
    placed = {place: schedules}
    if isinstance(schedules, tuple):
        if not schedules:
            faults.append((place, "the list is empty; write a schedule in it"))
        placed = {f"{place}.{i}": schedule for i, schedule in enumerate(schedules)}
        for place in list(placed)[:-1]:
            if placed[place].length is None:
                text = "not given; every schedule of a list but the last needs it"
                faults.append((f"{place}.steps", text))
    for place, schedule in placed.items():
        if isinstance(schedule, PiecewiseConstantSchedule):
            boundaries, values = schedule.boundaries, schedule.values
            if sorted(set(boundaries)) != list(boundaries):
                faults.append((f"{place}.boundaries", f"{list(boundaries)} do not increase"))
            if len(values) != len(boundaries) + 1:
                text = f"has {len(values)} rates for {len(boundaries)} boundaries"
                faults.append((f"{place}.values", f"{text}; write {len(boundaries) + 1}"))
    if optimizer.max_gradient_norm and optimizer.max_gradient_value:
        text = (
            f"is {optimizer.max_gradient_value}, and max_gradient_norm is "
            f"{optimizer.max_gradient_norm}; gradients are clipped by one of the two, so leave "
            "the other out"
        )
        faults.append(("optimizer.max_gradient_value", text))
    least, most = map(optimizer.loss_scale_setting, ("min_loss_scale", "max_loss_scale"))
    if not least <= optimizer.initial_loss_scale <= most:
        text = f"{optimizer.initial_loss_scale} is not between min_loss_scale {least}"
        faults.append(("optimizer.initial_loss_scale", f"{text} and max_loss_scale {most}"))
    return faults


def training_faults(model):
    """`rule_faults` of the keys that say what the network is trained for."""
    faults = []
    for name in model.freeze:
        count, layers = name.removeprefix("layers:"), model.num_hidden_layers
        if count != name and layers and int(count) > layers:
            text = f"names {name}, but num_hidden_layers is {layers}; write layers:{layers} or less"
            faults.append(("model.freeze", text))
    classes, weights = model.num_cls_classes, model.class_weights
    if classes == 1:
        defaults = {"class_weights": None, "focal_gamma": 0.0, "label_smoothing": 0.0}
        faults += [
            (
                f"model.{key}",
                f"is {found(getattr(model, key))}, but a regression "
                "(num_cls_classes 1) has no classes; leave the key out",
            )
            for key, default in defaults.items()
            if getattr(model, key) != default
        ]
    elif classes and isinstance(weights, tuple) and len(weights) != classes:
        text = f"has {len(weights)} numbers, but num_cls_classes is {classes}; write one for each"
        faults.append(("model.class_weights", text))
    rates = model.dropout_rate, model.attention_dropout_rate, model.cls_dropout_rate
    if model.r_drop_alpha and not any(rates):
        text = (
            f"is {model.r_drop_alpha}, but without dropout both passes give the same answer; "
            "write dropout_rate: 0.1, or leave it out"
        )
        faults.append(("model.r_drop_alpha", text))
    return faults


# What the network and the reports have to know of every row, and so is the same in all inputs.
SHARED = ("task", "invert_mask", "add_special_tokens")

# What says which rows there are, and so is the same where eval_fraction divides them.
DIVIDED = (
    *("data_processor", "dataset", "data_dir", "train_file", "feature_rename_map", "eval_fraction"),
    *("text_keys", "label_key", "text_columns", "label_column", "label_names", "on_bad_row"),
)


def input_faults(params):
    """The rules between the inputs, and those of the labels. As `rule_faults`."""
    faults = []
    inputs = {name: section for name in INPUTS if (section := getattr(params, name)) is not None}
    first, *others = inputs
    for name in others:
        names = SHARED
        if name == "eval_input" and inputs[first].eval_fraction != inputs[name].eval_fraction:
            names = (*SHARED, "eval_fraction")
        elif name == "eval_input" and inputs[name].eval_fraction is not None:
            names = (*SHARED, *DIVIDED)
        for key in names:
            own, theirs = getattr(inputs[name], key), getattr(inputs[first], key)
            if own != theirs:
                text = f"is {found(own)}, but {first} has {found(theirs)}; give both the same"
                faults.append((f"{name}.{key}", text))
    for name, section in inputs.items():
        if section.task == "regression" and section.label_names is not None:
            text = "given, but task is regression, whose labels are numbers; leave one of them out"
            faults.append((f"{name}.label_names", text))
    if params.predict_input.task == "regression" and params.runconfig.calibrate_temperature:
        text = "is true, but task is regression, which gives no probabilities; leave the key out"
        faults.append(("runconfig.calibrate_temperature", text))
    return faults


def fault_list(source, faults):
    """One text for all faults of a file.

    Args:
        source: str. The file.
        faults: list of (where, dotted key, text). where: "line 14", "--max_steps" or "".
    """
    noun = "key" if len(faults) == 1 else "keys"
    lines = [f"{source}: {len(faults)} {noun} to correct"]
    for where, key, text in faults:
        lines.append("  " + ": ".join(part for part in (where, key, text) if part))
    return "\n".join(lines)


def differences(old, new):
    """What two Params differ in.

    Returns:
        List of (dotted key, old value, new value); values as plain Python, None where absent.
    """
    return plain_differences(old.model_dump(mode="json"), new.model_dump(mode="json"))


def plain_differences(old: dict, new: dict, prefix=""):
    """`differences` of two mappings."""
    changes: list[tuple[str, Any, Any]] = []
    for name in [*old, *(name for name in new if name not in old)]:
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            changes += plain_differences(before, after, f"{prefix}{name}.")
        elif before != after:
            changes.append((f"{prefix}{name}", before, after))
    return changes
