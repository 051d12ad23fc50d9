# SPDX-License-Identifier: Apache-2.0
"""The twin against the TensorFlow model: same weights, same batch, same numbers."""

import json

import cerebras.pytorch as cstorch
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from common.cs.network import make_twin
from common.cs.optimizer import LearningRate, TorchOps, make_optimizer, update
from common.cs.target import TASKS as ACCEPTED
from common.cs.tasks import TASKS, Classification, total_loss
from common.optimizers.schedules import make_schedule
from common.params import ModelParams, OptimizerParams, Params
from tests.cs.schedules import SCHEDULES, STEPS

CASES = (
    "plain", "pre_norm", "no_tables", "fixed_factorized", "no_biases", "last", "mean", "max", "sum",
    "weighted", "frozen", "minilm", "mlm_nsp", "mlm_own_table", "mlm_only", "mlm_frozen",
)  # fmt: skip


class Case:
    """A case of tensorflow_side.py, and the twin with its weights."""

    def __init__(self, folder):
        self.params = Params.model_validate(json.loads((folder / "params.json").read_text()))
        self.arrays = load_file(folder / "arrays.safetensors")
        self.twin = make_twin(self.params, self.arrays["batch/input_ids"].shape[1])
        self.weights = self.twin.weights_by_name()
        self.of = {
            kind: {
                name.removeprefix(f"{kind}/"): array
                for name, array in self.arrays.items()
                if name.startswith(f"{kind}/")
            }
            for kind in ("batch", "outputs", "weights", "gradients", "updated")
        }
        for name, weight in self.weights.items():
            weight.assign(self.of["weights"][name])

    def outputs(self, batch):
        return self.twin(*(batch[name] for name in self.twin.inputs))

    def losses(self):
        """Returns the losses of the batch."""
        cfg = self.params.model
        task = TASKS[self.params.task](cfg, (), cfg.class_weights)
        return task.losses(self.outputs, self.batch)

    @property
    def batch(self):
        return {name: torch.from_numpy(array) for name, array in self.of["batch"].items()}


def test_the_tasks_that_the_rules_accept_are_those_with_a_twin():
    assert tuple(TASKS) == ACCEPTED


def test_r_drop_by_hand():
    """As in tests/common/test_losses.py: p = (1/2, 1/2), q = (3/4, 1/4), alpha 2."""
    cfg = ModelParams(num_cls_classes=2, r_drop_alpha=2.0)
    logits = torch.log(torch.tensor([[[0.5, 0.5], [0.75, 0.25]]]))
    expected = (np.log(2) + np.log(4 / 3)) / 2 + np.log(3) / 8
    loss = total_loss(Classification(cfg, ()), logits, torch.tensor([0]), cfg.r_drop_alpha)
    assert float(loss) == pytest.approx(expected, rel=1e-6)


@pytest.fixture(params=CASES)
def case(request, tensorflow_results):
    return Case(tensorflow_results / request.param)


def test_weights_have_the_same_names_and_shapes(case):
    shapes = {name: array.shape for name, array in case.of["weights"].items()}
    assert {name: weight.shape for name, weight in case.weights.items()} == shapes


def test_logits_and_losses_are_those_of_tensorflow(case):
    outputs, losses = case.outputs(case.batch), case.losses()
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    expected = sorted(case.of["outputs"].items())  # logits; or of masked words, of next sentences
    # float32 on both sides; logits near 1, losses near 3, whose last two bits differ by processor
    for found, (name, logits) in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(found.detach().numpy(), logits, rtol=0, atol=1e-5, err_msg=name)
    losses = [float(loss) for loss in losses]
    np.testing.assert_allclose(losses, case.arrays["losses"], rtol=0, atol=3e-6)


def test_the_gradient_of_every_trained_weight_is_that_of_tensorflow(case):
    case.losses()[0].backward()
    expected = case.of["gradients"]
    assert {n for n, w in case.weights.items() if w.parameter.grad is not None} == set(expected)
    largest = max(np.abs(gradient).max() for gradient in expected.values())
    for name, gradient in expected.items():
        found = case.weights[name].as_neutral(case.weights[name].parameter.grad)
        # The softmax does not see a key's bias: its gradient is 0 but for rounding.
        tolerance = max(1e-4 * np.abs(gradient).max(), 1e-7 * largest)
        np.testing.assert_allclose(found, gradient, rtol=0, atol=tolerance, err_msg=name)


def test_one_update_moves_every_weight_as_in_tensorflow(case, cpu_backend):
    cfg = case.params.optimizer
    optimizer = make_optimizer(case.twin, cfg, case.params.model.num_hidden_layers)
    LearningRate(optimizer, cfg)
    update(case.losses()[0], optimizer, None, cfg)
    for name, expected in case.of["updated"].items():
        found = case.weights[name].as_neutral(case.weights[name].parameter)
        tolerance = 1e-5
        if name in case.of["gradients"]:
            # A gradient near 0 is but rounding, of which AdamW's division by its size makes a step:
            # relatively, a step of the first update changes as much as its gradient, or less.
            gradient = np.abs(case.of["gradients"][name])
            rounding = 5e-6 * gradient.max() / np.maximum(gradient, 1e-12)
            tolerance = 1e-5 + rounding * np.abs(expected - case.of["weights"][name])
        assert (np.abs(found - expected) <= tolerance).all(), name
        if name in case.of["gradients"] and not name.endswith("key/bias"):
            assert np.abs(found - case.of["weights"][name]).max() > 1e-6, name


@pytest.mark.parametrize("name", SCHEDULES)
def test_learning_rates_are_those_of_tensorflow(name, tensorflow_results):
    schedule, overlap = SCHEDULES[name]
    cfg = OptimizerParams(learning_rate=schedule, disable_lr_steps_reset=overlap)
    rate = make_schedule(cfg, TorchOps)
    found = [float(rate(torch.tensor(float(step)))) for step in STEPS]
    expected = json.loads((tensorflow_results / "rates.json").read_text())[name]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-11)


def test_the_rate_of_an_update_is_that_of_the_updates_before_it(cpu_backend):
    weight = torch.nn.Linear(1, 1)
    cfg = OptimizerParams(learning_rate=SCHEDULES["linear"][0])
    optimizer = cstorch.optim.AdamW([{"params": weight.parameters(), "rate_factor": 0.5}])
    schedule = LearningRate(optimizer, cfg, first_step=3)
    rates = []
    for _ in range(3):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        weight(torch.ones(1, 1)).sum().backward()
        optimizer.step()
        schedule.step()
    np.testing.assert_allclose(rates, [0.5 * 5e-5 * step / 10 for step in (3, 4, 5)], rtol=1e-5)
