# SPDX-License-Identifier: Apache-2.0
"""Texts as an exported model sees them: the same features as a data set's rows."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from input.batches import make_batches, row_lengths
from input.features import Layout, TextFeatures
from input.token_cache import tokenize_texts
from input.tokenizers.wordpiece import WordPieceTokenizer

TOKENIZER = WordPieceTokenizer(["a", "b", "##c", "[UNK]", "[SEP]", "[CLS]", "[PAD]", "!"])


def features_of_rows(rows, max_sequence_length, layout):
    """The features of the same rows by the input functions, in one batch."""
    tokens = tokenize_texts(rows, TOKENIZER)
    length = row_lengths(tokens, max_sequence_length, layout).max()
    batches = make_batches(
        tokens,
        TOKENIZER,
        np.arange(len(rows), dtype=np.int32)[None],
        np.array([length], np.int32),
        max_sequence_length,
        with_weights=False,
        layout=layout,
    )
    features, _ = next(iter(batches))
    return features


@pytest.mark.parametrize("texts_per_row", [1, 2])
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_features_are_those_of_the_input_functions(texts_per_row, data):
    text = st.integers(0, 12).map(lambda length: "ac b! ?"[: length % 8] + " a" * length)
    rows = data.draw(st.lists(st.tuples(*[text] * texts_per_row), min_size=1, max_size=5))
    max_sequence_length = data.draw(st.integers(texts_per_row + 2, 20))
    layout = data.draw(st.sampled_from([Layout(), Layout(False, False, 1)]))
    text_features = TextFeatures(TOKENIZER, texts_per_row, max_sequence_length, layout)
    actual = text_features(tf.constant(rows))
    for name, expected in features_of_rows(rows, max_sequence_length, layout).items():
        assert actual[name].dtype == tf.int32
        np.testing.assert_array_equal(actual[name], expected)


@pytest.mark.parametrize("texts_per_row", [1, 2])
def test_no_rows_and_empty_texts_have_their_special_tokens_only(texts_per_row):
    text_features = tf.function(TextFeatures(TOKENIZER, texts_per_row, 9))
    assert text_features(tf.zeros([0, texts_per_row], tf.string))["input_ids"].shape[0] == 0
    ids = text_features(tf.constant([[""] * texts_per_row] * 2))["input_ids"]
    np.testing.assert_array_equal(ids, [[5] + [4] * texts_per_row] * 2)
