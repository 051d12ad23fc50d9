# SPDX-License-Identifier: Apache-2.0
"""The backbone without a head: its token vectors; what they are is tested with the classifier."""

import numpy as np
from keras import ops

from common.backbones.backbone import make_backbone
from common.kernels.needed_tokens import FIRST_TOKEN
from tests.reference.tiny_bert import HIDDEN_SIZE, random_features, tiny_params


def backbone_of(**model):
    backbone = make_backbone(tiny_params(weight_initialization_seed=5, **model).model)
    backbone.build()
    return backbone


def vectors(backbone, features, **arguments):
    """What a backbone returns, as arrays."""
    features = {name: ops.convert_to_tensor(values) for name, values in features.items()}
    return [np.asarray(each) for each in backbone(features, **arguments)]


def test_vectors_have_the_hidden_size_and_the_first_token_can_be_computed_alone():
    backbone, features = backbone_of(), random_features(batch=3, tokens=7)
    x, padding_mask = vectors(backbone, features)
    first, _ = vectors(backbone, features, needed=FIRST_TOKEN)
    assert x.shape == (3, 7, HIDDEN_SIZE) and first.shape == (3, 1, HIDDEN_SIZE)
    np.testing.assert_allclose(first, x[:, :1], rtol=0, atol=1e-6)  # float32, values near 3
    np.testing.assert_array_equal(padding_mask, features["padding_mask"])


def test_packed_rows_are_unpacked_to_rows_with_their_own_padding():
    features = random_features(batch=4, tokens=7)
    lengths = features["padding_mask"].sum(axis=1)
    packed = {name: np.zeros((1, 28), np.int32) for name in features}
    for name, values in features.items():
        packed[name][0, : lengths.sum()] = values[features["padding_mask"] == 1]
    packed["starts"] = np.cumsum([0, *lengths[:-1]]).astype(np.int32)
    backbone = backbone_of()
    expected, _ = vectors(backbone, features)
    x, padding_mask = vectors(backbone, packed)
    np.testing.assert_array_equal(padding_mask[:, :7], features["padding_mask"])
    assert not padding_mask[:, 7:].any()
    real = features["padding_mask"][:, :, None]
    np.testing.assert_allclose(x[:, :7] * real, expected * real, rtol=0, atol=1e-5)


def test_weights_are_named_without_a_head():
    backbone = backbone_of(use_pre_normalization=True)
    names = [weight.path for weight in backbone.embeddings.weights + backbone.encoder.weights]
    assert "embeddings/word_embeddings" in names
    assert "encoder/layer_1/attention/query/kernel" in names
    assert "encoder/final_layer_norm/gamma" in names
