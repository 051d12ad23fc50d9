# SPDX-License-Identifier: Apache-2.0
"""One update of the twin: the vendor's AdamW with the clipping and learning rate of the params.

`cerebras.pytorch.optim.AdamW` without bias correction equals the original's AdamW and that of
common/optimizers/adam.py: epsilon outside the root, decoupled decay times the rate. With the
correction it equals Adam of TensorFlow 1.
"""

import math

import cerebras.pytorch as cstorch
import torch
from cerebras.pytorch.optim.lr_scheduler import LRScheduler

from common.optimizers.schedules import is_decayed, layer_rate_factor, make_schedule


def make_optimizer(twin, cfg, num_layers):
    """Returns the optimizer of what OptimizerParams `cfg` train of a compiled BertClassifier with
    `num_layers` encoder layers."""
    groups = {}  # (decay, factor on the rate) -> parameters
    for name, weight in trained_weights(twin).items():
        factor = layer_rate_factor(name, cfg.layer_wise_lr_decay, num_layers)
        key = (cfg.weight_decay_rate if is_decayed(name, cfg) else 0.0, factor)
        groups.setdefault(key, []).append(weight.parameter)
    return cstorch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": decay, "rate_factor": factor}
            for (decay, factor), parameters in groups.items()
        ],
        lr=0.0,  # the schedule sets it from the first step on
        betas=(cfg.beta1, cfg.beta2),
        eps=cfg.epsilon,
        correct_bias=cfg.use_bias_correction or cfg.optimizer_type == "adam",
    )


def trained_weights(twin):
    """Returns {neutral name: Weight} of the trainable weights."""
    weights = twin.weights_by_name()
    return {name: weight for name, weight in weights.items() if weight.parameter.requires_grad}


def make_grad_scaler(cfg):
    """Returns the vendor's loss scaling, with the bounds of the params."""
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
    """Updates the weights with the clipped gradients of the loss, <float32>[].

    scaler: from `make_grad_scaler`; None on the CPU, in float32.
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


class TorchOps:
    """NumPy's functions on torch tensors, for common/optimizers/schedules.py.

    torch.maximum accepts only tensors. A number to the power of a tensor is written as an
    exponential function, which a CS system supports.
    """

    full_like = staticmethod(torch.full_like)
    where = staticmethod(torch.where)
    minimum = staticmethod(torch.minimum)
    floor = staticmethod(torch.floor)
    ceil = staticmethod(torch.ceil)
    cos = staticmethod(torch.cos)
    clip = staticmethod(torch.clamp)
    maximum = staticmethod(lambda x, smallest: torch.clamp(x, min=smallest))

    @staticmethod
    def power(base, exponent):
        if isinstance(base, float | int):
            return torch.exp(exponent * math.log(base))
        return base if exponent == 1.0 else base.pow(exponent)


class LearningRate(LRScheduler):
    """`optimizer.learning_rate` of the params; see common/optimizers/schedules.py.

    first_step: int, the number of earlier updates.
    """

    def __init__(self, optimizer, cfg, first_step=0):
        self.rate = make_schedule(cfg, TorchOps)
        super().__init__(optimizer, total_iters=None, last_epoch=first_step - 1)

    def _get_closed_form(self):
        return self.rate(self.last_epoch.float())

    def get(self):
        rate = self._get_closed_form()
        return [rate * group["rate_factor"] for group in self.optimizer.param_groups]
