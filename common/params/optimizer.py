# SPDX-License-Identifier: Apache-2.0
"""`optimizer`: one update of the weights, and the schedules of its learning rate."""

import functools
import operator
import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator

from common.params.accumulation import Accumulation
from common.params.values import (
    BetweenZeroAndOne,
    Count,
    InertKey,
    Key,
    NonNegative,
    Positive,
    Probability,
    Scale,
    Section,
    Share,
    Switch,
    Whole,
    as_yaml,
    refusal,
    subclasses,
    to_float,
    to_lower,
)


class Schedule(Section):
    """A learning rate as a function of the step. Formulas: common/optimizers/schedules.py."""

    steps: Count | None = Key(None, "Number of steps, if another schedule follows in a list.")

    @property
    def length(self):
        """Steps until the next schedule of a list begins; None if not given."""
        return self.steps

    @property
    def end(self):
        """The step from which the rate stays as it is; 0 where it always does, or never."""
        return 0


class ConstantSchedule(Schedule):
    """The same rate at every step."""

    scheduler: Literal["Constant"]
    learning_rate: NonNegative = Key(..., "The rate.")


class PiecewiseConstantSchedule(Schedule):
    """Several rates, each for a number of steps."""

    scheduler: Literal["PiecewiseConstant"]
    boundaries: tuple[Count, ...] = Key(
        ..., "The last step of each rate but the last, increasing.", min_length=1
    )
    values: tuple[NonNegative, ...] = Key(..., "The rates, one more than boundaries.")

    @property
    def end(self):
        return self.boundaries[-1] + 1


class ExponentialSchedule(Schedule):
    """A rate that falls by a factor of decay_rate in decay_steps steps."""

    scheduler: Literal["Exponential"]
    initial_learning_rate: NonNegative = Key(..., "The rate at the first step.")
    decay_steps: Count = Key(..., "Steps in which the rate falls by decay_rate.")
    decay_rate: Positive = Key(..., "The factor.")
    staircase: Switch = Key(False, "Fall once every decay_steps steps instead of at each step.")


class InverseExponentialTimeDecaySchedule(Schedule):
    """The first rate divided by 1 + decay_rate * step ** step_exponent / decay_steps."""

    scheduler: Literal["InverseExponentialTimeDecay"]
    initial_learning_rate: NonNegative = Key(..., "The rate at the first step.")
    step_exponent: Positive = Key(..., "The power of the step.")
    decay_steps: Count = Key(..., "Divisor of that power.")
    decay_rate: NonNegative = Key(..., "Factor on the quotient.")
    staircase: Switch = Key(False, "Round the quotient down.")


class LinearSchedule(Schedule):
    """A straight line from one rate to another, which then stays."""

    scheduler: Literal["Linear"]
    initial_learning_rate: NonNegative = Key(..., "The rate at the first step.")
    end_learning_rate: NonNegative = Key(..., "The rate after `steps` steps.")
    steps: Count = Key(..., "Steps from the first rate to the last.")
    cycle: Switch = Key(False, "At the end, start again with more steps.")

    @property
    def end(self):
        return 0 if self.cycle else self.steps


class PolynomialSchedule(LinearSchedule):
    """A power of the remaining steps, from one rate to another, which then stays."""

    scheduler: Literal["Polynomial"]
    power: Positive = Key(1.0, "The power; 1 is a straight line.")


class CosineSchedule(Schedule):
    """Half a period of the cosine, down to a fraction of the first rate, which then stays."""

    scheduler: Literal["Cosine"]
    initial_learning_rate: NonNegative = Key(..., "The rate at the first step.")
    decay_steps: Count = Key(
        ..., "Steps from the first rate to the last; in a list its length, unless `steps` is given."
    )
    alpha: Share = Key(0.0, "The last rate as a fraction of the first.")

    @property
    def length(self):
        return self.decay_steps if self.steps is None else self.steps

    @property
    def end(self):
        return self.decay_steps


# Another schedule is another class above, with a `scheduler` name of its own.
AnySchedule = Annotated[
    functools.reduce(operator.or_, subclasses(Schedule)), Field(discriminator="scheduler")
]


def learning_rate_form(value):
    """The form of a learning rate."""
    if isinstance(value, list | tuple):
        return "list"
    return "schedule" if isinstance(value, dict | Section) else "number"


LearningRate = Annotated[
    Annotated[NonNegative, Tag("number")]
    | Annotated[AnySchedule, Tag("schedule")]
    | Annotated[tuple[AnySchedule, ...], Tag("list")],
    Discriminator(learning_rate_form),
]


# Defaults of the keys of a dynamic loss scale, by loss_scaling_factor: those of the original, and
# those of tf.mixed_precision (at least 1, only float32's upper bound, halved at every overflow).
LOSS_SCALES = {
    "dynamic": {"min_loss_scale": 2.0**-14, "max_loss_scale": 2.0**15, "overflow_tolerance": 0.05},
    "tf_dynamic": {"min_loss_scale": 1.0, "max_loss_scale": 2.0**127, "overflow_tolerance": 0.0},
}

# The default of TF1's RMSProp, which adds it under the square root.
RMSPROP_EPSILON = 1e-10
LAMB_EPSILON = 1e-6  # of the paper (You et al. 2020) and of google-research/albert


def default_epsilon(optimizer_type, mixed_precision):
    """`epsilon` where it is not given; None while `mixed_precision: auto` is not resolved."""
    if to_lower(optimizer_type) == "rmsprop":
        return RMSPROP_EPSILON
    if to_lower(optimizer_type) == "lamb":
        return LAMB_EPSILON
    if mixed_precision == "auto":
        return None
    is_mixed = mixed_precision is True or mixed_precision in ("mixed_float16", "mixed_bfloat16")
    return 1e-5 if is_mixed else 1e-8


IF_DYNAMIC = {"loss_scaling_factor": ("dynamic", "tf_dynamic")}


ADAMS = ("adam", "adamw", "lamb")


def of_rules(*names):
    """`only_with` of a number that these update rules alone read."""
    return {"optimizer_type": names}


def to_stage(value):
    """Refuses what is no pair, in words of its own."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise refusal(
            f"{as_yaml(value)} is no pair of a step and a number of batches; write [5000, 2], say"
        )
    return tuple(value)


Stage = Annotated[tuple[Whole, Count], BeforeValidator(to_stage)]


class OptimizerParams(Section):
    """The update of the weights; the default is AdamW as in google-research/bert."""

    optimizer_type: Annotated[
        Literal["adam", "adamw", "lamb", "momentum", "rmsprop", "sgd"], BeforeValidator(to_lower)
    ] = Key("adamw", "The update rule.")

    # Learning rate
    learning_rate: LearningRate = Key(
        5e-5,
        "A number; a schedule, which is a mapping with `scheduler`; or a list of schedules that "
        "follow one another, where all but the last need `steps`.",
        compiled=False,
        flag=True,
    )
    warmup_ratio: Share | None = Key(
        None,
        "With a number as learning_rate: the share of all steps in which the rate rises from 0 to "
        "it. Not given: none.",
        compiled=False,
    )
    decay: Literal["linear", "cosine", "constant"] | None = Key(
        None,
        "With a number as learning_rate: how the rate falls from it, after the warm-up, to "
        "decay_end at the end of training. Training begins by turning these keys into a list of "
        "schedules, which the saved params.yaml has in their place. Not given: constant.",
        compiled=False,
    )
    decay_end: Share = Key(
        0.0,
        "With decay linear or cosine: the rate at the end of training, as a share of "
        "learning_rate; 0.02 is a fall to a fiftieth.",
        compiled=False,
    )
    disable_lr_steps_reset: Switch = Key(
        False,
        "In a list, every schedule counts from step 0 instead of from its start.",
        compiled=False,
    )
    layer_wise_lr_decay: Annotated[float, Field(gt=0, le=1), BeforeValidator(to_float)] = Key(
        1.0,
        "Factor on the rate, and so on the weight decay, from each layer to the one below it; "
        "classifier and pooler have the full rate.",
    )

    # The rule's numbers
    momentum: Probability = Key(
        0.9, "momentum: decay of the sum of gradients.", only_with=of_rules("momentum")
    )
    beta1: Probability = Key(
        0.9, "adam, adamw, lamb: decay of the mean of gradients.", only_with=of_rules(*ADAMS)
    )
    beta2: Probability = Key(
        0.999,
        "adam, adamw, lamb: decay of the mean of squared gradients.",
        only_with=of_rules(*ADAMS),
    )
    epsilon: Positive | None = Key(
        None,
        "adam, adamw, lamb: added to the square root of that mean; rmsprop: added to the mean. Not "
        "given: 1e-5 in mixed precision, 1e-8 in float32; lamb 1e-6; rmsprop 1e-10.",
        only_with=of_rules(*ADAMS, "rmsprop"),
    )
    use_bias_correction: Switch = Key(
        False,
        "adamw, lamb: correct both means for their start at 0; adam always does.",
        only_with=of_rules("adamw", "lamb"),
    )
    rmsprop_decay: Probability = Key(
        0.9, "rmsprop: decay of the mean of squared gradients.", only_with=of_rules("rmsprop")
    )
    rmsprop_momentum: Probability = Key(
        0.0, "rmsprop: decay of the sum of updates.", only_with=of_rules("rmsprop")
    )

    # Decay, clipping, rows, accumulation, average
    weight_decay_rate: NonNegative = Key(
        0.0, "The weight times this is added to the update, before the learning rate."
    )
    exclude_from_weight_decay: tuple[str, ...] = Key(
        ("LayerNorm", "layer_norm", "bias", "Bias"),
        "Regular expressions; weights whose names contain a match do not decay.",
    )
    max_gradient_norm: NonNegative | None = Key(
        None,
        "Largest norm of all gradients together; larger ones are scaled down. 0 or null: no limit.",
    )
    max_gradient_value: NonNegative | None = Key(
        None, "Largest absolute value of an element of the gradients. 0 or null: no limit."
    )
    lazy_word_embeddings: Switch = Key(
        False,
        "Update only those rows of the word embeddings whose gradient is not 0, which are the "
        "words of the batch, as LazyAdam does. Other rows and their slots wait, without decay. "
        "Faster, the more so the larger the vocabulary, but not the same training.",
    )
    grad_accum_steps: Count = Key(
        1,
        "Number of batches whose mean gradient makes one update: batch_size times as many rows "
        "per update, in the memory of one batch. Steps count updates.",
    )
    grad_accum_schedule: tuple[Stage, ...] | None = Key(
        None,
        "In place of grad_accum_steps, batches that grow: pairs of a step and the number of "
        "batches of an update from that step on. [[0, 1], [5000, 2], [20000, 4]] doubles the rows "
        "of an update at step 5,000 and again at step 20,000.",
    )
    moving_average_decay: BetweenZeroAndOne | None = Key(
        None,
        "Keep an exponential moving average of the weights for evaluation, checkpoints and "
        "exports; 0.999 averages about 1000 steps. Not given: none.",
    )

    # Loss scale
    loss_scaling_factor: Scale | Literal["dynamic", "tf_dynamic"] = Key(
        1.0,
        "Factor on the loss, removed from the gradients again, against underflow in float16. "
        "dynamic: halved and doubled as the gradients allow; tf_dynamic: the same with "
        "TensorFlow's bounds, halved at every overflow.",
    )
    initial_loss_scale: Scale = Key(
        2.0**15, "First value of the dynamic factor.", only_with=IF_DYNAMIC
    )
    min_loss_scale: Scale | None = Key(
        None,
        "Smallest value of the dynamic factor. Not given: 2^-14; tf_dynamic 1.",
        only_with=IF_DYNAMIC,
    )
    max_loss_scale: Scale | None = Key(
        None,
        "Largest value of the dynamic factor. Not given: 2^15; tf_dynamic 2^127.",
        only_with=IF_DYNAMIC,
    )
    steps_per_increase: Count = Key(
        2000,
        "Steps without a change after which the dynamic factor doubles.",
        only_with=IF_DYNAMIC,
    )
    overflow_tolerance: Probability | None = Key(
        None,
        "Fraction of steps with overflow above which the dynamic factor halves. Not given: 0.05; "
        "tf_dynamic 0.",
        only_with=IF_DYNAMIC,
    )

    # Figures
    log_summaries: Switch = InertKey(
        True, "Report the rate, the norm of the gradients before clipping, and the loss scale."
    )
    log_grads: Switch = InertKey(
        False,
        "Report sparsity, fraction of denormal numbers and norm of the gradient of every kernel "
        "and bias, at steps with a summary.",
    )
    log_hists: Switch = InertKey(
        False,
        "Write a histogram of log2 of these gradients to TensorBoard, at steps with a summary.",
    )
    ws_summary: Switch = InertKey(
        False,
        "Report the number of zeros in the gradients and the norm of all trained weights, at "
        "steps with a summary.",
    )

    @property
    def needs_end(self):
        """Whether the rate depends on the step at which training ends."""
        return bool(self.warmup_ratio) or self.decay in ("linear", "cosine")

    @property
    def accumulation(self):
        """How many batches make each update: Accumulation."""
        return Accumulation(self.grad_accum_schedule or ((0, self.grad_accum_steps),))

    def loss_scale_setting(self, name):
        """The value of a key of the dynamic loss scale, or its default in LOSS_SCALES."""
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
                    f"{as_yaml(pattern)} is no regular expression: {error}; names need none of its "
                    "signs, such as `layer_norm`"
                ) from None
        return patterns

    @field_validator("max_gradient_norm", "max_gradient_value")
    @classmethod
    def zero_is_never(cls, value):
        return value or None


# What a file without the section gets. Rule, rate and warm-up are those of google-research/bert
# (optimization.py, run_classifier.py); every key of a section that is there has its own default,
# which is the original's.
WITHOUT_SECTION = {
    "optimizer_type": "adamw",
    "learning_rate": 5e-5,
    "warmup_ratio": 0.1,
    "decay": "linear",
    "epsilon": 1e-6,
    "weight_decay_rate": 0.01,
    "max_gradient_norm": 1.0,
}
