# SPDX-License-Identifier: Apache-2.0
"""`optimizer.optimizer_type` of the params -> optimizer: the class in this folder of that name."""

import importlib
import pkgutil
from pathlib import Path

from common.optimizers.base import Optimizer
from common.params.values import subclasses

for _module in pkgutil.iter_modules([str(Path(__file__).parent)]):
    importlib.import_module(f"{__package__}.{_module.name}")
OPTIMIZERS = {each.name: each for each in subclasses(Optimizer)}


def make_optimizer(weights, cfg, num_layers=0):
    """Returns the Optimizer that OptimizerParams `cfg` describe; arguments as of `Optimizer`."""
    return OPTIMIZERS[cfg.optimizer_type](weights, cfg, num_layers)


def optimizer_of(model, params):
    """Returns the Optimizer of what a BaseModel trains. params: complete Params."""
    weights = {w.path.split("/", 1)[1]: w.value for w in model.trainable_weights}
    return make_optimizer(weights, params.optimizer, params.model.num_hidden_layers)
