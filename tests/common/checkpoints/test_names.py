# SPDX-License-Identifier: Apache-2.0
"""The table of neutral names against the network that has them."""

import numpy as np
import pytest

from common.checkpoints.names import (
    WEIGHTS,
    LazyTensor,
    axes_of,
    geometry,
    pattern_of,
    standard_names,
)
from model import make_model
from tests.reference.tiny_bert import tiny_params

LENGTHS = {"V": 23, "P": 19, "S": 2, "D": 6, "F": 13, "C": 5, "E": 4}  # of the tiny network


def names_of(pre_norm):
    """A network of two layers; a pre-norm one has its layer norm behind the last layer."""
    if not pre_norm:
        return standard_names(2)
    norm = "encoder/final_layer_norm"
    names = [name for name in standard_names(2) if not name.startswith("embeddings/layer_norm/")]
    return [*names, f"{norm}/gamma", f"{norm}/beta"]


@pytest.mark.parametrize("pre_norm", [False, True])
def test_the_network_has_the_weights_of_the_table_with_their_shapes(pre_norm):
    model = make_model(tiny_params(use_pre_normalization=pre_norm))
    head = ["pooler/kernel", "pooler/bias", "classifier/kernel", "classifier/bias"]
    names = names_of(pre_norm) + head
    shapes = {name: tuple(v.shape) for name, v in model.weights_by_name().items()}
    assert shapes == {name: tuple(LENGTHS[axis] for axis in axes_of(name)) for name in names}


def test_factorised_embeddings_have_a_matrix_and_their_width_in_the_geometry():
    model = make_model(tiny_params(embedding_size=4))
    shapes = {name: tuple(v.shape) for name, v in model.weights_by_name().items()}
    names = [name for name in shapes if name.startswith("embeddings/")]
    of_another_family = {"embeddings/projection/bias"}
    of_table = {name for name in WEIGHTS if name.startswith("embeddings/")}
    assert set(names) == of_table - of_another_family
    assert shapes["embeddings/projection/kernel"] == tuple(
        LENGTHS[axis] for axis in axes_of("embeddings/projection/kernel")
    )
    known = geometry(shapes)
    assert (known["embedding_size"], known["hidden_size"], known["vocab_size"]) == (4, 6, 23)


def test_a_layer_has_16_weights_and_the_embeddings_have_5():
    assert len(standard_names(12)) == len(set(standard_names(12))) == 5 + 12 * 16
    assert standard_names(0)[0] == "embeddings/word_embeddings"
    assert standard_names(11)[-1] == "encoder/layer_10/feed_forward_layer_norm/beta"


def test_a_name_has_a_pattern_and_a_layer():
    pattern = "encoder/layer_{i}/attention/key/bias"
    assert pattern_of("encoder/layer_10/attention/key/bias") == (pattern, 10)
    assert pattern in WEIGHTS
    assert pattern_of("pooler/bias") == ("pooler/bias", None)
    assert axes_of("no such weight") == ""


def test_geometry_is_read_from_shapes_and_silent_on_what_they_do_not_show():
    names = standard_names(2)
    shapes = {name: tuple(LENGTHS[axis] for axis in axes_of(name)) for name in names}
    expected = {
        "hidden_size": 6,
        "num_hidden_layers": 2,
        "filter_size": 13,
        "max_position_embeddings": 19,
        "vocab_size": 23,
    }
    assert geometry(shapes) == expected
    del shapes["embeddings/position_embeddings"], expected["max_position_embeddings"]
    assert geometry(shapes) == expected
    assert geometry({}) == {}
    assert geometry({"embeddings/word_embeddings": (7,)}) == {}  # malformed


def test_a_lazy_tensor_is_read_when_it_is_asked_for_and_not_before():
    calls = []

    def read():
        calls.append(1)
        return np.array([1.5, 2.5], np.float16)

    tensor = LazyTensor([2], read)
    assert tensor.shape == (2,) and not calls
    array = np.asarray(tensor)
    assert array.dtype == np.float32 and array.tolist() == [1.5, 2.5] and len(calls) == 1
    with pytest.raises(ValueError, match="no memory to share"):
        np.array(tensor, copy=False)
