# SPDX-License-Identifier: Apache-2.0
"""Fresh weights: every weight has different values, repeatable from the seed."""

import numpy as np
import pytest

from common.backbones.initializers import FreshWeights, backbone_is_loaded
from model import make_model
from tests.reference.tiny_bert import tiny_params


def fresh_weights(**model):
    params = tiny_params(**model)
    return {name: np.asarray(w.value) for name, w in make_model(params).weights_by_name().items()}


def test_no_two_weights_of_a_fresh_network_are_equal():
    """Keras' own initializers make query, key and value equal when they share the object."""
    kernels = [w for name, w in fresh_weights().items() if name.endswith(("kernel", "embeddings"))]
    for i, one in enumerate(kernels):
        for other in kernels[:i]:
            size = min(one.size, other.size)
            assert (one.ravel()[:size] != other.ravel()[:size]).mean() > 0.9


def test_weight_initialization_seed_alone_decides_the_values():
    first, again = (fresh_weights(weight_initialization_seed=7) for _ in range(2))
    for name, weight in first.items():
        np.testing.assert_array_equal(weight, again[name])
    other = fresh_weights(weight_initialization_seed=8)
    assert all((first[name] != other[name]).any() for name in first if name.endswith("kernel"))


def test_a_backbone_that_is_to_be_loaded_is_not_drawn_and_the_head_is_unchanged():
    drawn = fresh_weights(weight_initialization_seed=7)
    with backbone_is_loaded():
        undrawn = fresh_weights(weight_initialization_seed=7)
    drawn_again = fresh_weights(weight_initialization_seed=7)
    for name, weight in undrawn.items():
        if name.startswith(("pooler", "classifier")) or not name.endswith(("kernel", "embeddings")):
            np.testing.assert_array_equal(weight, drawn[name])
        else:
            assert not weight.any() and drawn[name].any()
    assert drawn_again["encoder/layer_0/attention/query/kernel"].any()


def test_embedding_initializer_applies_only_to_the_word_table():
    weights = fresh_weights(
        initializer={"name": "constant", "value": 2.0},
        embedding_initializer={"name": "uniform", "minval": -0.5, "maxval": -0.25},
    )
    words = weights["embeddings/word_embeddings"]
    assert ((words >= -0.5) & (words <= -0.25)).all() and np.ptp(words) > 0.1
    for name in ("embeddings/position_embeddings", "pooler/kernel", "classifier/kernel"):
        assert (weights[name] == 2.0).all()


@pytest.mark.parametrize(
    ("spec", "spread"),
    [
        ({"name": "uniform"}, 0.1 / np.sqrt(12)),
        ({"name": "normal"}, 0.05),
        # A normal distribution cut at two standard deviations has 0.8796 of its deviation.
        ({"name": "truncated_normal"}, 0.05 * 0.8796),
        ({"name": "glorot_normal"}, np.sqrt(2 / (400 + 600))),
        ({"name": "glorot_uniform"}, np.sqrt(2 / (400 + 600))),
        ({"name": "variance_scaling"}, np.sqrt(1 / 400)),
        ({"name": "variance_scaling", "mode": "fan_out", "scale": 2.0}, np.sqrt(2 / 600)),
    ],
    ids=str,
)
def test_each_initializer_has_its_standard_deviation(spec, spread):
    params = tiny_params(initializer=spec)
    values = np.asarray(FreshWeights(params.model.keras_initializer, seed=1)((400, 600)))
    assert values.std() == pytest.approx(spread, rel=0.01)
    assert abs(values.mean()) < 0.01 * spread * 5
