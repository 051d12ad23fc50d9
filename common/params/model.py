# SPDX-License-Identifier: Apache-2.0
"""`model`: the network."""

import re
from functools import partial
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from common.params.families import BERT, FAMILIES
from common.params.pretraining import Nonlinearity, PretrainingHeadKeys
from common.params.values import (
    Count,
    InertKey,
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
    as_yaml,
    keys_of,
    not_a_number,
    refusal,
    to_lower,
    to_names,
)
from common.params.words import TAGGING, WordHeadKeys


class Constant(Section):
    """The same value in every element."""

    name: Literal["constant"]
    value: Number = Key(0.0, "The value.")


class Uniform(Section):
    """Uniform distribution between two bounds."""

    name: Literal["uniform"]
    minval: Number = Key(-0.05, "Lower bound.")
    maxval: Number = Key(0.05, "Upper bound.")


class Normal(Section):
    """Normal distribution."""

    name: Literal["normal"]
    mean: Number = Key(0.0, "Mean.")
    stddev: Positive = Key(0.05, "Standard deviation.")


class TruncatedNormal(Section):
    """Normal distribution, redrawn beyond two standard deviations."""

    name: Literal["truncated_normal"]
    mean: Number = Key(0.0, "Mean.")
    stddev: Positive = Key(0.05, "Standard deviation, before the cut.")


class GlorotNormal(Section):
    """Normal, scaled by the input and output widths (Glorot and Bengio 2010)."""

    name: Literal["glorot_normal"]


class GlorotUniform(Section):
    """Uniform, scaled by the input and output widths (Glorot and Bengio 2010)."""

    name: Literal["glorot_uniform"]


class VarianceScaling(Section):
    """Scaled by the input width, the output width, or their mean (He et al. 2015)."""

    name: Literal["variance_scaling"]
    scale: Positive = Key(1.0, "Factor on the variance.")
    mode: Literal["fan_in", "fan_out", "fan_avg"] = Key(
        "fan_in", "The width: of the input, of the output, or their mean."
    )
    distribution: Literal["truncated_normal", "untruncated_normal", "uniform"] = Key(
        "truncated_normal", "The distribution."
    )


Initializer = Annotated[
    Constant | Uniform | Normal | TruncatedNormal | GlorotNormal | GlorotUniform | VarianceScaling,
    Field(discriminator="name"),
    BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value),
]

# Where the class has another name in Keras.
KERAS_NAMES = {"Normal": "RandomNormal", "Uniform": "RandomUniform"}


def keras_initializer(initializer):
    """An Initializer as `keras.initializers.get` takes it: {"class_name", "config"}."""
    name = type(initializer).__name__
    config = initializer.model_dump(exclude={"name"})
    return {"class_name": KERAS_NAMES.get(name, name), "config": config}


# Other names, in the config.json of checkpoints.
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

# auto: until `data.complete_params` has replaced it.
DTYPE_POLICIES = {False: "float32", True: "mixed_float16", "auto": "float32"}


CheckpointKey = partial(Key, from_checkpoint=True)
FixedKey = partial(Key, fixed_by_checkpoint=True)
# Decides the shapes of weights.
ShapeKey = partial(
    CheckpointKey,
    fixed_by_checkpoint=True,
    needed="no checkpoint brings it; write it, or give --checkpoint_path",
)
# Of networks with rotary positions alone, see `families.ROTARY`.
RotaryKey = partial(
    CheckpointKey, None, fixed_by_checkpoint=True, only_with={"backbone": ("modernbert",)}
)
PaddingKey = partial(Key, no_effect="train_input.packing: packed or buckets leaves out the padding")


class NetworkKeys(Section):
    """The keys of every network."""

    backbone: Literal[tuple(FAMILIES)] | None = CheckpointKey(
        None,
        "The family of the network below the head. Not given: the checkpoint's, or bert.",
        fixed_by_checkpoint=True,
    )

    # Embeddings
    hidden_size: Count | None = ShapeKey(
        None, "D, the width of the vectors between layers. Not given: the checkpoint's."
    )
    vocab_size: Count | None = ShapeKey(
        None,
        "Rows of the word embedding table. Not given: the checkpoint's, or the inputs'.",
        needed="neither a checkpoint nor vocab_size of an input brings it; write it, or give "
        "--checkpoint_path",
    )
    max_position_embeddings: Count | None = CheckpointKey(
        None,
        "Rows of the position embedding table. Not given: the checkpoint's, or the longest "
        "max_sequence_length.",
    )
    use_position_embedding: Switch = Key(
        True, "Add a vector for the position of each token.", in_config=True
    )
    use_segment_embedding: Switch = Key(
        True, "Add a vector for the segment (A or B) of each token.", in_config=True
    )
    position_embedding_type: Literal["learned", "fixed"] = FixedKey(
        "learned", "learned: position vectors are weights. fixed: they are sines and cosines."
    )
    embedding_size: Count | None = ShapeKey(
        None,
        "E, the width of the word embeddings, if it is not hidden_size: a matrix projects them to "
        "hidden_size, or with backbone electra or albert the sum of all embeddings. Not given: "
        "the checkpoint's, or hidden_size.",
        needed=None,
    )
    initializer: Initializer = Key(
        TruncatedNormal(name="truncated_normal", stddev=0.02),
        "Initial values of weights that no checkpoint brings: a name, or a mapping with `name`. "
        "Accepted at the top level of the file too, as in the original.",
    )
    embedding_initializer: Initializer | None = Key(
        None, "Initial values of the word embeddings. Not given: initializer."
    )
    weight_initialization_seed: Whole | None = Key(
        None, "Seed of the initial values. Not given: runconfig.tf_random_seed.", compiled=False
    )

    # Encoder
    num_hidden_layers: Count | None = ShapeKey(
        None, "Number of encoder layers. Not given: the checkpoint's."
    )
    num_heads: Count | None = ShapeKey(
        None, "Attention heads; each is hidden_size / num_heads wide. Not given: the checkpoint's."
    )
    filter_size: Count | None = ShapeKey(
        None, "F, the inner width of the feed-forward block. Not given: the checkpoint's."
    )
    encoder_nonlinearity: Nonlinearity | None = CheckpointKey(
        None,
        "Activation between the two feed-forward layers. gelu: the form that the checkpoint's "
        "family uses; tanh without a checkpoint. Not given: the checkpoint's.",
    )
    layer_norm_epsilon: Positive | None = CheckpointKey(
        None,
        "Added to the variance in every layer norm. Not given: the checkpoint's, or the usual "
        "value of its family; 1e-8 without a checkpoint.",
    )
    dropout_rate: Probability = Key(
        0.1, "Dropout rate after the embeddings and before each residual."
    )
    attention_dropout_rate: Probability = Key(0.0, "Dropout rate of the attention weights.")
    use_pre_normalization: Switch = Key(
        False, "Apply layer norm before each block instead of after its residual.", in_config=True
    )
    use_ffn_bias: Switch = Key(True, "Biases in the feed-forward layers.")
    use_projection_bias_in_attention: Switch = Key(True, "Biases of query, key and value.")
    use_ffn_bias_in_attention: Switch = Key(True, "A bias in the output layer of the attention.")
    attention_type: Literal["scaled_dot_product", "dot_product"] = FixedKey(
        "scaled_dot_product",
        "How query and key are compared: by their dot product, divided by the square root of the "
        "head's width or not.",
    )
    global_attention_every: Count | None = RotaryKey(
        "Every so many layers, from the first, a token attends to all others; in the rest to those "
        "within local_attention. Not given: the checkpoint's, or 3."
    )
    local_attention: Count | None = RotaryKey(
        "The window of local layers in tokens, half of it on each side. Not given: the "
        "checkpoint's, or 128."
    )
    global_rope_theta: Positive | None = RotaryKey(
        "Base of the rotary positions of layers that attend to all tokens. Not given: the "
        "checkpoint's, or 160,000."
    )
    local_rope_theta: Positive | None = RotaryKey(
        "Likewise, of local layers. Not given: the checkpoint's, or 10,000."
    )
    dropout_seed: Whole | None = Key(
        None, "Seed of dropout. Not given: runconfig.tf_random_seed.", compiled=False
    )
    recompute: Switch = Key(
        False,
        "Compute every encoder layer again in the backward pass instead of storing its "
        "intermediate values: less memory, more time, the same gradients.",
        changes="speed",
    )

    # Classifier
    num_cls_classes: Count | None = Key(
        None,
        "Number of classes; 1 for a regression. Not given: the data's.",
        from_pretraining=False,
        needed="the data does not say it; write it",
    )
    pooler_type: Annotated[
        Literal["first", "last", "mean", "max", "sum"], BeforeValidator(to_lower)
    ] = FixedKey(
        "first",
        "The vector that represents a row: of its first token, [CLS], of its last token, or the "
        "mean, maximum or sum over its tokens without padding.",
        fixed_by_checkpoint=True,
    )
    cls_dropout_rate: Probability = Key(
        0.0, "Dropout rate between the classifier's two dense layers."
    )
    disable_nsp: Switch = Key(
        False,
        "Initialize the classifier's first dense layer instead of loading the checkpoint's pooler.",
    )
    pretrain_params_path: Path | None = Key(
        None,
        "YAML file of the pre-training run, relative to the folder of this file or the one above. "
        "The keys of its `model` hold if this file does not give them; saved params contain them.",
        changes="where and how long",
        from_pretraining=False,
    )

    # Training
    class_weights: Literal["auto"] | tuple[Positive, ...] | None = Key(
        None,
        "Factor on the loss of a row for each label. auto: rows / (classes x rows of the label), "
        "so that all labels have the same weight. With task: token_classification, of words.",
        task=("classification", TAGGING),
    )
    focal_gamma: NonNegative = Key(
        0.0,
        "Multiplies the loss by (1 - p) ** focal_gamma, where p is the probability of the label: "
        "rows that are right already count less. 0: plain cross entropy.",
        task="classification",
    )
    label_smoothing: Probability = Key(
        0.0,
        "Fraction of each label that is spread over all classes in the loss.",
        task="classification",
    )
    r_drop_alpha: NonNegative = Key(
        0.0,
        "R-Drop: each row passes the network twice with two dropout masks, and the loss adds the "
        "divergence of the two outputs times this factor. A step takes twice as long. 0: once.",
    )
    freeze: Annotated[
        tuple[str, ...], BeforeValidator(to_names, json_schema_input_type=OneOrMore)
    ] = Key(
        (),
        "Parts that are not trained: embeddings, encoder, pooler, layers:N (the first N encoder "
        "layers), or a list of these.",
    )

    # Precision
    mixed_precision: Annotated[
        Literal[False, True, "auto", "float32", "mixed_bfloat16", "mixed_float16"],
        BeforeValidator(not_a_number),
    ] = Key(
        False,
        "Keras dtype policy. false: float32; true: mixed_float16, as in the original; auto: "
        "mixed_bfloat16 if the processor or GPU multiplies it faster, else float32.",
    )

    # Without effect here
    boundary_casting: Switch = InertKey(
        False,
        "Round the inputs of layers to float16, as the CS-1 does.",
        no_effect="it imitated the CS-1's 16-bit activations; model.mixed_precision computes in "
        "16 bits",
    )
    tf_summary: Switch = InertKey(
        False,
        "Write activations and gradients of layers to summaries.",
        no_effect="optimizer.log_grads and optimizer.log_hists show the gradients",
    )
    enable_gpu_optimizations: Switch = InertKey(
        False,
        "Gather masked tokens in a form that suits GPUs.",
        no_effect="it is about masked words; a classifier has none",
    )
    include_padding_in_loss: Switch = Key(
        False,
        "Include padding in a loss over tokens.",
        no_effect="a loss over tokens counts those that have a label, and no padding",
    )
    use_vsl: Switch = PaddingKey(False, "Allow rows of different length on a CS system.")
    input_pad_id: PadId | None = PaddingKey(None, "Id of padding in input_ids, with VSL.")
    segment_pad_id: PadId | None = PaddingKey(None, "Id of padding in segment_ids, with VSL.")
    mlm_pad_id: PadId | None = PaddingKey(None, "Id of padding in the labels, with VSL.")
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
                    f"names {as_yaml(name)}; available: embeddings, encoder, pooler, and layers:N "
                    "for the first N encoder layers, as layers:4"
                    + (last if name == "classifier" else "")
                )
        return names

    @property
    def family(self):
        """The Family of the network."""
        return FAMILIES[self.backbone or BERT]

    @property
    def num_positions(self):
        """The tokens of the longest text that the position table has rows for."""
        return self.max_position_embeddings - self.family.first_position

    @property
    def head_size(self):
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def dtype_policy(self):
        """Name of the Keras dtype policy: float32, mixed_bfloat16 or mixed_float16."""
        return DTYPE_POLICIES.get(self.mixed_precision, self.mixed_precision)

    @property
    def mlm_activation(self):
        """Name of the activation in the head of masked words, of complete params."""
        return self._own_gelu(self.mlm_nonlinearity or "gelu")

    @property
    def nsp_activation(self):
        """Name of the activation of the pooler before the next-sentence head, likewise."""
        return self._own_gelu(self.nsp_nonlinearity or "tanh")

    def _own_gelu(self, name):
        gelu = "gelu_erf" if self.encoder_nonlinearity == "gelu_erf" else "gelu_tanh"
        return gelu if name == "gelu" else name

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


class ModelParams(WordHeadKeys, PretrainingHeadKeys, NetworkKeys):
    """The network: BERT's embeddings and encoder, and the layers of a head.

    "Not given: the checkpoint's" needs `--checkpoint_path`. A value that contradicts the shapes of
    the checkpoint's weights is refused.
    """


# The keys that `Params.complete` takes from a checkpoint, and those that decide shapes of weights.
FROM_CHECKPOINT = keys_of(ModelParams, from_checkpoint=True)
SHAPES = keys_of(ModelParams, from_checkpoint=True, fixed_by_checkpoint=True)

# The keys that change the computation but not the weights' shapes; our checkpoints record them.
COMPUTED_KEYS = keys_of(ModelParams, from_checkpoint=False, fixed_by_checkpoint=True)
