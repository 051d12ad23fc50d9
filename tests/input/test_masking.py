# SPDX-License-Identifier: Apache-2.0
"""Masking in the graph: equal to plain Python row by row, and the rates that it is to have."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.params import EvalInputParams
from input.masking import PACKED_RESERVE, Masking, make_masking
from input.tokenizers.wordpiece import WordPieceTokenizer
from tests.reference.masking_numpy import mask_row

VOCAB_SIZE = 61
PAD_ID, CLS_ID, SEP_ID, MASK_ID, FIRST_ID = 0, 1, 2, 3, 4
CONTINUES = np.arange(VOCAB_SIZE) % 3 == 0
MASKING = Masking(0.15, 20, MASK_ID, VOCAB_SIZE, (PAD_ID, CLS_ID, SEP_ID))


def rows_of_ids(lengths, seed=0):
    """Rows of [CLS] A [SEP] B [SEP], int32 [R, T] padded with 0; a row of 1 token is [CLS]."""
    generator = np.random.default_rng(seed)
    ids = np.zeros((len(lengths), max(lengths)), np.int32)
    for row, length in enumerate(lengths):
        ids[row, :length] = generator.integers(FIRST_ID, VOCAB_SIZE, length)
        ids[row, [length // 2, length - 1]] = SEP_ID
        ids[row, 0] = CLS_ID
    return ids


def masked(masking, ids, epoch=0, rows=None, starts=None):
    """Returns features and targets as arrays."""
    features = {"input_ids": ids, "input_mask": (ids == PAD_ID).astype(np.int32)}
    if starts is not None:
        features["starts"] = np.asarray(starts, np.int32)
    rows = np.arange(len(ids if starts is None else starts)) if rows is None else rows
    tensors = {name: tf.constant(array) for name, array in features.items()}
    features, targets = masking(tensors, {}, tf.constant(epoch), tf.constant(rows, tf.int64))
    as_arrays = [{k: v.numpy() for k, v in part.items()} for part in (features, targets)]
    return as_arrays


def settings_of(max_ngram, is_whole, **others):
    words = CONTINUES if is_whole else None
    return replace(MASKING, continues=words, max_ngram=max_ngram, **others)


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    max_ngram=st.integers(1, 4),
    is_whole=st.booleans(),
    share=st.sampled_from([0.15, 0.3, 0.8]),
    limit=st.sampled_from([1, 5, 40]),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 9),
    first_row=st.sampled_from([0, 7, 2**33]),
)
@example([1, 3], 2, True, 0.3, 5, 0, 0, 0)  # no token may be predicted
def test_masks_are_those_of_the_original_programs_given_the_same_random_numbers(
    lengths, max_ngram, is_whole, share, limit, seed, epoch, first_row
):
    masking = settings_of(max_ngram, is_whole, share=share, max_predictions=limit, seed=seed)
    ids = rows_of_ids(lengths)
    rows = first_row + np.arange(len(lengths))
    features, targets = masked(masking, ids, epoch, rows)
    positions, weights = features["masked_lm_positions"], targets["masked_lm_weights"]
    assert positions.shape == weights.shape == (len(lengths), limit)
    for row, length in enumerate(lengths):
        new_ids, chosen = mask_row(ids[row, :length].tolist(), masking, epoch, int(rows[row]))
        count = int(weights[row].sum())
        assert positions[row, :count].tolist() == chosen
        assert features["input_ids"][row, :length].tolist() == new_ids
        assert targets["masked_lm_ids"][row, :count].tolist() == ids[row, chosen].tolist()
        # Filler.
        assert not positions[row, count:].any() and not weights[row, count:].any()
        assert (features["input_ids"][row, length:] == PAD_ID).all()


def test_a_row_has_the_number_that_google_s_formula_says():
    """min(P, max(1, round(L * share))), where L counts special tokens and round(2.5) is 2."""
    lengths = [5, 10, 20, 30, 40]  # 0.25 of each: 1.25, 2.5, 5, 7.5, 10
    masking = replace(MASKING, share=0.25, max_predictions=9)
    _, targets = masked(masking, rows_of_ids(lengths))
    assert targets["masked_lm_weights"].sum(axis=1).tolist() == [1, 2, 5, 8, 9]


@pytest.mark.parametrize(("max_ngram", "is_whole"), [(1, False), (1, True), (3, True)])
def test_packed_rows_have_the_masks_of_their_own_rows(max_ngram, is_whole):
    lengths = [9, 17, 5, 12]
    masking, ids = settings_of(max_ngram, is_whole), rows_of_ids(lengths)
    alone, _ = masked(masking, ids, epoch=3)
    packed = np.zeros((2, 30), np.int32)
    starts = [0, 9, 30, 35]  # 9 + 17 tokens, then 5 + 12
    for row, start in enumerate(starts):
        packed.ravel()[start : start + lengths[row]] = ids[row, : lengths[row]]
    features, targets = masked(masking, packed, epoch=3, starts=starts)
    for row, start in enumerate(starts):
        new = features["input_ids"].ravel()[start : start + lengths[row]]
        np.testing.assert_array_equal(new, alone["input_ids"][row, : lengths[row]])
    places = np.flatnonzero(features["input_ids"].ravel() != packed.ravel())
    listed = features["masked_lm_positions"] + [[0], [30]]
    listed = set(listed[targets["masked_lm_weights"] == 1].tolist())
    assert set(places.tolist()) <= listed
    assert listed == {
        start + position
        for row, start in enumerate(starts)
        for position in mask_row(ids[row, : lengths[row]].tolist(), masking, 3, row)[1]
    }


def test_filler_rows_have_nothing_to_predict():
    ids = rows_of_ids([9, 9])
    features, targets = masked(MASKING, ids, rows=np.array([-1, 4]))
    assert targets["masked_lm_weights"].sum(axis=1).tolist() == [0, 1]
    np.testing.assert_array_equal(features["input_ids"][0], ids[0])
    packed, starts = ids.reshape(1, 18), [0, 0, 9]  # a filler row has no token
    _, targets = masked(MASKING, packed, rows=np.array([-1, 0, 1]), starts=starts)
    assert targets["masked_lm_weights"].sum() == 2


@pytest.mark.parametrize(("max_ngram", "is_whole"), [(1, False), (1, True), (3, True)])
def test_a_long_row_of_many_short_ones_keeps_as_many_as_it_has_room_for(max_ngram, is_whole):
    """40 rows of [CLS] x [SEP] have one each; a row of 120 tokens has room for 18 + 8."""
    starts = np.arange(0, 120, 3)
    packed = np.tile([CLS_ID, FIRST_ID, SEP_ID], 40)[None].astype(np.int32)
    masking = settings_of(max_ngram, is_whole)
    features, targets = masked(masking, packed, starts=starts)
    assert features["masked_lm_positions"].shape == (1, masking.width(120, is_packed=True))
    assert targets["masked_lm_weights"].sum() == 18 + PACKED_RESERVE
    kept = features["masked_lm_positions"][0]
    assert (np.diff(kept) > 0).all() and kept[-1] > 60  # and not the first of them


def test_masks_depend_on_seed_epoch_and_row_alone():
    ids = rows_of_ids([40] * 5)
    features, _ = masked(MASKING, ids, epoch=2)
    for changed in (
        masked(replace(MASKING, seed=1), ids, epoch=2)[0],
        masked(MASKING, ids, epoch=3)[0],
        masked(MASKING, ids, epoch=2, rows=np.arange(1, 6))[0],
    ):
        assert not np.array_equal(features["input_ids"], changed["input_ids"])
    again, _ = masked(MASKING, ids[[4, 1]], epoch=2, rows=np.array([4, 1]))
    np.testing.assert_array_equal(again["input_ids"], features["input_ids"][[4, 1]])


NUM_ROWS, LENGTH = 600, 42  # 6 of 42 tokens are masked, of 39 that may be


@pytest.fixture(scope="module")
def counted():
    """{"masked", "random", "kept"}: how many of all tokens to predict, and their positions."""
    ids = rows_of_ids([LENGTH] * NUM_ROWS)
    ids[:, 1:-1] = np.where(ids[:, 1:-1] == MASK_ID, FIRST_ID, ids[:, 1:-1])
    masking = replace(MASKING, mask_share=0.7, random_share=0.2, random_ids=np.arange(50, 55))
    features, targets = masked(masking, ids)
    is_real = targets["masked_lm_weights"] == 1
    places = features["masked_lm_positions"]
    new = np.take_along_axis(features["input_ids"], places, axis=1)[is_real]
    return places[is_real], targets["masked_lm_ids"][is_real], new


def within(count, total, share):
    """Five standard deviations of a binomial: a right rate fails once in two million runs, and the
    draws are the same in every run."""
    return abs(count - total * share) < 5 * np.sqrt(total * share * (1 - share))


def test_the_split_has_its_shares(counted):
    _, old, new = counted
    total = NUM_ROWS * 6
    assert len(old) == total
    assert within((new == MASK_ID).sum(), total, 0.7)
    is_random = (new != MASK_ID) & (new != old)
    # A random token is the old one in 1 of 5 where that is among the five.
    is_possible = (old >= 50) & (old < 55)
    expected = 0.2 * (1 - 0.2 * is_possible.mean())
    assert within(is_random.sum(), total, expected)
    assert set(new[is_random].tolist()) == {50, 51, 52, 53, 54}


def test_every_place_is_as_likely_as_every_other(counted):
    places, *_ = counted
    counts = np.bincount(places, minlength=LENGTH)
    special = {0, LENGTH // 2, LENGTH - 1}
    assert not counts[list(special)].any()
    for place in set(range(LENGTH)) - special:
        assert within(counts[place], NUM_ROWS, 6 / 39), place


def test_random_tokens_are_uniform():
    ids = rows_of_ids([LENGTH] * NUM_ROWS)
    masking = replace(MASKING, mask_share=0.0, random_share=1.0)
    features, targets = masked(masking, ids)
    new = np.take_along_axis(features["input_ids"], features["masked_lm_positions"], axis=1)
    counts = np.bincount(new[targets["masked_lm_weights"] == 1], minlength=VOCAB_SIZE)
    assert all(within(count, NUM_ROWS * 6, 1 / VOCAB_SIZE) for count in counts)


def test_ngrams_have_a_probability_of_one_over_their_length():
    """Of rows that have one n-gram: 6/11, 3/11 and 2/11."""
    ids = rows_of_ids([LENGTH] * NUM_ROWS)
    masking = settings_of(3, is_whole=False, share=0.01, max_predictions=3)
    masking = replace(masking, share=3 / LENGTH)
    chosen = [mask_row(row.tolist(), masking, 0, n)[1] for n, row in enumerate(ids)]
    features, targets = masked(masking, ids)
    of_rows = zip(features["masked_lm_positions"], targets["masked_lm_weights"], strict=True)
    assert [row[w == 1].tolist() for row, w in of_rows] == chosen
    # A row whose first n-gram has three words has no other.
    runs = sum(np.diff(row)[:2].tolist() == [1, 1] for row in chosen)
    assert runs > NUM_ROWS * 2 / 11 * 0.8


VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused1]", "[", "a", "##b", "]"]


def input_params(**values):
    values = {"max_sequence_length": 128, "batch_size": 2} | values
    return EvalInputParams(data_processor="DocumentDataProcessor", **values)


def test_the_vocabulary_says_what_is_special_and_what_continues_a_word():
    tokenizer = WordPieceTokenizer(VOCAB)
    masking = make_masking(tokenizer, input_params(mask_whole_word=True, random_tokens="ordinary"))
    assert masking.mask_id == 4 and masking.never_predicted == (0, 2, 3)
    assert masking.max_predictions == 19  # 0.15 * 128 = 19.2
    assert np.flatnonzero(masking.continues).tolist() == [8]
    assert masking.random_ids.tolist() == [6, 7, 8, 9]
    assert make_masking(tokenizer, input_params()).random_ids is None
    other = make_masking(tokenizer, input_params(document_separator_token="a"))
    assert other.never_predicted == (0, 2, 3, 7)
    is_special = WordPieceTokenizer.is_special
    assert not is_special("[]") and is_special("[x]")


def test_a_vocabulary_without_the_tokens_is_refused():
    vocab = [token for token in VOCAB if token != "[MASK]"]
    with pytest.raises(UserError, match=r"has no \[MASK\]"):
        make_masking(WordPieceTokenizer(vocab), input_params())
    with pytest.raises(UserError, match="document_separator_token is <s>"):
        make_masking(WordPieceTokenizer(VOCAB), input_params(document_separator_token="<s>"))


def test_the_graph_and_its_static_shapes():
    """A pipeline knows the width of padded rows, which a program of a step needs."""
    ids = rows_of_ids([9, 30])

    def features(ids):
        return {"input_ids": ids, "input_mask": tf.cast(ids == PAD_ID, tf.int32)}

    dataset = tf.data.Dataset.from_tensors(ids).map(
        lambda ids: MASKING(features(ids), {"others": ids}, tf.constant(1), tf.range(2))
    )
    spec, targets = dataset.element_spec
    assert spec["masked_lm_positions"].shape == (2, 20) and spec["input_ids"].shape == ids.shape
    assert set(targets) == {"others", "masked_lm_ids", "masked_lm_weights"}
    (batch,) = dataset
    eager, _ = masked(MASKING, ids, epoch=1)
    np.testing.assert_array_equal(batch[0]["input_ids"], eager["input_ids"])
