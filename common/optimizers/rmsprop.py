# SPDX-License-Identifier: Apache-2.0
"""RMSProp as TF1 computes it."""

from typing import ClassVar

import tensorflow as tf

from common.optimizers.base import Optimizer


class RMSProp(Optimizer):
    """Tieleman & Hinton 2012 (lecture 6.5) as tf.compat.v1.train.RMSPropOptimizer, not centered.

    mean_square  = rmsprop_decay * mean_square + (1 - rmsprop_decay) * g^2       starts at 1
    velocity     = rmsprop_momentum * velocity + r * g / sqrt(mean_square + epsilon)
    update       = velocity

    Epsilon is under the root, and the rate inside the velocity.
    """

    name = "rmsprop"
    first_values: ClassVar = {"mean_square": 1.0, "velocity": 0.0}

    @staticmethod
    def rule(gradient, slots, numbers):
        new_square = numbers["one_minus_decay"] * gradient * gradient
        mean_square = numbers["rms_decay"] * slots["mean_square"] + new_square
        step = numbers["rate"] * gradient / tf.sqrt(mean_square + numbers["epsilon"])
        velocity = numbers["momentum"] * slots["velocity"] + step
        return velocity, {"mean_square": mean_square, "velocity": velocity}

    def rule_numbers(self):
        cfg = self.cfg
        return {
            "rms_decay": cfg.rmsprop_decay,
            "one_minus_decay": 1.0 - cfg.rmsprop_decay,
            "momentum": cfg.rmsprop_momentum,
            "epsilon": cfg.epsilon,
        }
