# SPDX-License-Identifier: Apache-2.0
"""`optimizer.optimizer_type` of the params -> optimizer. A new one is a class and a line here."""

from common.optimizers.adam import Adam, AdamW
from common.optimizers.rmsprop import RMSProp
from common.optimizers.sgd import SGD, Momentum

OPTIMIZERS = {each.name: each for each in (SGD, Momentum, Adam, AdamW, RMSProp)}


def make_optimizer(weights, cfg, num_layers=0):
    """Returns the Optimizer that OptimizerParams `cfg` describe; arguments as of `Optimizer`."""
    return OPTIMIZERS[cfg.optimizer_type](weights, cfg, num_layers)


def optimizer_of(model, params):
    """Returns the Optimizer of what a BaseModel trains. params: complete Params."""
    weights = {w.path.split("/", 1)[1]: w.value for w in model.trainable_weights}
    return make_optimizer(weights, params.optimizer, params.model.num_hidden_layers)
