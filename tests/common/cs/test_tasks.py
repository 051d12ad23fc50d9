# SPDX-License-Identifier: Apache-2.0
"""What the tasks of a CS system make of outputs, without PyTorch, which their losses alone need."""

import importlib
import sys
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture
def tasks(monkeypatch):
    """common.cs.tasks, imported with an empty module in the place of PyTorch."""
    torch = ModuleType("torch")
    torch.nn = ModuleType("torch.nn")
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch.nn", torch.nn)
    monkeypatch.delitem(sys.modules, "common.cs.tasks", raising=False)
    yield importlib.import_module("common.cs.tasks")
    sys.modules.pop("common.cs.tasks", None)


def test_the_temperature_of_a_checkpoint_is_that_of_its_predictions(tasks):
    task = tasks.TASKS["classification"](None, ("no", "yes"))
    outputs = {"logits": np.array([[0.0, 2.0]], np.float32)}
    for config, temperature in (({}, 1.0), ({"temperature": 4.0}, 4.0)):
        (record,) = task.predictions(outputs, config)
        # softmax of (0, 2 / T)
        assert record["p_yes"] == pytest.approx(1 / (1 + np.exp(-2.0 / temperature)), rel=1e-6)
        assert record["label"] == "yes"
