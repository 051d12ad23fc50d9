# SPDX-License-Identifier: Apache-2.0
"""Learning rates that both sides compute: name -> (learning_rate, disable_lr_steps_reset)."""

STEPS = range(0, 45)
LINEAR = {
    "scheduler": "Linear",
    "initial_learning_rate": 0.0,
    "end_learning_rate": 5e-5,
    "steps": 10,
}
FALLING = LINEAR | {"initial_learning_rate": 5e-5, "end_learning_rate": 1e-6, "steps": 23}
SCHEDULES = {
    "number": (3e-5, False),
    "constant": ({"scheduler": "Constant", "learning_rate": 2e-5}, False),
    "linear": (LINEAR, False),
    "cycle": (FALLING | {"scheduler": "Polynomial", "power": 2.0, "cycle": True}, False),
    "piecewise": (
        {"scheduler": "PiecewiseConstant", "boundaries": [5, 17], "values": [3e-5, 2e-5, 1e-5]},
        False,
    ),
    "exponential": (
        {
            "scheduler": "Exponential",
            "initial_learning_rate": 1e-4,
            "decay_steps": 7,
            "decay_rate": 0.5,
            "staircase": True,
        },
        False,
    ),
    "inverse": (
        {
            "scheduler": "InverseExponentialTimeDecay",
            "initial_learning_rate": 1e-4,
            "step_exponent": 1.5,
            "decay_steps": 9,
            "decay_rate": 0.7,
        },
        False,
    ),
    "cosine": (
        {"scheduler": "Cosine", "initial_learning_rate": 1e-4, "decay_steps": 30, "alpha": 0.1},
        False,
    ),
    "list": (
        [LINEAR, FALLING | {"steps": 20}, {"scheduler": "Constant", "learning_rate": 1e-6}],
        False,
    ),
    "overlapping": ([LINEAR, FALLING], True),
}
