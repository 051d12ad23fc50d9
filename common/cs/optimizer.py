# SPDX-License-Identifier: Apache-2.0
"""One update on the twin: the vendor's AdamW with our numbers, clipping and learning rate.

`cerebras.pytorch.optim.AdamW` without bias correction is the original's AdamW, which is also
common/optimizers/adam.py: epsilon outside the root, decay decoupled and times the rate. Adam of
TensorFlow 1 is the same with the correction.
"""

import math
import re

import cerebras.pytorch as cstorch
import torch
from cerebras.pytorch.optim.lr_scheduler import LRScheduler

from common.optimizers.layer_rates import layer_rate_factor

SLOTS = {"m": "exp_avg", "v": "exp_avg_sq"}  # ours -> the vendor's


def make_optimizer(twin, cfg, num_layers):
    """Returns the optimizer of the twin's weights that are trained.

    Args:
        twin: BertClassifier, compiled.
        cfg: OptimizerParams.
        num_layers: int, of the encoder.
    """
    patterns = [re.compile(pattern) for pattern in cfg.exclude_from_weight_decay]
    groups = {}  # (decay, factor on the rate) -> parameters
    for name, weight in trained_weights(twin).items():
        is_decayed = not any(pattern.search(name) for pattern in patterns)
        factor = layer_rate_factor(name, cfg.layer_wise_lr_decay, num_layers)
        key = (cfg.weight_decay_rate if is_decayed else 0.0, factor)
        groups.setdefault(key, []).append(weight.parameter)
    return cstorch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": decay, "rate_factor": factor}
            for (decay, factor), parameters in groups.items()
        ],
        lr=0.0,  # the schedule's from the first step on
        betas=(cfg.beta1, cfg.beta2),
        eps=cfg.epsilon,
        correct_bias=cfg.use_bias_correction or cfg.optimizer_type == "adam",
    )


def trained_weights(twin):
    """Returns {neutral name: Weight} of those that are not frozen."""
    weights = twin.weights_by_name()
    return {name: weight for name, weight in weights.items() if weight.parameter.requires_grad}


def make_grad_scaler(cfg):
    """Returns the vendor's loss scaling, with the bounds that the params give."""
    if not isinstance(cfg.loss_scaling_factor, str):
        return cstorch.amp.GradScaler(loss_scale=cfg.loss_scaling_factor)
    return cstorch.amp.GradScaler(
        loss_scale="dynamic",
        init_scale=cfg.initial_loss_scale,
        steps_per_increase=cfg.steps_per_increase,
        min_loss_scale=cfg.loss_scale_setting("min_loss_scale"),
        max_loss_scale=cfg.loss_scale_setting("max_loss_scale"),
        overflow_tolerance=cfg.loss_scale_setting("overflow_tolerance"),
    )


def update(loss, optimizer, scaler, cfg):
    """Gradients of the loss, clipped, into one update.

    Args:
        loss: <float32>[].
        optimizer: of `make_optimizer`.
        scaler: of `make_grad_scaler`; None on the CPU, which computes in float32.
        cfg: OptimizerParams.
    """
    norm, value = cfg.max_gradient_norm, cfg.max_gradient_value
    if scaler is not None:
        cstorch.amp.optimizer_step(
            loss, optimizer, scaler, max_gradient_norm=norm, max_gradient_value=value
        )
        return
    loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if norm is not None:
        torch.nn.utils.clip_grad_norm_(parameters, norm)
    elif value is not None:
        torch.nn.utils.clip_grad_value_(parameters, value)
    optimizer.step()
    optimizer.zero_grad()


class LearningRate(LRScheduler):
    """`optimizer.learning_rate` of the params; formulas of common/optimizers/schedules.py.

    Args:
        optimizer: of `make_optimizer`.
        cfg: OptimizerParams.
        first_step: int. Updates that were made before.
    """

    def __init__(self, optimizer, cfg, first_step=0):
        self.rate = make_schedule(cfg.learning_rate, cfg.disable_lr_steps_reset)
        super().__init__(optimizer, total_iters=None, last_epoch=first_step - 1)

    def _get_closed_form(self):
        return self.rate(self.last_epoch.float())

    def get(self):
        groups = self.optimizer.param_groups
        rate = self._get_closed_form()
        return [rate * group["rate_factor"] for group in groups]


def _constant(cfg, step):
    return torch.full_like(step, cfg.learning_rate)


def _piecewise_constant(cfg, step):
    rate = torch.full_like(step, cfg.values[0])
    for boundary, value in zip(cfg.boundaries, cfg.values[1:], strict=True):
        rate = torch.where(step > boundary, value, rate)
    return rate


def _exponential(cfg, step):
    periods = step / cfg.decay_steps
    periods = torch.floor(periods) if cfg.staircase else periods
    return cfg.initial_learning_rate * torch.exp(periods * math.log(cfg.decay_rate))


def _inverse_exponential_time(cfg, step):
    periods = torch.clamp(step, min=0.0).pow(cfg.step_exponent) / cfg.decay_steps
    periods = torch.floor(periods) if cfg.staircase else periods
    return cfg.initial_learning_rate / (1.0 + cfg.decay_rate * periods)


def _cosine(cfg, step):
    share_done = torch.clamp(step / cfg.decay_steps, 0.0, 1.0)
    wave = 0.5 * (1.0 + torch.cos(math.pi * share_done))
    return cfg.initial_learning_rate * ((1.0 - cfg.alpha) * wave + cfg.alpha)


def _polynomial(cfg, step):
    steps = torch.full_like(step, float(cfg.steps))
    if cfg.cycle:
        steps = steps * torch.clamp(torch.ceil(step / steps), min=1.0)
    share_left = 1.0 - torch.clamp(torch.minimum(step, steps), min=0.0) / steps
    power = getattr(cfg, "power", 1.0)
    share_left = share_left if power == 1.0 else share_left.pow(power)
    span = cfg.initial_learning_rate - cfg.end_learning_rate
    return span * share_left + cfg.end_learning_rate


SCHEDULES = {
    "Constant": _constant,
    "PiecewiseConstant": _piecewise_constant,
    "Exponential": _exponential,
    "InverseExponentialTimeDecay": _inverse_exponential_time,
    "Linear": _polynomial,
    "Polynomial": _polynomial,
    "Cosine": _cosine,
}


def make_schedule(learning_rate, disable_lr_steps_reset=False):
    """Returns a function from the global step, <float32>[], to the learning rate, <float32>[].

    Arguments as of `common.optimizers.schedules.make_schedule`.
    """
    if isinstance(learning_rate, float | int):
        return lambda step: torch.full_like(step, learning_rate)
    stages = learning_rate if isinstance(learning_rate, tuple | list) else (learning_rate,)
    starts = [sum(stage.length for stage in stages[:n]) for n in range(len(stages))]

    def rate(step):
        values = [
            SCHEDULES[stage.scheduler](stage, step if disable_lr_steps_reset else step - start)
            for stage, start in zip(stages, starts, strict=True)
        ]
        value = values.pop()
        for earlier, end in zip(reversed(values), reversed(starts), strict=False):
            value = torch.where(step < end, earlier, value)
        return value

    return rate
