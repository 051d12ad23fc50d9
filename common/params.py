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


def to_lower(value):
    return value.lower() if isinstance(value, str) else value


def not_a_number(value):
    """1 would pass for true, which it equals in Python."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise refusal(f"is {found(value)}; true, false or the name of a dtype policy is wanted")
    return value


def always(value, reason):
    """A key of the original that has one accepted value here; another is refused with `reason`."""

    def check(given):
        if type(given) is type(value) and given == value:
            return given
        raise refusal(f"is {found(given)}; {reason}. Write {found(value)}, or leave the key out")

    return BeforeValidator(check)


MAX_INT = 2**63 - 1  # what TensorFlow's int64 holds

Count = Annotated[int, Field(gt=0, le=MAX_INT), BeforeValidator(to_int)]
Whole = Annotated[int, Field(ge=0, le=MAX_INT), BeforeValidator(to_int)]
Number = Annotated[float, BeforeValidator(to_float)]
Positive = Annotated[float, Field(gt=0), BeforeValidator(to_float)]
NonNegative = Annotated[float, Field(ge=0), BeforeValidator(to_float)]
Probability = Annotated[float, Field(ge=0, lt=1), BeforeValidator(to_float)]
Path = Annotated[str, BeforeValidator(to_path)]

# One processor in input/processors.py for each.
DataProcessor = Literal["MnliDataProcessor", "Sst2DataProcessor"]
Mode = Literal["train", "eval", "eval_all", "train_and_eval", "predict", "export"]


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


class InputParams(Section):
    """Where the text comes from, and how it becomes batches. What the three inputs share."""

    data_processor: DataProcessor = Field(
        description="The kind of data: one sentence (Sst2) or a premise and a hypothesis (Mnli)."
    )
    dataset: str | None = Field(
        None,
        min_length=1,
        description="Name in TensorFlow Datasets, such as sample_glue/sst2. "
        "Not given: the processor's own, glue/sst2 or glue/mnli.",
    )
    data_dir: Path = Field(
        description="Folder in which TensorFlow Datasets keeps, or puts, the prepared data."
    )
    vocab_file: Path | None = Field(
        None,
        description="WordPiece vocabulary, a token a line. Not given: the checkpoint brings it.",
    )
    vocab_size: Count | None = Field(
        None, description="Lines of vocab_file. Where it is given, the file has to agree."
    )
    max_sequence_length: Annotated[int, Field(ge=3), BeforeValidator(to_int)] = Field(
        description="Tokens of the longest row, [CLS] and [SEP] among them; longer text is cut."
    )
    batch_size: Count = Field(description="Rows in a batch.")
    do_lower: bool = Field(
        True, strict=True, description="Lower-case the text, as an uncased vocabulary needs."
    )
    shuffle: bool = Field(True, strict=True, description="Draw a new order of rows every epoch.")
    shuffle_seed: Whole | None = Field(
        None, description="Seed of those orders. Not given: runconfig.tf_random_seed."
    )
    packing: Literal["buckets", "none"] = Field(
        "buckets",
        description="buckets: batch rows of like length, padded to one of a few lengths. "
        "none: pad every row to max_sequence_length.",
    )
    num_buckets: Count = Field(8, description="How many lengths `packing: buckets` has, at most.")
    cache_dir: Path | None = Field(
        None, description="Folder of the token cache. Not given: ~/.cache/bert_classifier."
    )
    drop_remainder: bool = Field(
        True, strict=True, description="Leave out the rows after an epoch's last whole batch."
    )
    repeat: bool = Field(True, strict=True, description="Begin another epoch after the last row.")
    add_special_tokens: Annotated[
        Literal[True], always(True, "every row is [CLS] A [SEP] or [CLS] A [SEP] B [SEP] here")
    ] = Field(True, description="Put [CLS] and [SEP] around the text.")
    invert_mask: Annotated[
        Literal[True], always(True, "input_mask is 1 on padding here, the documented contract")
    ] = Field(True, description="input_mask is 1 on padding, 0 on tokens.")


class TrainInputParams(InputParams):
    """Rows to train on."""

    drop_remainder: Annotated[Literal[True], always(True, "every update has batch_size rows")] = (
        Field(True, description="Leave out the rows after an epoch's last whole batch.")
    )
    repeat: Annotated[
        Literal[True], always(True, "training goes on until its number of steps is reached")
    ] = Field(True, description="Begin another epoch after the last row.")


class EvalInputParams(InputParams):
    """Rows to score: each of them, once, in the order of the data set."""

    shuffle: Annotated[
        Literal[False], always(False, "evaluation and prediction read the rows in order")
    ] = Field(False, description="Rows are read in the order of the data set.")
    drop_remainder: Annotated[
        Literal[False], always(False, "evaluation and prediction score every row")
    ] = Field(False, description="Every row is scored, those of the last short batch too.")
    repeat: Annotated[
        Literal[False], always(False, "evaluation and prediction read every row once")
    ] = Field(False, description="Every row is read once.")


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

DTYPE_POLICIES = {False: "float32", True: "mixed_float16"}


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
    position_embedding_type: Annotated[
        Literal["learned"], always("learned", "the position table is a learned one here")
    ] = Field("learned", description="Where the position vectors come from.")
    embedding_size: Count | None = Field(
        None, description="Width of the word table: hidden_size, given or not."
    )
    share_embedding_weights: Annotated[
        Literal[True], always(True, "a classifier has one word table")
    ] = Field(True, description="One word table for everything.")
    initializer: Initializer = Field(
        TruncatedNormal(name="truncated_normal", stddev=0.02),
        description="How weights begin that no checkpoint brings: a name, or a mapping with "
        "`name`. Accepted at the top level of the file too, as in the original.",
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
    use_ffn_bias: Annotated[
        Literal[True], always(True, "the feed-forward layers have a bias here")
    ] = Field(True, description="A bias in the feed-forward layers.")
    use_projection_bias_in_attention: Annotated[
        Literal[True], always(True, "query, key and value have a bias here")
    ] = Field(True, description="A bias in query, key and value.")
    use_ffn_bias_in_attention: Annotated[
        Literal[True], always(True, "the attention's output layer has a bias here")
    ] = Field(True, description="A bias in the attention's output layer.")
    attention_type: Annotated[
        Literal["scaled_dot_product"],
        always("scaled_dot_product", "attention is scaled by depth ** -0.5, as in the original"),
    ] = Field("scaled_dot_product", description="How query and key are compared.")

    # Classifier
    num_cls_classes: Annotated[int, Field(ge=2), BeforeValidator(to_int)] | None = Field(
        None, description="Classes. Not given: the data processor's."
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

    # Precision
    mixed_precision: Annotated[
        Literal[False, True, "float32", "mixed_bfloat16", "mixed_float16"],
        BeforeValidator(not_a_number),
    ] = Field(
        False,
        description="Keras dtype policy. false: float32; true: mixed_float16, as in the original.",
    )
    boundary_casting: Annotated[
        Literal[False], always(False, "casts follow mixed_precision here")
    ] = Field(False, description="Float32 at the network's boundary only.")
    tf_summary: Annotated[
        Literal[False], always(False, "summaries follow runconfig.save_summary_steps here")
    ] = Field(False, description="Summaries from inside the layers.")

    @property
    def head_size(self):
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def dtype_policy(self):
        """Name of the Keras dtype policy: float32, mixed_bfloat16 or mixed_float16."""
        return DTYPE_POLICIES.get(self.mixed_precision, self.mixed_precision)

    @property
    def keras_initializer(self):
        """`initializer` as `keras.initializers.get` takes it: {"class_name", "config"}."""
        config = self.initializer.model_dump()
        return {"class_name": KERAS_INITIALIZERS[config.pop("name")], "config": config}


# ---- optimizer -----------------------------------------------------------------------------------


class ConstantSchedule(Section):
    """One rate throughout."""

    scheduler: Literal["Constant"]
    learning_rate: NonNegative = Field(description="The rate.")
    steps: Count | None = Field(
        None, description="How long, where another schedule follows in a list."
    )


class LinearSchedule(Section):
    """A straight line from one rate to another, which is held from then on."""

    scheduler: Literal["Linear"]
    initial_learning_rate: NonNegative = Field(description="The rate at the first step.")
    end_learning_rate: NonNegative = Field(description="The rate after `steps` steps.")
    steps: Count = Field(description="How long the way from one to the other takes.")


class PolynomialSchedule(Section):
    """A power of the steps left, from one rate to another, which is held from then on."""

    scheduler: Literal["Polynomial"]
    initial_learning_rate: NonNegative = Field(description="The rate at the first step.")
    end_learning_rate: NonNegative = Field(description="The rate after `steps` steps.")
    steps: Count = Field(description="How long the way from one to the other takes.")
    power: Positive = Field(1.0, description="1 is a straight line, 2 bends towards the end.")
    cycle: bool = Field(
        False, strict=True, description="Once at the end, begin again with a longer way."
    )


# Another schedule is another class here, with a `scheduler` name of its own.
Schedule = Annotated[
    ConstantSchedule | LinearSchedule | PolynomialSchedule, Field(discriminator="scheduler")
]


def learning_rate_form(value):
    """Which of its three forms a learning rate has."""
    if isinstance(value, list | tuple):
        return "list"
    return "schedule" if isinstance(value, dict | Section) else "number"


LearningRate = Annotated[
    Annotated[NonNegative, Tag("number")]
    | Annotated[Schedule, Tag("schedule")]
    | Annotated[tuple[Schedule, ...], Tag("list")],
    Discriminator(learning_rate_form),
]


class OptimizerParams(Section):
    """One update of the weights: AdamW as in google-research/bert, which the original follows."""

    optimizer_type: Annotated[Literal["adamw"], BeforeValidator(to_lower)] = Field(
        "adamw", description="The rule of the update."
    )
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
    beta1: Probability = Field(0.9, description="Decay of the mean of the gradients.")
    beta2: Probability = Field(0.999, description="Decay of the mean of their squares.")
    epsilon: Positive | None = Field(
        None,
        description="Added to the square root of that mean. Not given: 1e-5 in mixed precision, "
        "1e-8 in float32.",
    )
    use_bias_correction: bool = Field(
        False, strict=True, description="Correct both means for having begun at 0 (Adam's)."
    )
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
    loss_scaling_factor: Positive | Literal["dynamic"] = Field(
        1.0,
        description="Factor on the loss, taken off the gradients again, to keep float16 from "
        "underflow. dynamic: halved and doubled as the gradients allow.",
    )
    initial_loss_scale: Positive = Field(2.0**15, description="The dynamic factor's first value.")
    min_loss_scale: Positive = Field(2.0**-14, description="The dynamic factor's least value.")
    max_loss_scale: Positive = Field(2.0**15, description="The dynamic factor's largest value.")
    steps_per_increase: Count = Field(
        2000, description="Steps without overflow after which the dynamic factor doubles."
    )
    overflow_tolerance: Probability = Field(
        0.05, description="Share of steps with overflow above which the dynamic factor halves."
    )

    @field_validator("exclude_from_weight_decay")
    @classmethod
    def every_pattern_compiles(cls, patterns):
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise refusal(
                    f"{found(pattern)} is no regular expression: {error}; names need none of its "
                    "signs, such as `layer_norm`"
                ) from None
        return patterns

    @field_validator("max_gradient_norm")
    @classmethod
    def zero_is_never(cls, value):
        return value or None


# ---- runconfig -----------------------------------------------------------------------------------


class RunParams(Section):
    """What to do, for how long, and what to keep. Flags of `run.py` of the same name override."""

    mode: Mode | None = Field(None, description="What to do. Normally given as --mode.")
    model_dir: Path | None = Field(
        None, description="Folder of checkpoints, events and results. Normally --model_dir."
    )
    checkpoint_path: Path | None = Field(
        None, description="Weights to begin training from, or to score in eval and predict."
    )
    steps: Count | None = Field(None, description="Train this many more steps.")
    max_steps: Count | None = Field(None, description="Train until this global step.")
    eval_steps: Annotated[int, BeforeValidator(to_int)] | None = Field(
        None, description="Batches to evaluate. 0 or null: the whole split."
    )
    predict_steps: Count = Field(
        1, description="Rows to predict on a CS system; elsewhere the whole split is predicted."
    )
    save_checkpoints_steps: Count = Field(1000, description="Steps between checkpoints.")
    keep_checkpoint_max: Whole = Field(5, description="Newest checkpoints to keep. 0: all.")
    save_summary_steps: Count = Field(100, description="Steps between TensorBoard summaries.")
    log_step_count_steps: Count | None = Field(
        None, description="Steps between lines of the log. Not given: save_summary_steps."
    )
    tf_random_seed: Annotated[Whole, Field(lt=2**32)] | None = Field(  # NumPy's bound
        None, description="Seed of fresh weights, dropout and the order of rows."
    )
    device: str | None = Field(None, min_length=1, description="Device to run on, as /gpu:0.")
    throttle_secs: Whole = Field(
        0, description="Seconds from one evaluation to the next in train_and_eval, at least."
    )
    deterministic: bool = Field(
        True, strict=True, description="The same bits again from the same seed, also on a GPU."
    )
    enable_distributed: Annotated[
        Literal[False], always(False, "training runs on one device here")
    ] = Field(False, description="Copies of the network on several devices of one machine.")
    multiple_workers: Annotated[
        Literal[False], always(False, "training runs on one machine here")
    ] = Field(False, description="Copies of the network on several machines.")

    @field_validator("eval_steps")
    @classmethod
    def not_positive_is_the_whole_split(cls, value):
        return None if value is None or value <= 0 else value

    @property
    def log_steps(self):
        """Steps between lines of the log."""
        return self.log_step_count_steps or self.save_summary_steps


# ---- The whole file ------------------------------------------------------------------------------

INPUTS = ("train_input", "eval_input", "predict_input")


def given(section):
    """The keys of a section, read or not yet, or of one that is absent."""
    if section is None:
        return {}
    return dict(section) if isinstance(section, dict | Section) else section


def derive_inputs(values):
    """Puts into a file's mapping the inputs it leaves out. See `Params`."""
    values = {name: value for name, value in values.items() if value is not None}
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
            values["optimizer"] = optimizer | {"epsilon": 1e-5 if mixed else 1e-8}
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

    def with_runconfig(self, **values):
        """The same params with other runconfig values."""
        runconfig = RunParams.model_validate(dict(self.runconfig) | values)
        return self.model_copy(update={"runconfig": runconfig})

    def with_float32(self):
        """The same params without mixed precision."""
        return self.model_copy(
            update={"model": self.model.model_copy(update={"mixed_precision": False})}
        )

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
    "encoder_nonlinearity",
    "layer_norm_epsilon",
)
SHAPES = ("hidden_size", "num_hidden_layers", "num_heads", "filter_size", "vocab_size")

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


def divisors(number):
    return [d for d in range(1, number + 1) if number % d == 0]


def rule_faults(params):
    """Every rule between keys that is broken; a key that is None breaks none.

    Returns:
        List of (dotted key, text that names both values).
    """
    faults = []
    model, optimizer = params.model, params.optimizer
    if model.hidden_size and model.num_heads and model.hidden_size % model.num_heads:
        near = min(divisors(model.hidden_size), key=lambda d: abs(d - model.num_heads))
        text = f"{model.num_heads} does not divide hidden_size {model.hidden_size}"
        faults.append(("model.num_heads", f"{text}; choose a divisor such as {near}"))
    if model.embedding_size and model.hidden_size and model.embedding_size != model.hidden_size:
        text = f"{model.embedding_size} differs from hidden_size {model.hidden_size}"
        faults.append(("model.embedding_size", f"{text}; leave the key out"))
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
    if isinstance(optimizer.learning_rate, tuple):
        if not optimizer.learning_rate:
            faults.append(("optimizer.learning_rate", "the list is empty; write a schedule in it"))
        for i, schedule in enumerate(optimizer.learning_rate[:-1]):
            if schedule.steps is None:
                text = "not given; every schedule of a list but the last needs it"
                faults.append((f"optimizer.learning_rate.{i}.steps", text))
    least, first, most = (
        optimizer.min_loss_scale,
        optimizer.initial_loss_scale,
        optimizer.max_loss_scale,
    )
    if not least <= first <= most:
        text = f"{first} is not between min_loss_scale {least} and max_loss_scale {most}"
        faults.append(("optimizer.initial_loss_scale", text))
    if params.train_input is None and params.runconfig.mode in ("train", "train_and_eval"):
        faults.append(("train_input", f"not given; mode {params.runconfig.mode} needs it"))
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
