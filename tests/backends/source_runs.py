# SPDX-License-Identifier: Apache-2.0
"""Runs source exports in an environment that has nothing of this project.

    .venv-backends/bin/python -I tests/backends/source_runs.py FOLDER KIND FILE.npz CASE...

with KERAS_BACKEND set. FOLDER has a folder for each CASE, with features.npz, the exports `keras`
and `pytorch`, and where a step is to be taken targets.npz. KIND is keras or pytorch. Writes
{case/what: array}.
"""

import contextlib
import importlib.util
import io
import os
import sys
from pathlib import Path

import numpy as np

LEARNING_RATE = 0.1
TEXTS = ("never once dull", "it was [MASK] good")
# Without unknown words: two of the windows of a text would be the same row, and answer alike.
QUESTION = ("never once dull", "it was bad , good !")


def opened(folder):
    """Returns the module model.py of a folder."""
    spec = importlib.util.spec_from_file_location("model", folder / "model.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def keras_step(network, features, labels, weights):
    """Takes a step of SGD. labels: <int32>[B] or [B, T]; weights: of the same shape, mean 1."""
    import keras

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.SGD(LEARNING_RATE), loss)
    network.train_on_batch(features, labels, weights)
    values = {w.path.removeprefix("network/"): w for w in network.weights}
    return {name: keras.ops.convert_to_numpy(value) for name, value in values.items()}


def pytorch_step(network, features, labels, weights):
    """As `keras_step`."""
    import torch

    features = {name: torch.tensor(each) for name, each in features.items()}
    optimizer = torch.optim.SGD(network.train().parameters(), LEARNING_RATE)
    logits = network(features).flatten(0, -2)
    labels, weights = torch.tensor(labels.ravel()).long(), torch.tensor(weights.ravel())
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    (losses * weights).mean().backward()
    optimizer.step()
    return {name: value.numpy() for name, value in network.state_dict().items()}


def outputs_of(network, features, kind):
    """Returns {output: array}, of a network with one output under the name ""."""
    if kind == "keras":
        import keras

        outputs, to_numpy = network(features), keras.ops.convert_to_numpy
    else:
        import torch

        with torch.no_grad():
            outputs = network({name: torch.tensor(each) for name, each in features.items()})
        to_numpy = torch.Tensor.numpy
    outputs = outputs if isinstance(outputs, dict) else {"": outputs}
    return {name: to_numpy(each) for name, each in outputs.items()}


def printed(module, texts):
    """Returns what the program prints of texts."""
    sys.argv, output = ["model.py", *texts], io.StringIO()
    with contextlib.redirect_stdout(output):
        module.main()
    return np.array(output.getvalue())


def main(folder, kind, file, *cases):
    assert importlib.util.find_spec("common") is None
    arrays = {}
    for case in (Path(folder) / name for name in cases):
        module, features = opened(case / kind), dict(np.load(case / "features.npz"))
        network = module.load()
        for name, array in outputs_of(network, features, kind).items():
            arrays[f"{case.name}/output {name}"] = array
        if (case / "targets.npz").is_file():
            step = keras_step if kind == "keras" else pytorch_step
            for name, array in step(network, features, **np.load(case / "targets.npz")).items():
                arrays[f"{case.name}/weight {name}"] = array
        texts = QUESTION if "question" in case.name else TEXTS
        arrays[f"{case.name}/printed"] = printed(module, texts)
    np.savez(file, **arrays)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    main(*sys.argv[1:])
