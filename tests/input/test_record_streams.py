# SPDX-License-Identifier: Apache-2.0
"""Records from a params file to batches: every processor, whole evaluations, exact positions."""

import numpy as np
import pytest

import data
from common.errors import UserError
from tests.reference.records import example, write_file
from tests.reference.toy_records import (
    BATCH,
    DYNAMIC,
    LENGTH,
    MASK,
    NUM_ROWS,
    PAIRS,
    SEED,
    STATIC,
    params_of,
    row_of,
    write_records,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    write_records(folder)
    return folder


def rows_of(batches):
    """{number that a row says: its masked positions and what stood there}, of padded batches."""
    rows = {}
    for features, targets, *weights in batches:
        ids = features["input_ids"].numpy().copy()
        is_masked = targets["masked_lm_weights"].numpy() > 0
        positions, labels = (
            features["masked_lm_positions"].numpy(),
            targets["masked_lm_ids"].numpy(),
        )
        for row, column in np.argwhere(is_masked):
            ids[row, positions[row, column]] = labels[row, column]
        for row, number in enumerate((ids[:, 1] - 5).tolist()):
            if weights and not weights[0][row]:
                continue  # filler
            assert number not in rows
            masked = positions[row][is_masked[row]].tolist()
            rows[number] = masked, labels[row][is_masked[row]].tolist()
    return rows


@pytest.mark.parametrize(
    "processor, packing",
    [(PAIRS, "packed"), (STATIC, "buckets"), (DYNAMIC, "none"), (DYNAMIC, "packed")],
)
def test_every_row_is_scored_once_and_every_epoch_has_whole_batches(processor, packing, folder):
    """Defect P8: the original drops the rows after the last whole batch of every bucket."""
    keys = {"train_input__packing": packing, "eval_input__packing": packing}
    params = params_of(folder, processor, **keys)
    scored = 0
    for features, targets, weights in data.eval_input_fn(params)["validation"]:
        scored += int(weights.numpy().sum())
        assert features["masked_lm_positions"].shape == targets["masked_lm_ids"].shape
        # Defect P3: without pairs, the original's label is memory that nobody has written.
        assert ("next_sentence_labels" in targets) == (processor == PAIRS)
    assert scored == 11
    steps = data.batches_per_epoch(params)
    assert steps == NUM_ROWS // BATCH
    batches = list(data.train_input_fn(params, 0, steps))
    assert len(batches) == steps
    assert all(targets["masked_lm_weights"].numpy().sum() > 0 for _, targets in batches)
    if packing != "packed":
        assert len(rows_of(batches)) == BATCH * steps


def test_the_masks_of_the_file_are_those_of_the_batches(folder):
    found = rows_of(data.train_input_fn(params_of(folder), 0, NUM_ROWS // BATCH))
    random = np.random.default_rng(SEED)
    for number in range(NUM_ROWS):
        row = row_of(number, random)
        size = int(sum(row["masked_lm_weights"]))
        masks = row["masked_lm_positions"][:size], row["masked_lm_ids"][:size]
        assert found.get(number, masks) == masks


def test_packed_masks_stand_on_the_masks(folder):
    params = params_of(folder, eval_input__packing="packed")
    (batches,) = data.eval_input_fn(params).values()
    assert batches.is_packed
    num_masked = 0
    for features, targets, _ in batches:
        ids, positions = features["input_ids"].numpy(), features["masked_lm_positions"].numpy()
        for row, column in np.argwhere(targets["masked_lm_weights"].numpy() > 0):
            assert ids[row, positions[row, column]] == MASK
            num_masked += 1
        num_masked -= np.count_nonzero(ids == MASK)
    assert num_masked == 0


@pytest.mark.parametrize("processor", [PAIRS, DYNAMIC])
def test_training_goes_on_at_a_step_with_the_same_batches(processor, folder):
    """Defect P7: the original's dynamic masks depend on the order in which threads draw them."""
    params = params_of(folder, processor)
    whole, rest = (list(data.train_input_fn(params, step, 8)) for step in (0, 6))
    assert len(rest) == 2
    for (features, targets), (again, same) in zip(whole[6:], rest, strict=True):
        for name in features:
            np.testing.assert_array_equal(features[name], again[name])
        for name in targets:
            np.testing.assert_array_equal(targets[name], same[name])


def test_dynamic_masks_change_with_the_epoch_and_not_with_an_evaluation(folder):
    steps = NUM_ROWS // BATCH
    params = params_of(folder, DYNAMIC)
    found = rows_of(data.train_input_fn(params, 0, steps))
    again = rows_of(data.train_input_fn(params, steps, 2 * steps))
    assert any(found[number] != again[number] for number in found.keys() & again.keys())
    once, twice = (rows_of(data.eval_input_fn(params)["validation"]) for _ in range(2))
    assert once == twice


def test_rows_are_padded_to_the_lengths_that_buckets_names(folder):
    params = params_of(folder, train_input__buckets=[7, 10])
    batches = data.train_input_fn(params, 0, 20)
    lengths = {features["input_ids"].shape[1] for features, _ in batches}
    assert lengths <= {7, 10, LENGTH}
    assert len(lengths) > 1
    equal = params_of(folder, train_input__buckets=2).train_input
    assert equal.bucket_lengths == (7, LENGTH)  # 6.5, rounded up


def test_bad_records_that_are_skipped_are_listed(folder, tmp_path, capsys):
    bad = row_of(0, np.random.default_rng(0)) | {"next_sentence_labels": [7]}
    good = [row_of(i, np.random.default_rng(i)) for i in range(5)]
    write_file(tmp_path / "a.tfrecord", map(example, [*good, bad]))
    keys = {"train_input__data_dir": str(tmp_path), "train_input__on_bad_row": "skip"}
    params = params_of(folder, mode="train", runconfig__model_dir=str(tmp_path), **keys)
    assert data.batches_per_epoch(params) == 1
    list(data.train_input_fn(params, 0, 1))
    assert "1 skipped in split train" in capsys.readouterr().err
    listed = (tmp_path / "skipped_rows_train.txt").read_text()
    assert listed.startswith(f"{tmp_path}/a.tfrecord, record 5: ")


# ---- Keys that contradict each other -------------------------------------------------------------


@pytest.mark.parametrize(
    "processor, keys, told",
    [
        (STATIC, {"model__disable_nsp": False}, "model.disable_nsp: is false"),
        (PAIRS, {"train_input__masked_lm_prob": 0.3}, "are masked already"),
        (PAIRS, {"train_input__eval_fraction": 0.1}, "eval_fraction: 0.1 holds no records out"),
        (PAIRS, {"train_input__buckets": [4, 99]}, "not all below max_sequence_length 13"),
        (
            PAIRS,
            {"train_input__buckets": 3, "train_input__packing": "packed"},
            "buckets: is 3, but packing is packed",
        ),
    ],
)
def test_keys_that_contradict_each_other_are_refused(processor, keys, told, folder):
    with pytest.raises(UserError) as caught:
        params_of(folder, processor, **keys)
    assert told in str(caught.value)


def test_records_are_not_scored_that_are_trained_on(folder):
    with pytest.raises(UserError, match=r"eval_input\.data_dir: is that of train_input"):
        params_of(folder, eval_input__data_dir=str(folder / "pairs" / "train"))
    params_of(folder, mode="train", eval_input__data_dir=str(folder / "pairs" / "train"))


def test_a_list_of_folders_is_for_records(folder):
    folders = [str(folder / "pairs" / split) for split in ("train", "validation")]
    params = params_of(folder, train_input__data_dir=folders)
    assert data.batches_per_epoch(params) == (NUM_ROWS + 11) // BATCH
    with pytest.raises(UserError, match="is a list, but Sst2DataProcessor reads one folder"):
        params_of(folder, "Sst2DataProcessor", train_input__data_dir=folders)


def test_the_key_of_the_originals_readme_is_told_from_the_one_that_it_reads(folder):
    """Defect P2: its README names enable_vsl, and its code reads use_vsl."""
    with pytest.raises(UserError, match=r"model\.enable_vsl: unknown key"):
        params_of(folder, model__enable_vsl=True)
    assert params_of(folder, model__use_vsl=True).model.use_vsl
