# SPDX-License-Identifier: Apache-2.0
"""input/summary.py: what a run's rows hold is counted as by hand."""

import numpy as np
import pytest

from common.params.inputs import InputParams
from common.tasks.regression import ValueTargets
from common.tasks.targets import ClassTargets
from input.summary import notes_on_rows, row_hashes, summarize
from input.token_cache import Tokens
from tests.reference.toy_rows import MAX_SEQUENCE_LENGTH, toy_eval_batches


def tokens_of(rows, labels, dtype=np.int32):
    """Tokens of rows, each a tuple of one or two lists of ids."""
    texts = [text for row in rows for text in row]
    offsets = np.cumsum([0, *map(len, texts)])
    targets = {"labels": np.array(labels, dtype)}
    ids = np.array([number for text in texts for number in text], np.int32)
    return Tokens(ids, offsets, targets, len(rows[0]))


LONG = list(range(4, 17))  # 13 tokens, of which 9 stay between [CLS] and [SEP]
TRAIN = [([5],), ([5],), ([6, 7],), ([5],), (LONG,), (LONG[:12],), ([6, 7],)]
LABELS = [0, 0, 1, 1, 0, 0, 1]
NEW = [([6, 7],), ([7, 6],), ([5],), ([],)]


def test_rows_classes_repetitions_contradictions_and_cuts_are_counted():
    batches = {
        "train": toy_eval_batches(tokens_of(TRAIN, LABELS), 2),
        "dev": toy_eval_batches(tokens_of(NEW, [1, 1, 0, 1]), 2),
    }
    train, dev = summarize(batches, ClassTargets(("cat", "dog")))
    assert train.lines == [
        # Lengths with two special tokens: 3 3 4 3 15 14 4.
        "Data train: 7 rows (cat 4, dog 3); 3 to 15 tokens, median 4; 28.6% of the rows are cut",
        "  rows that repeat an earlier one: 3; texts with different labels: 1",
    ]
    assert (train.num_repeated, train.num_contradicting, train.num_in_train) == (3, 1, 0)
    assert (dev.num_repeated, dev.num_contradicting, dev.num_in_train) == (0, 0, 2)
    assert dev.lines[1] == "  rows that are in train, too: 2"
    cut = 13 - 9 + 12 - 9
    assert batches["train"].truncation == (
        f"max_sequence_length cuts 2 of 7 rows (28.6%), tokens lost: {cut}"
    )
    assert MAX_SEQUENCE_LENGTH == 11 and batches["dev"].truncation == ""


def test_the_two_texts_of_a_pair_are_told_apart():
    rows = [([5], [6, 7]), ([5, 6], [7]), ([5], [6, 7]), ([], [5, 6, 7])]
    hashes = row_hashes(tokens_of(rows, [0] * 4))
    assert len(set(hashes)) == 3 and hashes[0] == hashes[2]


def test_values_are_summed_up_and_contradict_one_another():
    tokens = tokens_of([([5],), ([5],), ([6],)], [0.5, 2, 2.75], np.float32)
    (summary,) = summarize({"validation": toy_eval_batches(tokens, 3)}, ValueTargets(("value",)))
    assert summary.labels == "values 0.5 to 2.75, mean 1.75"
    assert (summary.num_repeated, summary.num_contradicting) == (1, 1)


@pytest.mark.parametrize("count,shown", [(20, "c19 0"), (21, "...; 21 classes of 0 to 2 rows")])
def test_many_classes_are_listed_in_part(count, shown):
    targets = ClassTargets(tuple(f"c{n}" for n in range(count)))
    text = targets.describe({"labels": np.array([0, 0, 1], np.int32)})
    assert text.startswith("c0 2, c1 1, c2 0, ") and text.endswith(shown)


def test_one_row_is_written_in_the_singular():
    batches = {"train": toy_eval_batches(tokens_of([(LONG,)], [0]), 1)}
    (summary,) = summarize(batches, ClassTargets(("cat", "dog")))
    assert summary.lines[0].startswith("Data train: 1 row (cat 1, dog 0); 15 to 15 tokens")
    assert batches["train"].truncation.startswith("max_sequence_length cuts 1 of 1 row (100.0%)")


def notes_of(num_rows=64, names=("cat", "dog"), **keys):
    given = {"data_processor": "Sst2DataProcessor", "data_dir": "x", "max_sequence_length": 9}
    return notes_on_rows(InputParams(**given, batch_size=32, **keys), num_rows, names)


def test_rows_that_no_batch_has_are_told_where_they_are_many():
    assert notes_of() == notes_of(2603) == []  # 81 batches, and 11 rows
    (note,) = notes_of(54)  # one batch
    assert note.startswith("each epoch leaves out 22 of 54 rows") and "whole batches of 32" in note


def test_numbers_as_classes_are_told_unless_they_are_whole_or_named():
    (note,) = notes_of(names=("0.2", "0.4", "1"))
    assert note.startswith("each number is a class of its own (0.2, 0.4, 1, ...)")
    assert "--override '*_input.task=regression'" in note
    for names in (("0", "1", "2"), ("0.5", "high"), None):
        assert notes_of(names=names) == []
    assert notes_of(names=("0.2", "0.4"), label_names=["0.2", "0.4"]) == []
    assert notes_of(names=("value",), task="regression") == []
