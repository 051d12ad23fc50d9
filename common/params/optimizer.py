# SPDX-License-Identifier: Apache-2.0
"""`optimizer`: one update of the weights, and the schedules of its learning rate."""

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator

from common.params.values import (
    BetweenZeroAndOne,
    Count,
    NonNegative,
    Positive,
    Probability,
    Scale,
    Section,
    found,
    refusal,
    to_float,
    to_lower,
)


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

    # Decay, clipping, rows, accumulation, average
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
    lazy_word_embeddings: bool = Field(
        False,
        strict=True,
        description="Of the word table, move only the rows whose gradient is not 0, those of the "
        "batch's words, as LazyAdam does: the others wait, without decay, and so do their slots. "
        "Faster, the more so the larger the vocabulary, but no longer the same training.",
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
