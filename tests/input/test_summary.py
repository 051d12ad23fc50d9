# SPDX-License-Identifier: Apache-2.0
"""input/summary.py: what a run's rows hold is counted as by hand."""

import numpy as np
import pytest

from common.tasks.regression import ValueTargets
from common.tasks.targets import ClassTargets
from input.summary import row_hashes, summarize
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
