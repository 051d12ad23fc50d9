# SPDX-License-Identifier: Apache-2.0
"""The sum of the squares of a gradient, against NumPy in float64; an update is one loop.

What an update writes is tested with the optimizers, beside this file.
"""

import re

import numpy as np
import pytest
import tensorflow as tf

from common.optimizers import update
from common.optimizers.adam import AdamW
from common.optimizers.update import (
    MIN_COMPILED,
    NUM_PIECES,
    gradient_of,
    half_square,
    update_weight,
)

# float16 holds nothing above 65,504, but its squares are added up in float32 as well.
LARGEST = {"float32": 1e18, "bfloat16": 1e18, "float16": 3e4}
NAMES = ("scale", "decay", "rate", "correction", "epsilon", "average_share")  # numbers of AdamW
NAMES += tuple(f"{one_minus}beta{i}" for one_minus in ("", "one_minus_") for i in (1, 2))


@pytest.mark.parametrize("dtype", list(LARGEST))
@pytest.mark.parametrize(
    "shape",
    [
        (),
        (7,),
        (MIN_COMPILED // 64, 64),
        (MIN_COMPILED - 1,),
        (MIN_COMPILED + NUM_PIECES,),  # as many pieces as wanted, each of an odd size
        (300, 2 * NUM_PIECES),
    ],
)
def test_half_square_matches_numpy_in_float64(dtype, shape):
    values = np.random.default_rng(0).normal(size=shape)
    for factor in (1.0, LARGEST[dtype] / max(np.abs(values).max(), 1)):
        gradient = tf.constant(values * factor / 2, dtype)
        exact = np.square(np.asarray(tf.cast(gradient, tf.float64))).sum() / 2
        actual = half_square(gradient)
        assert actual.dtype == tf.float32
        np.testing.assert_allclose(actual, exact, rtol=1e-5)


@pytest.mark.parametrize("dtype", list(LARGEST))
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("place", [0, 1, MIN_COMPILED - 1])
def test_half_square_of_one_number_that_is_not_finite_is_not(dtype, bad, place):
    values = np.ones(MIN_COMPILED)
    values[place] = bad
    assert not np.isfinite(half_square(tf.constant(values, dtype)))


def test_rows_looked_up_twice_are_added_before_they_are_squared():
    values = np.random.default_rng(1).normal(size=(600, 32)).astype(np.float32)
    indices = np.arange(600) % 400
    table = tf.Variable(tf.zeros((1000, 32)))
    slices = tf.IndexedSlices(tf.constant(values), tf.constant(indices), table.shape)
    dense = np.zeros(table.shape)
    np.add.at(dense, indices, values)
    actual = half_square(gradient_of(table, slices))
    np.testing.assert_allclose(actual, np.square(dense).sum() / 2, rtol=1e-5)


@pytest.mark.parametrize("has_average", [False, True])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "table"])
def test_an_update_is_one_loop_without_copies(kind, has_average, monkeypatch):
    size = (512, 256)
    weight, m, v, average = (tf.Variable(tf.zeros(size)) for _ in range(4))
    if kind == "table":
        rows = tf.IndexedSlices(tf.ones((40, 256)), tf.range(40), size)
        gradient = gradient_of(weight, rows)
    else:
        gradient = tf.ones(size, kind)
    texts = []

    def compile_only(*arguments):
        compiled = program.experimental_get_compiler_ir(*arguments)
        texts.append(compiled(stage="optimized_hlo"))

    program = update.compiled_update
    monkeypatch.setattr(update, "compiled_update", compile_only)
    average = average if has_average else None
    numbers = tf.fill([len(NAMES)], 0.5)
    update_weight(AdamW.rule, weight, {"m": m, "v": v}, average, gradient, NAMES, numbers)
    entry = texts[0].split("\nENTRY ")[1]
    loops = re.findall(r"= (\(.*?\)|\S+) (fusion|copy)\(", entry)
    whole = [(what, shape.count("f32[512,256]")) for shape, what in loops if "512,256" in shape]
    assert whole == [("fusion", 4 if has_average else 3)]


@pytest.mark.parametrize("is_lazy", [False, True])
def test_what_is_compiled_has_the_same_shapes_whatever_words_a_batch_has(is_lazy, monkeypatch):
    weight, m, v = (tf.Variable(tf.zeros((300, 4))) for _ in range(3))
    seen = []

    def watched(program):
        def watch(*arguments, **options):
            seen.extend(each for each in tf.nest.flatten(arguments) if tf.is_tensor(each))
            return program(*arguments, **options)

        return watch

    for name in ("compiled_update", "compiled_rows"):
        monkeypatch.setattr(update, name, watched(getattr(update, name)))

    @tf.function(autograph=False)
    def step(values, words):
        gradient = gradient_of(weight, tf.IndexedSlices(values, words, weight.shape))
        numbers = tf.fill([len(NAMES)], 0.5)
        update_weight(AdamW.rule, weight, {"m": m, "v": v}, None, gradient, NAMES, numbers, is_lazy)

    step.get_concrete_function(tf.TensorSpec([40, 4]), tf.TensorSpec([40], tf.int32))
    assert len(seen) > 4
    assert all(tensor.shape.is_fully_defined() for tensor in seen)
