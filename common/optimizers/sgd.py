# SPDX-License-Identifier: Apache-2.0
"""Gradient descent, plain and with momentum, as TF1 computes them."""

from typing import ClassVar

from common.optimizers.base import Optimizer


class SGD(Optimizer):
    """update = r * g; tf.compat.v1.train.GradientDescentOptimizer."""

    name = "sgd"

    @staticmethod
    def rule(gradient, slots, numbers):
        del slots  # none
        return numbers["rate"] * gradient, {}


class Momentum(Optimizer):
    """Polyak's heavy ball as in tf.compat.v1.train.MomentumOptimizer, without Nesterov's step.

    velocity  = momentum * velocity + g
    update    = r * velocity

    The rate is outside the velocity, so a change of it takes effect immediately.
    """

    name = "momentum"
    first_values: ClassVar = {"velocity": 0.0}

    @staticmethod
    def rule(gradient, slots, numbers):
        velocity = numbers["momentum"] * slots["velocity"] + gradient
        return numbers["rate"] * velocity, {"velocity": velocity}

    def rule_numbers(self):
        return {"momentum": self.cfg.momentum}
