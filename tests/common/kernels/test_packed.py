# SPDX-License-Identifier: Apache-2.0
"""Packed rows where nothing is computed. What they compute: `tests/test_BertClassifierModel.py`."""

import tensorflow as tf

from common.kernels.packed import PackedRows


def test_a_graph_that_is_only_traced_has_a_mask_for_each_pair_of_tokens():
    with tf.Graph().as_default():  # where `==` asks whether two tensors are the same object
        packed = PackedRows(tf.constant([0, 3, 5]), tf.ones([2, 5], tf.int32))
        assert packed.attention_mask.shape == (2, 5, 5)
        assert packed.first_tokens_mask().shape == (1, 3, 10)
        assert packed.unpack(tf.zeros([2, 5, 4]))[1].shape == (3, 5)
