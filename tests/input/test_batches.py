# SPDX-License-Identifier: Apache-2.0
"""input/batches.py: the documented features, against lists built in plain Python."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from input.batches import make_batches, row_lengths
from input.epoch_plan import EpochPlan, choose_bucket_lengths
from input.features import STANDARD_LAYOUT, Layout
from input.token_cache import Tokens

PAD, CLS, SEP = 2, 7, 5
SPECIAL = SimpleNamespace(pad_id=PAD, cls_id=CLS, sep_id=SEP)


def make_tokens(rows):
    """Tokens of a list of rows, each a list of one or two lists of ids; labels 0, 1, 2, 0, ..."""
    texts = [text for row in rows for text in row]
    return Tokens(
        ids=np.array([token for text in texts for token in text], np.int32),
        offsets=np.cumsum([0, *map(len, texts)]),
        targets={"labels": np.arange(len(rows), dtype=np.int32) % 3},
        texts_per_row=len(rows[0]),
    )


def random_rows(num_rows, texts_per_row, seed):
    """Rows of up to 12 ids per text, with the ids of special tokens among them."""
    random = np.random.default_rng(seed)
    return [
        [random.integers(0, 11, random.integers(0, 13)).tolist() for _ in range(texts_per_row)]
        for _ in range(num_rows)
    ]


def plain_features(row, max_sequence_length, length, layout):
    """The features of one row as lists, step by step as the specification says."""
    first, second = row[0][:], row[1][:] if len(row) == 2 else []
    cls, sep = ([CLS], [SEP]) if layout.add_special_tokens else ([], [])
    while len(cls) + len(row) * len(sep) + len(first) + len(second) > max_sequence_length:
        longer = first if len(first) > len(second) else second
        longer.pop()
    ids = [*cls, *first, *sep]
    segments = [0] * len(ids)
    if len(row) == 2:
        ids += [*second, *sep]
        segments += [1] * (len(second) + len(sep))
    padding = length - len(ids)
    on_padding = int(layout.invert_mask)
    return {
        "input_ids": ids + [PAD if layout.pad_id is None else layout.pad_id] * padding,
        "input_mask": [1 - on_padding] * len(ids) + [on_padding] * padding,
        "segment_ids": segments + [0] * padding,
    }


def batches_of(
    rows,
    batch_size=3,
    max_sequence_length=17,
    num_buckets=3,
    with_weights=True,
    layout=STANDARD_LAYOUT,
):
    """Batches of every row, shuffled."""
    tokens = make_tokens(rows)
    lengths = row_lengths(tokens, max_sequence_length, layout)
    buckets = choose_bucket_lengths(lengths, num_buckets)
    plan = EpochPlan(lengths, batch_size, buckets, shuffle=True, seed=3)
    planned = plan.epoch(0, drop_remainder=not with_weights)
    return make_batches(tokens, SPECIAL, *planned, max_sequence_length, with_weights, layout)


@settings(max_examples=25, deadline=None)
@given(
    num_rows=st.integers(1, 23),
    texts_per_row=st.sampled_from([1, 2]),
    batch_size=st.integers(1, 5),
    max_sequence_length=st.integers(3, 29),
    seed=st.integers(0, 10**6),
    layout=st.just(STANDARD_LAYOUT)
    | st.builds(Layout, st.booleans(), st.booleans(), st.sampled_from([None, 0, 9])),
)
def test_features_are_those_that_plain_python_builds(
    num_rows, texts_per_row, batch_size, max_sequence_length, seed, layout
):
    rows = random_rows(num_rows, texts_per_row, seed)
    batches = batches_of(rows, batch_size, max_sequence_length, layout=layout)
    scored = []
    for step, (features, targets, weights) in enumerate(batches.dataset.as_numpy_iterator()):
        assert set(features) == {"input_ids", "input_mask", "segment_ids"}
        assert weights.tolist() == [float(row >= 0) for row in batches.rows[step]]
        for place, row in enumerate(batches.rows[step]):
            if row < 0:
                continue
            scored.append(row)
            expected = plain_features(
                rows[row], max_sequence_length, batches.shapes[step, 1], layout
            )
            for name, values in expected.items():
                assert features[name][place].tolist() == values, name
            assert targets["labels"][place] == row % 3
    assert sorted(scored) == list(range(num_rows))


def test_a_pair_by_hand():
    tokens = make_tokens([[[20, 21, 22], [30, 31]]])
    rows, lengths = np.array([[0]], np.int32), np.array([9], np.int32)
    ((features, targets),) = make_batches(tokens, SPECIAL, rows, lengths, 9, with_weights=False)
    assert features["input_ids"].numpy().tolist() == [[CLS, 20, 21, 22, SEP, 30, 31, SEP, PAD]]
    assert features["input_mask"].numpy().tolist() == [[0, 0, 0, 0, 0, 0, 0, 0, 1]]  # 1 on padding
    assert features["segment_ids"].numpy().tolist() == [[0, 0, 0, 0, 0, 1, 1, 1, 0]]
    assert targets["labels"].numpy().tolist() == [0]


@pytest.mark.parametrize("texts_per_row", [1, 2])
def test_a_pad_id_within_the_text_is_not_masked(texts_per_row):
    # The original derived the mask from the ids: defect D7.
    batches = batches_of([[[PAD, 9]] * texts_per_row], batch_size=1)
    ((features, _, _),) = batches
    assert (features["input_ids"].numpy() == PAD).sum() == texts_per_row
    assert features["input_mask"].numpy().sum() == 0


@pytest.mark.parametrize("with_weights", [False, True])
def test_everything_is_int32_of_static_batch_size_and_a_few_lengths(with_weights):
    batches = batches_of(random_rows(23, 2, seed=0), with_weights=with_weights)
    features, targets, *weights = batches.dataset.element_spec
    assert all(spec == tf.TensorSpec([3, None], tf.int32) for spec in features.values())
    assert targets == {"labels": tf.TensorSpec([3], tf.int32)}
    assert weights == [tf.TensorSpec([3], tf.float32)] * with_weights
    assert len(list(batches)) == len(batches) == len(batches.shapes)
    for (features, *_), length in zip(batches, batches.shapes[:, 1], strict=True):
        assert {tensor.shape for tensor in features.values()} == {(3, length)}
    assert len(set(batches.shapes[:, 1])) == 3


def test_reading_twice_gives_the_same_batches():
    batches = batches_of(random_rows(13, 2, seed=1))
    for once, again in zip(batches, batches, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, once, again)


@pytest.mark.parametrize("texts_per_row", [1, 2])
def test_a_few_batches_to_score_need_no_dataset_and_are_its_elements(texts_per_row, monkeypatch):
    batches = batches_of(random_rows(13, texts_per_row, seed=1))
    expected = list(batches.dataset.skip(0))
    monkeypatch.setattr(tf.data.Dataset, "from_tensor_slices", None)
    again = batches_of(random_rows(13, texts_per_row, seed=1))
    for once, other in zip(expected, again, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, once, other)
    monkeypatch.setattr("input.batches.MOST_BY_THEMSELVES", 1)
    with pytest.raises(TypeError):
        next(iter(again))


def test_texts_without_any_token_are_special_tokens_and_padding():
    ((features, _, _),) = batches_of([[[], []]] * 2, batch_size=2)
    assert features["input_ids"].numpy().tolist() == [[CLS, SEP, SEP]] * 2
    assert features["segment_ids"].numpy().tolist() == [[0, 0, 1]] * 2


def test_num_tokens_counts_what_is_not_padding():
    batches = batches_of(random_rows(13, 2, seed=2))
    unmasked = np.stack([(1 - batch[0]["input_mask"].numpy()).sum(axis=1) for batch in batches])
    is_real = batches.rows >= 0
    expected = batches.num_tokens[batches.rows[is_real]]
    np.testing.assert_array_equal(unmasked[is_real], expected)
