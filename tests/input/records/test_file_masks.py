# SPDX-License-Identifier: Apache-2.0
"""input/records/file_masks.py: the masks of a file stand on the tokens of their rows."""

import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from input.records.file_masks import FileMasks

MOST = 5


def batch_of(lengths, random):
    """Positions, ids and weights of rows of these lengths, [B, MOST], and the densest share."""
    positions, ids = np.zeros((2, len(lengths), MOST), np.int32)
    weights = np.zeros((len(lengths), MOST), np.float32)
    for row, length in enumerate(lengths):
        number = random.integers(0, min(MOST, length) + 1)
        positions[row, :number] = np.sort(random.choice(length, number, replace=False))
        ids[row, :number] = 1000 * row + positions[row, :number]  # says where it has to stand
        weights[row, :number] = random.uniform(0.5, 1, number)
    shares = np.count_nonzero(weights, axis=1) / lengths
    return positions, ids, weights, float(shares.max())


def test_padded_rows_keep_their_masks_and_filler_has_none():
    positions, ids, weights, densest = batch_of([7, 9, 4], np.random.default_rng(1))
    targets = {
        "masked_lm_positions": positions,
        "masked_lm_ids": ids,
        "masked_lm_weights": weights,
        "next_sentence_labels": np.array([1, 0, 1]),
    }
    features = {"input_ids": tf.zeros((3, 9), tf.int32)}
    masks = FileMasks(MOST, densest)
    made, kept = masks(features, targets, tf.constant(0), tf.constant([5, 0, -1]))
    assert masks.width(9, is_packed=False) == MOST
    for result, wanted in (
        (made["masked_lm_positions"], positions),
        (kept["masked_lm_ids"], ids),
        (kept["masked_lm_weights"], weights),
    ):
        np.testing.assert_array_equal(result[:2], wanted[:2])
        assert not np.any(result[2])
    assert "masked_lm_positions" not in kept
    assert kept["next_sentence_labels"].tolist() == [1, 0, 1]
    assert set(targets) > set(kept)  # what was given is not changed


@settings(max_examples=25)
@given(
    st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4), min_size=1, max_size=3),
    st.integers(0, 3),
    st.integers(0, 999),
)
def test_packed_masks_stand_on_the_tokens_of_their_rows(long_rows, num_filler, seed):
    """long_rows: the lengths of the short rows in each long one, one behind the other."""
    lengths = [length for row in long_rows for length in row]
    positions, ids, weights, densest = batch_of(lengths, np.random.default_rng(seed))
    width = max(map(sum, long_rows))
    starts = [
        place * width + sum(row[:i]) for place, row in enumerate(long_rows) for i in range(len(row))
    ]
    # Filler comes first, at 0; its record is another row's.
    targets = {
        name: np.concatenate([np.full_like(array[:1], 3)] * num_filler + [array])
        for name, array in (
            ("masked_lm_positions", positions),
            ("masked_lm_ids", ids),
            ("masked_lm_weights", weights),
        )
    }
    rows = np.array([-1] * num_filler + list(range(len(lengths))))
    features = {
        "input_ids": tf.zeros((len(long_rows), width), tf.int32),
        "starts": tf.constant([0] * num_filler + starts),
    }
    masks = FileMasks(MOST, densest)
    made, kept = tf.function(masks)(features, targets, tf.constant(0), tf.constant(rows))
    made = made["masked_lm_positions"].numpy()
    assert made.shape == (len(long_rows), masks.width(width, is_packed=True))
    found = {}
    for row in range(len(long_rows)):
        is_masked = kept["masked_lm_weights"][row].numpy() > 0
        assert np.all(np.diff(made[row][is_masked]) > 0)
        for position, token, weight in zip(
            made[row],
            kept["masked_lm_ids"][row].numpy(),
            kept["masked_lm_weights"][row].numpy(),
            strict=True,
        ):
            if weight > 0:
                short, place = divmod(int(token), 1000)
                assert starts[short] + place == row * width + position
                found[int(token)] = weight
    wanted = {int(i): w for i, w in zip(ids[weights > 0], weights[weights > 0], strict=True)}
    assert found == wanted
