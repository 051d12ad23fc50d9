# SPDX-License-Identifier: Apache-2.0
"""Learning-rate schedules: `optimizer.learning_rate` of the params as a function of the step; and
the layer-wise decay of the rate and which weights decay. Free of frameworks, for the CS twin.

The formulas are those of tf.compat.v1.train, which the original called; the step is the number of
updates before this one, from 0. They are written for any array library that has NumPy's functions
(`ops`): NumPy itself, keras.ops in training, `TorchOps` of common/cs/optimizer.py on a CS system.
"""

import math
import re
from fractions import Fraction

import numpy as np

from common.errors import UserError
from common.params import ConstantSchedule, CosineSchedule, LinearSchedule

_LAYER = re.compile(r"encoder/layer_(\d+)/")


def _constant(cfg, step, ops):
    return ops.full_like(step, cfg.learning_rate)


def _piecewise_constant(cfg, step, ops):
    """values[i] up to and with step boundaries[i], as in tf.train.piecewise_constant."""
    rate = ops.full_like(step, cfg.values[0])
    for boundary, value in zip(cfg.boundaries, cfg.values[1:], strict=True):
        rate = ops.where(step > boundary, value, rate)
    return rate


def _exponential(cfg, step, ops):
    """initial * decay_rate^(step / decay_steps), as in tf.train.exponential_decay."""
    periods = step / cfg.decay_steps
    periods = ops.floor(periods) if cfg.staircase else periods
    return cfg.initial_learning_rate * ops.power(cfg.decay_rate, periods)


def _inverse_exponential_time(cfg, step, ops):
    """initial / (1 + decay_rate * step^step_exponent / decay_steps), of the original's R0.9."""
    # Before its start in a list a schedule gets negative steps, which not every power accepts.
    periods = ops.power(ops.maximum(step, 0.0), cfg.step_exponent) / cfg.decay_steps
    periods = ops.floor(periods) if cfg.staircase else periods
    return cfg.initial_learning_rate / (1.0 + cfg.decay_rate * periods)


def _cosine(cfg, step, ops):
    """initial * ((1 - alpha) * (1 + cos(pi * step / decay_steps)) / 2 + alpha), then alpha's."""
    share_done = ops.clip(step / cfg.decay_steps, 0.0, 1.0)
    wave = 0.5 * (1.0 + ops.cos(math.pi * share_done))
    return cfg.initial_learning_rate * ((1.0 - cfg.alpha) * wave + cfg.alpha)


def _polynomial(cfg, step, ops):
    """(initial - end) * (1 - step / steps)^power + end, as in tf.train.polynomial_decay."""
    steps = ops.full_like(step, cfg.steps)
    if cfg.cycle:
        # The length is the next multiple of `steps`; at step 0 it is `steps`.
        steps = steps * ops.maximum(ops.ceil(step / steps), 1.0)
    share_left = 1.0 - ops.maximum(ops.minimum(step, steps), 0.0) / steps
    span = cfg.initial_learning_rate - cfg.end_learning_rate
    return span * ops.power(share_left, getattr(cfg, "power", 1.0)) + cfg.end_learning_rate


SCHEDULES = {
    "Constant": _constant,
    "PiecewiseConstant": _piecewise_constant,
    "Exponential": _exponential,
    "InverseExponentialTimeDecay": _inverse_exponential_time,
    "Linear": _polynomial,
    "Polynomial": _polynomial,
    "Cosine": _cosine,
}


def make_schedule(cfg, ops=np):
    """Returns a function from the global step to the learning rate, <float>[...] each.

    The rate has the dtype of the step: float64 with NumPy, float32 in training.

    Args:
        cfg: OptimizerParams. `learning_rate` is a number, a schedule, or a tuple of schedules. Each
            but the last of a tuple lasts for its `length`. Without `disable_lr_steps_reset` it gets
            the steps since its own start; with it, the global step, so that schedules overlap
            (Google's BERT decays during the warm-up).
        ops: module or class with full_like, where, minimum, maximum, clip, floor, ceil, cos and
            power, of the library that the step is of.
    """
    if cfg.needs_end:
        raise UserError(
            "optimizer.warmup_ratio and optimizer.decay need the step at which training ends, "
            "which open_session of session.py finds; or write learning_rate as schedules"
        )
    if isinstance(cfg.learning_rate, float | int):
        return lambda step: ops.full_like(step * 1.0, cfg.learning_rate)
    stages, starts = _stages_of(cfg)

    def rate(step):
        step = step * 1.0  # an integer of NumPy becomes float64; `full_like` would round the rate
        values = [
            SCHEDULES[stage.scheduler](
                stage, step if cfg.disable_lr_steps_reset else step - start, ops
            )
            for stage, start in zip(stages, starts, strict=True)
        ]
        # From the last stage to the first: each lasts until its successor starts.
        value = values.pop()
        for earlier, end in zip(reversed(values), reversed(starts), strict=False):
            value = ops.where(step < end, earlier, value)
        return value

    return rate


def with_end(cfg, num_steps):
    """The same OptimizerParams with the schedules that `warmup_ratio` and `decay` stand for.

    The warm-up takes the whole steps in its share, as in google-research/bert run_classifier.py;
    the decay reaches `decay_end` after the last step.

    num_steps: int, at which training ends; None where that is not known: the rate stays a number.
    """
    rate, schedules = cfg.learning_rate, []
    if cfg.needs_end and num_steps is not None:
        # The share is the decimal that was written: 0.29 of 100 steps is 29.
        warm_up = int(Fraction(str(cfg.warmup_ratio or 0)) * num_steps)
        left = num_steps - warm_up
        values = {"initial_learning_rate": rate}
        if warm_up:
            values_up = {"initial_learning_rate": 0.0, "end_learning_rate": rate}
            schedules.append(LinearSchedule(scheduler="Linear", steps=warm_up, **values_up))
        if left and cfg.decay == "linear":
            values["end_learning_rate"] = rate * cfg.decay_end
            schedules.append(LinearSchedule(scheduler="Linear", steps=left, **values))
        elif left and cfg.decay == "cosine":
            values["alpha"] = cfg.decay_end
            schedules.append(CosineSchedule(scheduler="Cosine", decay_steps=left, **values))
        elif left:
            schedules.append(ConstantSchedule(scheduler="Constant", learning_rate=rate))
    update = {"learning_rate": tuple(schedules) or rate}
    update |= {"warmup_ratio": None, "decay": None, "decay_end": 0.0}
    return cfg.model_copy(update=update)


def is_decayed(name, cfg):
    """Whether a weight of this neutral name decays under OptimizerParams `cfg`."""
    return not any(re.search(pattern, name) for pattern in cfg.exclude_from_weight_decay)


def _stages_of(cfg):
    """The schedules of OptimizerParams that have some, and the step at which each starts."""
    stages = cfg.learning_rate
    stages = stages if isinstance(stages, tuple | list) else (stages,)
    return stages, [sum(stage.length for stage in stages[:n]) for n in range(len(stages))]


def notes_on_schedule(cfg, last_step):
    """What a reader should know where schedule and training end at different steps: list of str.

    cfg: OptimizerParams; last_step: int, the step at which training ends.
    """
    if isinstance(cfg.learning_rate, float | int):
        return []
    stages, starts = _stages_of(cfg)
    begin = 0 if cfg.disable_lr_steps_reset else starts[-1]
    end = max(starts[-1], begin + stages[-1].end)  # from here on the rate is that of the last stage
    rate = make_schedule(cfg)
    steps = np.unique([*np.linspace(0, end, 1001).astype(int), *starts, max(last_step - 1, 0)])
    rates = rate(steps)
    peak, final, reached = rates.max(), rate(np.array(end)), rates[steps < last_step]
    if last_step > end and final < 0.01 * peak:
        text = f"the rate is {final:.3g} in {last_step - end:,} of {last_step:,} steps"
    elif 0 < last_step < end and reached.max() < 0.99 * peak:
        text = f"the rate is still rising, at {reached.max():.3g} of {peak:.3g}"
    elif 0 < last_step < end and abs(reached[-1] - final) > 0.05 * peak:
        text = f"the last rate is {reached[-1]:.3g}, not {final:.3g}"
    else:
        return []
    return [
        f"The schedule of optimizer.learning_rate ends at step {end:,} and training at step "
        f"{last_step:,}: {text}; let both end at the same step, unless this is meant"
    ]


def layer_rate_factor(name, decay, num_layers):
    """Returns the factor on the learning rate of a weight: decay^(layers between it and the top).

    The numbering is that of BEiT's fine-tuning (microsoft/unilm beit/optim_factory.py): classifier,
    pooler and everything after the encoder 0, encoder layer i of L: L - i, embeddings L + 1.
    google-research/electra has one more step below the head.

    name: str, neutral name of the weight. decay: float in (0, 1]. num_layers: int, L.
    """
    if match := _LAYER.match(name):
        return decay ** (num_layers - int(match[1]))
    return decay ** (num_layers + 1) if name.startswith("embeddings/") else 1.0
