# SPDX-License-Identifier: Apache-2.0
"""`model`: the network."""

import re
from functools import partial
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from common.params.values import (
    Count,
    Key,
    NonNegative,
    Number,
    OneOrMore,
    PadId,
    Path,
    Positive,
    Probability,
    Section,
    Switch,
    Whole,
    found,
    keys_of,
    not_a_number,
    refusal,
    to_lower,
    to_names,
)


class Constant(Section):
    """Every element the same."""

    name: Literal["constant"]
    value: Number = Key(0.0, "The element.")


class Uniform(Section):
    """Evenly spread between two bounds."""

    name: Literal["uniform"]
    minval: Number = Key(-0.05, "Lower bound.")
    maxval: Number = Key(0.05, "Upper bound.")


class Normal(Section):
    """Normal distribution."""

    name: Literal["normal"]
    mean: Number = Key(0.0, "Mean.")
    stddev: Positive = Key(0.05, "Standard deviation.")


class TruncatedNormal(Section):
    """Normal distribution, drawn again beyond two standard deviations."""

    name: Literal["truncated_normal"]
    mean: Number = Key(0.0, "Mean.")
    stddev: Positive = Key(0.05, "Standard deviation, before the cut.")


class GlorotNormal(Section):
    """Normal, spread by the widths of both sides (Glorot and Bengio 2010)."""

    name: Literal["glorot_normal"]


class GlorotUniform(Section):
    """Uniform, spread by the widths of both sides (Glorot and Bengio 2010)."""

    name: Literal["glorot_uniform"]


class VarianceScaling(Section):
    """Spread by the width of one side, or of both (He et al. 2015)."""

    name: Literal["variance_scaling"]
    scale: Positive = Key(1.0, "Factor on the variance.")
    mode: Literal["fan_in", "fan_out", "fan_avg"] = Key("fan_in", "The side.")
    distribution: Literal["truncated_normal", "untruncated_normal", "uniform"] = Key(
        "truncated_normal", "The shape."
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


# Decides the shape of weights, which a checkpoint brings.
ShapeKey = partial(
    Key,
    from_checkpoint=True,
    fixed_by_checkpoint=True,
    needed="no checkpoint brings it; write it, or give --checkpoint_path",
)
NO_HEADS = "a classifier has no heads of pre-training; leave the key out"
NO_PADDING = "train_input.packing: packed or buckets leaves out the padding"


class ModelParams(Section):
    """The network: BERT's embeddings and encoder, and the two dense layers of the classifier.

    A key that says "Not given: the checkpoint's" may be left out where `--checkpoint_path` names
    pre-trained weights; one that gives the tables or layers another shape than theirs is refused.
    """

    # Embeddings
    hidden_size: Count | None = ShapeKey(
        None,
        "D, the width between layers. Not given: the checkpoint's.",
    )
    vocab_size: Count | None = ShapeKey(
        None,
        "Rows of the word table. Not given: the checkpoint's, or the inputs'.",
        needed="neither a checkpoint nor vocab_size of an input brings it; write it, or give "
        "--checkpoint_path",
    )
    max_position_embeddings: Count | None = Key(
        None,
        "Rows of the position table. Not given: the checkpoint's, or the longest "
        "max_sequence_length.",
        from_checkpoint=True,
    )
    use_position_embedding: Switch = Key(
        True, "Add a vector for the position of each token.", in_config=True
    )
    use_segment_embedding: Switch = Key(
        True, "Add a vector for the sentence, A or B, of each token.", in_config=True
    )
    position_embedding_type: Literal["learned", "fixed"] = Key(
        "learned",
        "Where the position vectors come from: a table of weights, or sines and cosines.",
        fixed_by_checkpoint=True,
    )
    embedding_size: Count | None = ShapeKey(
        None,
        "E, the width of the word table, where it is not hidden_size: a matrix without "
        "bias leads from one to the other. Not given: the checkpoint's, or hidden_size.",
        needed=None,
    )
    initializer: Initializer = Key(
        TruncatedNormal(name="truncated_normal", stddev=0.02),
        "How weights begin that no checkpoint brings: a name, or a mapping with "
        "`name`. Accepted at the top level of the file too, as in the original.",
    )
    embedding_initializer: Initializer | None = Key(
        None, "How the word table begins. Not given: as initializer says."
    )
    weight_initialization_seed: Whole | None = Key(
        None, "Seed of those weights. Not given: runconfig.tf_random_seed.", compiled=False
    )

    # Encoder
    num_hidden_layers: Count | None = ShapeKey(
        None,
        "Encoder blocks. Not given: the checkpoint's.",
    )
    num_heads: Count | None = ShapeKey(
        None,
        "Attention heads, each hidden_size / num_heads wide. Not given: the checkpoint's.",
    )
    filter_size: Count | None = ShapeKey(
        None,
        "F, the inner width of the feed-forward block. Not given: the checkpoint's.",
    )
    encoder_nonlinearity: Nonlinearity | None = Key(
        None,
        "Between the two feed-forward layers. gelu: the form that the checkpoint's "
        "family uses, tanh where there is none. Not given: the checkpoint's.",
        from_checkpoint=True,
    )
    layer_norm_epsilon: Positive | None = Key(
        None,
        "Added to the variance in every layer norm. Not given: the checkpoint's, or "
        "what is usual in its family; 1e-8 where there is none.",
        from_checkpoint=True,
    )
    dropout_rate: Probability = Key(
        0.1, "Share of elements dropped after embeddings and before each residual."
    )
    attention_dropout_rate: Probability = Key(0.0, "Share of attention weights dropped.")
    use_pre_normalization: Switch = Key(
        False, "Layer norm before each block, not after its residual.", in_config=True
    )
    use_ffn_bias: Switch = Key(True, "A bias in the feed-forward layers.")
    use_projection_bias_in_attention: Switch = Key(True, "A bias in query, key and value.")
    use_ffn_bias_in_attention: Switch = Key(True, "A bias in the attention's output layer.")
    attention_type: Literal["scaled_dot_product", "dot_product"] = Key(
        "scaled_dot_product",
        "How query and key are compared: their product divided by the root of a head's "
        "width, or as it is.",
        fixed_by_checkpoint=True,
    )
    dropout_seed: Whole | None = Key(
        None, "Seed of what is dropped. Not given: runconfig.tf_random_seed.", compiled=False
    )
    recompute: Switch = Key(
        False,
        "Compute every encoder layer a second time in the backward pass instead of "
        "keeping what it computed: less memory, more time, the same gradients.",
        changes="speed",
    )

    # Classifier
    num_cls_classes: Count | None = Key(
        None,
        "Classes; 1 for a regression. Not given: the data's.",
        from_pretraining=False,
        needed="the data does not say it; write it",
    )
    pooler_type: Annotated[
        Literal["first", "last", "mean", "max", "sum"], BeforeValidator(to_lower)
    ] = Key(
        "first",
        "The vector that stands for a row: of its first token, [CLS], of its last, "
        "or the mean, maximum or sum over its tokens, padding left out.",
        fixed_by_checkpoint=True,
    )
    cls_dropout_rate: Probability = Key(
        0.0, "Share of elements dropped between the classifier's two dense layers."
    )
    disable_nsp: Switch = Key(
        False, "Begin the classifier's first dense layer afresh, not from the checkpoint's pooler."
    )
    pretrain_params_path: Path | None = Key(
        None,
        "YAML file of the pre-training run, from the folder of this one or the one "
        "above it: the keys of its `model` hold where this file gives no other. What is saved has "
        "them written out.",
        changes="where and how long",
        from_pretraining=False,
    )

    # Training
    class_weights: Literal["auto"] | tuple[Positive, ...] | None = Key(
        None,
        "Factor on the loss of a row for each label; auto: rows / (classes x rows of "
        "the label), so that all labels count the same.",
    )
    focal_gamma: NonNegative = Key(
        0.0,
        "Times (1 - p) ** focal_gamma, p being the probability of the label: less "
        "weight on rows that are right already. 0: plain cross entropy.",
    )
    label_smoothing: Probability = Key(
        0.0, "Share of each label that is spread over all classes in the loss."
    )
    r_drop_alpha: NonNegative = Key(
        0.0,
        "R-Drop: each row goes through the network twice, under two dropout masks, and "
        "so much weighs in the loss how far the two answers are apart. A step takes twice as long. "
        "0: once.",
    )
    freeze: Annotated[
        tuple[str, ...], BeforeValidator(to_names, json_schema_input_type=OneOrMore)
    ] = Key(
        (),
        "What keeps its weights: embeddings, encoder, pooler, layers:N (the first N "
        "encoder layers), or a list of these.",
    )

    # Precision
    mixed_precision: Annotated[
        Literal[False, True, "auto", "float32", "mixed_bfloat16", "mixed_float16"],
        BeforeValidator(not_a_number),
    ] = Key(
        False,
        "Keras dtype policy. false: float32; true: mixed_float16, as in the original; "
        "auto: mixed_bfloat16 where the processor or GPU multiplies it faster, else float32.",
    )

    # Without effect here
    boundary_casting: Switch = Key(
        False,
        "Round the inputs of layers to float16, as the CS-1 does.",
        changes="nothing",
        no_effect="it imitated the CS-1's 16-bit activations; model.mixed_precision computes in "
        "16 bits",
    )
    tf_summary: Switch = Key(
        False,
        "Write the activations and gradients of layers out.",
        changes="nothing",
        no_effect="optimizer.log_grads and optimizer.log_hists show the gradients",
    )
    enable_gpu_optimizations: Switch = Key(
        False,
        "Gather masked tokens in a way that suits GPUs.",
        changes="nothing",
        no_effect="it is about masked words; a classifier has none",
    )
    share_embedding_weights: Switch = Key(
        True, "Use the word table for the words to predict, too.", no_effect=NO_HEADS
    )
    mlm_loss_weight: NonNegative = Key(1.0, "Factor on the masked words' loss.", no_effect=NO_HEADS)
    mlm_loss_scaling: Literal["precomputed_num_masked", "num_masked", "batch_size"] = Key(
        "precomputed_num_masked", "What the masked words' loss is divided by.", no_effect=NO_HEADS
    )
    mlm_nonlinearity: str = Key("gelu", "Of the masked words' head.", no_effect=NO_HEADS)
    use_ffn_bias_in_mlm: Switch = Key(
        True, "A bias in the dense layer of the masked words' head.", no_effect=NO_HEADS
    )
    use_output_bias_in_mlm: Switch = Key(
        True, "A bias for each word to predict.", no_effect=NO_HEADS
    )
    nsp_nonlinearity: str = Key("tanh", "Of the next-sentence head.", no_effect=NO_HEADS)
    use_nsp_bias: Switch = Key(True, "Biases in the next-sentence head.", no_effect=NO_HEADS)
    include_padding_in_loss: Switch = Key(
        False,
        "Count padding in a loss over tokens.",
        no_effect="a classifier's loss is one number a row, not one a token",
    )
    use_vsl: Switch = Key(
        False, "Let the length of rows vary on a CS system.", no_effect=NO_PADDING
    )
    input_pad_id: PadId | None = Key(
        None, "Id of padding in input_ids, with VSL.", no_effect=NO_PADDING
    )
    segment_pad_id: PadId | None = Key(
        None, "Id of padding in segment_ids, with VSL.", no_effect=NO_PADDING
    )
    mlm_pad_id: PadId | None = Key(
        None, "Id of padding in the labels, with VSL.", no_effect=NO_PADDING
    )
    multireplica: Switch = Key(
        False,
        "Copies of the network on one CS system.",
        no_effect="several devices share the work with runconfig.enable_distributed",
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


# What `complete` takes from a checkpoint, and of it what gives weights their shape.
FROM_CHECKPOINT = keys_of(ModelParams, from_checkpoint=True)
SHAPES = keys_of(ModelParams, from_checkpoint=True, fixed_by_checkpoint=True)

# What decides how a network computes and leaves no trace in its weights. Our checkpoints say it.
COMPUTED_KEYS = keys_of(ModelParams, from_checkpoint=False, fixed_by_checkpoint=True)
