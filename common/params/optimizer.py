# SPDX-License-Identifier: Apache-2.0
"""`optimizer`: one update of the weights, and the schedules of its learning rate."""

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator

from common.params.values import (
    BetweenZeroAndOne,
    Count,
    Key,
    NonNegative,
    Positive,
    Probability,
    Scale,
    Section,
    Switch,
    found,
    refusal,
    to_float,
    to_lower,
)


class Schedule(Section):
    """A learning rate as a function of the step. Formulas: common/optimizers/schedules.py."""

    steps: Count | None = Key(None, "How long, where another schedule follows in a list.")

    @property
    def length(self):
        """Steps until the next schedule of a list begins; None where the file does not say."""
        return self.steps


class ConstantSchedule(Schedule):
    """One rate throughout."""

    scheduler: Literal["Constant"]
    learning_rate: NonNegative = Key(..., "The rate.")


class PiecewiseConstantSchedule(Schedule):
    """One rate after the other, each held for a while."""

    scheduler: Literal["PiecewiseConstant"]
    boundaries: tuple[Count, ...] = Key(
        ..., "The last step of each rate but the last, increasing.", min_length=1
    )
    values: tuple[NonNegative, ...] = Key(..., "The rates, one more than boundaries.")


class ExponentialSchedule(Schedule):
    """A rate that falls by the same factor every decay_steps steps."""

    scheduler: Literal["Exponential"]
    initial_learning_rate: NonNegative = Key(..., "The rate at the first step.")
    decay_steps: Count = Key(..., "Steps in which the rate falls by decay_rate.")
    decay_rate: Positive = Key(..., "The factor.")
    staircase: Switch = Key(False, "Fall once every decay_steps steps, not a little each step.")


class InverseExponentialTimeDecaySchedule(Schedule):
    """The first rate divided by a number that grows with a power of the step."""

    scheduler: Literal["InverseExponentialTimeDecay"]
    initial_learning_rate: NonNegative = Key(..., "The rate at the first step.")
    step_exponent: Positive = Key(..., "The power of the step.")
    decay_steps: Count = Key(..., "What that power is divided by.")
    decay_rate: NonNegative = Key(..., "Times the quotient, plus 1, is the divisor.")
    staircase: Switch = Key(False, "Round the quotient down.")


class LinearSchedule(Schedule):
    """A straight line from one rate to another, which is held from then on."""

    scheduler: Literal["Linear"]
    initial_learning_rate: NonNegative = Key(..., "The rate at the first step.")
    end_learning_rate: NonNegative = Key(..., "The rate after `steps` steps.")
    steps: Count = Key(..., "How long the way from one to the other takes.")
    cycle: Switch = Key(False, "Once at the end, begin again with a longer way.")


class PolynomialSchedule(LinearSchedule):
    """A power of the steps left, from one rate to another, which is held from then on."""

    scheduler: Literal["Polynomial"]
    power: Positive = Key(1.0, "1 is a straight line, 2 bends towards the end.")


class CosineSchedule(Schedule):
    """Half a wave of the cosine, down to a share of the first rate, held from then on."""

    scheduler: Literal["Cosine"]
    initial_learning_rate: NonNegative = Key(..., "The rate at the first step.")
    decay_steps: Count = Key(
        ..., "How long the way down takes; its length in a list too, but for `steps`."
    )
    alpha: Annotated[float, Field(ge=0, le=1), BeforeValidator(to_float)] = Key(
        0.0, "The last rate, as a share of the first."
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
    ] = Key("adamw", "The rule of the update.")

    # Learning rate
    learning_rate: LearningRate = Key(
        5e-5,
        "A number; or a schedule, a mapping with `scheduler`; or a list of schedules, "
        "one after the other, where all but the last need `steps`.",
        compiled=False,
    )
    disable_lr_steps_reset: Switch = Key(
        False,
        "In a list, let every schedule count from step 0 rather than from its start.",
        compiled=False,
    )
    layer_wise_lr_decay: Annotated[float, Field(gt=0, le=1), BeforeValidator(to_float)] = Key(
        1.0,
        "Factor on the rate, and so on the decay, from each layer to the one below "
        "it; the classifier and the pooler have the rate itself.",
    )

    # The rule's numbers
    momentum: Probability = Key(0.9, "momentum: decay of the sum of the gradients.")
    beta1: Probability = Key(0.9, "adam, adamw: decay of the mean of the gradients.")
    beta2: Probability = Key(0.999, "adam, adamw: decay of the mean of their squares.")
    epsilon: Positive | None = Key(
        None,
        "adam, adamw: added to the square root of that mean; rmsprop: to the mean "
        "itself. Not given: 1e-5 in mixed precision, 1e-8 in float32; rmsprop 1e-10.",
    )
    use_bias_correction: Switch = Key(
        False, "adamw: correct both means for having begun at 0; adam always does."
    )
    rmsprop_decay: Probability = Key(0.9, "rmsprop: decay of the mean of squares.")
    rmsprop_momentum: Probability = Key(0.0, "rmsprop: decay of the sum of updates.")

    # Decay, clipping, rows, accumulation, average
    weight_decay_rate: NonNegative = Key(
        0.0, "Times the weight, added to the update before the learning rate."
    )
    exclude_from_weight_decay: tuple[str, ...] = Key(
        ("LayerNorm", "layer_norm", "bias", "Bias"),
        "Regular expressions, searched in a weight's name; those found do not decay.",
    )
    max_gradient_norm: NonNegative | None = Key(
        None, "Scale all gradients down to this norm together. 0 or null: never."
    )
    max_gradient_value: NonNegative | None = Key(
        None, "Cut every element of the gradients to +- this. 0 or null: never."
    )
    lazy_word_embeddings: Switch = Key(
        False,
        "Of the word table, move only the rows whose gradient is not 0, those of the "
        "batch's words, as LazyAdam does: the others wait, without decay, and so do their slots. "
        "Faster, the more so the larger the vocabulary, but no longer the same training.",
    )
    grad_accum_steps: Count = Key(
        1,
        "Batches whose mean gradient makes one update: batch_size times as many rows "
        "an update, in the memory of one batch. Steps count updates.",
    )
    moving_average_decay: BetweenZeroAndOne | None = Key(
        None,
        "Keep an exponential moving average of the weights, which is what evaluation, "
        "checkpoints and exports have; 0.999 remembers about 1000 steps. Not given: none.",
    )

    # Loss scale
    loss_scaling_factor: Scale | Literal["dynamic", "tf_dynamic"] = Key(
        1.0,
        "Factor on the loss, taken off the gradients again, to keep float16 from "
        "underflow. dynamic: halved and doubled as the gradients allow; tf_dynamic: the same with "
        "TensorFlow's bounds, halved at every overflow.",
    )
    initial_loss_scale: Scale = Key(2.0**15, "The dynamic factor's first value.")
    min_loss_scale: Scale | None = Key(
        None, "The dynamic factor's least value. Not given: 2^-14; tf_dynamic 1."
    )
    max_loss_scale: Scale | None = Key(
        None, "The dynamic factor's largest value. Not given: 2^15; tf_dynamic 2^127."
    )
    steps_per_increase: Count = Key(
        2000, "Steps since its last change after which the dynamic factor doubles."
    )
    overflow_tolerance: Probability | None = Key(
        None,
        "Share of steps with overflow above which the dynamic factor halves. "
        "Not given: 0.05; tf_dynamic 0.",
    )

    # Figures
    log_summaries: Switch = Key(
        True,
        "Report the rate, the gradients' norm before clipping, and the loss scale.",
        changes="nothing",
    )
    log_grads: Switch = Key(
        False,
        "Report the sparsity, the share of denormal numbers and the norm of the "
        "gradient of every kernel and bias, at steps with a summary.",
        changes="nothing",
    )
    log_hists: Switch = Key(
        False,
        "Write a histogram of log2 of those gradients to TensorBoard, at steps with a summary.",
        changes="nothing",
    )
    ws_summary: Switch = Key(
        False,
        "Report how many elements of the gradients are 0, and the norm of all "
        "trained weights, at steps with a summary.",
        changes="nothing",
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
