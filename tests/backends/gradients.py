# SPDX-License-Identifier: Apache-2.0
"""Outputs and gradients of a function, under the Keras backend of this process."""

import keras
import numpy as np
from keras import ops


def value_and_gradients(function, variables, inputs):
    """Runs a function forward and backward, as one program where the backend compiles.

    Args:
        function: inputs -> (total, outputs): the number to differentiate, and a dict of tensors.
        variables: list of Keras variables.
        inputs: dict. Arrays become tensors; those of floats are differentiated too.
    Returns:
        {name: array}: the outputs; and gradients, named `gradients/` and the variable's path below
        its layer, or the input's name. The gradient of what `total` does not depend on is zero.
    """
    arrays = {name: each for name, each in inputs.items() if isinstance(each, np.ndarray)}
    floats = {name: each for name, each in arrays.items() if each.dtype == np.float32}
    weights = [variable.value for variable in variables]
    outputs, gradients = _BY_BACKEND[keras.backend.backend()](
        lambda tensors: function(inputs | tensors), variables, arrays, floats
    )
    names = [*(variable.path.split("/", 1)[1] for variable in variables), *floats]
    for name, source, gradient in zip(names, [*weights, *floats.values()], gradients, strict=True):
        gradient = np.zeros(source.shape, np.float32) if gradient is None else gradient
        outputs[f"gradients/{name}"] = gradient
    return {name: ops.convert_to_numpy(each) for name, each in outputs.items()}


def _tensorflow(function, variables, arrays, floats):
    import tensorflow as tf

    @tf.function(autograph=False)
    def run(tensors):
        sources = [*(v.value for v in variables), *(tensors[name] for name in floats)]
        with tf.GradientTape() as tape:
            tape.watch(sources)
            total, outputs = function(tensors)
        gradients = tape.gradient(total, sources)
        return outputs, [None if g is None else tf.convert_to_tensor(g) for g in gradients]

    return run({name: tf.constant(each) for name, each in arrays.items()})


def _jax(function, variables, arrays, floats):
    import jax

    def total(weights, floats):
        with keras.StatelessScope(list(zip(variables, weights, strict=True))):
            return function(arrays | floats)

    run = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    (_, outputs), (of_weights, of_floats) = run([v.value for v in variables], floats)
    return outputs, [*of_weights, *(of_floats[name] for name in floats)]


def _torch(function, variables, arrays, floats):
    import torch

    tensors = {name: torch.from_numpy(each) for name, each in arrays.items()}
    sources = [*(v.value for v in variables), *(tensors[name] for name in floats)]
    for source in sources:
        source.requires_grad_(True)
    total, outputs = function(tensors)
    return outputs, torch.autograd.grad(total, sources, allow_unused=True)


_BY_BACKEND = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
