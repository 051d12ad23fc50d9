# SPDX-License-Identifier: Apache-2.0
"""Source exports of every family and task compute and learn what the networks here do.

With Keras under TensorFlow, JAX and PyTorch, and with PyTorch alone, in processes that have nothing
of this project. `make test-backends` runs it.
"""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from common.BaseModel import TRAIN
from common.export import keras_source, pytorch_source
from tests.backends.gradients import value_and_gradients
from tests.backends.source_runs import LEARNING_RATE
from tests.reference.source_cases import (
    CASES,
    NO_DROPOUT,
    OTHERS,
    make_case,
    outputs_of,
    without_tokens,
)
from tests.reference.tiny_bert import VOCAB_SIZE, random_features

pytestmark = pytest.mark.backends

ROOT = Path(__file__).resolve().parents[2]
OTHER_PYTHON = ROOT / ".venv-backends" / "bin" / "python"
MODULES = {"keras": keras_source, "pytorch": pytorch_source}
STEPS = [
    *("bert classification", "bert token_classification", "distilbert pretraining"),
    *("albert classification", "modernbert token_classification"),
]
ALL = [*CASES, *OTHERS]
# Between them they have every operation; JAX compiles each for every shape, in 10 s a case.
FEW = [
    *(*STEPS, "bert pretraining", "roberta multi_label", "electra question_answering"),
    *("unusual regression", "pooler_type max", "pooler_type sum", "encoder_nonlinearity gelu_tanh"),
]
# {name: (Python, Keras backend, kind of export, cases)}
RUNS = {
    "keras tensorflow": (sys.executable, "tensorflow", "keras", ALL),
    "keras jax": (OTHER_PYTHON, "jax", "keras", FEW),
    "keras torch": (OTHER_PYTHON, "torch", "keras", FEW),
    "pytorch": (OTHER_PYTHON, "torch", "pytorch", ALL),
}
BATCH, TOKENS = 4, 11
TIMEOUT_SECONDS = 1800  # of a process on a busy machine; alone each takes about a minute
NUMBER = re.compile(r"-?\d+\.\d{4}")
# Float32 with sums in another order; values up to 5.
TOLERANCE = 1e-5


def features_of(case):
    """Random rows, the last without a token where that is defined."""
    features = random_features(BATCH, TOKENS)
    return features if "modernbert" in case else without_tokens(features)


def targets_of(task, features):
    """Labels of half of the tokens or of the rows, and their weights, of mean 1."""
    generator = np.random.default_rng(5)
    if task == "classification":
        return np.arange(BATCH, dtype=np.int32), np.ones(BATCH, np.float32)
    shape = features["input_ids"].shape
    labels = generator.integers(0, VOCAB_SIZE if task == "pretraining" else 5, shape, np.int32)
    weights = (generator.random(shape) < 0.5) * features["padding_mask"].astype(np.float32)
    return labels, weights * np.float32(weights.size / weights.sum())


def weights_after_a_step(model, task, features, labels, weights):
    """{neutral name: array}, of SGD with the project's own loss and gradients."""
    inputs = dict(features)
    inputs["input_mask"] = 1 - inputs.pop("padding_mask")
    targets = {"labels": labels}
    if task == "token_classification":
        targets = {"labels": np.where(weights > 0, labels, -1)}
    elif task == "pretraining":
        positions = np.tile(np.arange(TOKENS, dtype=np.int32), (BATCH, 1))
        inputs["masked_lm_positions"] = positions
        is_masked = (weights > 0).astype(np.float32)
        targets = {"masked_lm_ids": labels, "masked_lm_weights": is_masked}

    def total(inputs):
        loss = model.build_total_loss(model.build_model(inputs, TRAIN), targets)
        return loss, {"loss": loss}

    found = value_and_gradients(total, model.trainable_weights, inputs)
    variables = model.weights_by_name().items()
    return {n: np.asarray(v) - LEARNING_RATE * found[f"gradients/{n}"] for n, v in variables}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """A folder with the exports of each case, and what the networks here compute."""
    folder, arrays = tmp_path_factory.mktemp("source"), {}
    for case in ALL:
        has_step = case in STEPS
        classifier = make_case(case, **(NO_DROPOUT if has_step else {}))
        features = features_of(case)
        for kind, module in MODULES.items():
            (folder / case / kind).mkdir(parents=True)
            module.write(classifier, folder / case / kind)
        np.savez(folder / case / "features.npz", **features)
        for name, array in outputs_of(classifier.model, features).items():
            arrays[f"{case}/output {name}"] = array
        if has_step:
            task = CASES[case][1]
            labels, weights = targets_of(task, features)
            np.savez(folder / case / "targets.npz", labels=labels, weights=weights)
            of_step = weights_after_a_step(classifier.model, task, features, labels, weights)
            assert any(abs(of_step[n] - w).max() > 1e-3 for n, w in classifier.weights.items())
            arrays |= {f"{case}/weight {name}": array for name, array in of_step.items()}
    return folder, arrays


@pytest.fixture(scope="module")
def results(expected, tmp_path_factory):
    """{run: what it computes}."""
    folder, files = expected[0], tmp_path_factory.mktemp("runs")

    def compute(name):
        python, backend, kind, cases = RUNS[name]
        settings = {"KERAS_BACKEND": backend, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
        script, file = ROOT / "tests" / "backends" / "source_runs.py", files / f"{name}.npz"
        done = subprocess.run(
            [python, "-I", script, folder, kind, file, *cases],
            cwd=files,
            env=os.environ | settings,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
        assert done.returncode == 0, done.stderr
        return dict(np.load(file))

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(RUNS, pool.map(compute, RUNS), strict=True))


@pytest.mark.parametrize(("run", "case"), [(run, c) for run, of in RUNS.items() for c in of[3]])
def test_outputs_are_those_of_the_network(expected, results, run, case):
    is_token = features_of(case)["padding_mask"] > 0
    found = {n: a for n, a in results[run].items() if n.startswith(f"{case}/output")}
    wanted = {n: a for n, a in expected[1].items() if n.startswith(f"{case}/output")}
    if len(found) == 1:
        found = dict(zip(wanted, found.values(), strict=True))
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        kept = is_token if array.shape[1:2] == (TOKENS,) else slice(None)
        assert found[name].dtype == np.float32 and found[name].shape == array.shape
        np.testing.assert_allclose(found[name][kept], array[kept], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("case", STEPS)
def test_a_step_of_sgd_leaves_the_weights_that_it_leaves_here(expected, results, case, run):
    tensor_of = MODULES[RUNS[run][2]].tensor_of
    wanted = {n: a for n, a in expected[1].items() if n.startswith(f"{case}/weight")}
    wanted = dict(tensor_of(n.partition("/weight ")[2], a) for n, a in wanted.items())
    of_run = results[run].items()
    found = {n.partition("/weight ")[2]: a for n, a in of_run if n.startswith(f"{case}/weight")}
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("case", ALL)
def test_every_backend_prints_the_same(results, case):
    name = f"{case}/printed"
    first, *others = (str(arrays[name]) for arrays in results.values() if name in arrays)
    assert first.strip() and others
    for other in others:
        assert NUMBER.sub("#", other) == NUMBER.sub("#", first)
        numbers = [[float(number) for number in NUMBER.findall(text)] for text in (first, other)]
        np.testing.assert_allclose(*numbers, rtol=0, atol=1.5e-4)  # the last digit is rounded
