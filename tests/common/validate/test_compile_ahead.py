# SPDX-License-Identifier: Apache-2.0
"""The examples that programs are compiled for; `--compile_only` itself is tests/test_run.py's."""

from types import SimpleNamespace

import tensorflow as tf

from common.validate.compile_ahead import _examples
from input.masking import Masking
from tests.reference import toy_pretraining


def test_examples_of_packed_pre_training_have_the_shapes_of_its_batches(tmp_path):
    params = toy_pretraining.make_params(tmp_path, train_input={"packing": "packed"})
    batches = toy_pretraining.train_input_fn(params, 0, 5)
    masking = toy_pretraining.masking_of(params.train_input, 5)
    described = SimpleNamespace(
        dataset=batches.dataset,
        batch_size=batches.batch_size,
        distinct_shapes=batches.distinct_shapes,
        num_predictions=lambda length: masking.width(length, is_packed=True),
    )
    examples = {
        tuple(features["input_ids"].shape): (features, targets)
        for features, targets in _examples(described, 2)
    }
    assert isinstance(masking, Masking)
    for batch in batches:
        example = examples[tuple(batch[0]["input_ids"].shape)]
        tf.nest.assert_same_structure(example, batch)
        for one, other in zip(tf.nest.flatten(example), tf.nest.flatten(batch), strict=True):
            assert (one.shape, one.dtype) == (other.shape, other.dtype)
