# SPDX-License-Identifier: Apache-2.0
"""The files of predictions: the original's array, and a table that any text leaves readable."""

import csv
import errno
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.metrics.classification import classification_predictions
from common.metrics.regression import regression_predictions
from common.reports import prediction_files

LABELS = ("negative", "neutral", "positive")
# softmax: (1, 2, 5) / 8 and (1/2, 1/4, 1/4)
LOGITS = np.log([[1, 2, 5], [2, 1, 1]]).astype(np.float32)
AWKWARD = [
    "tab\tin the middle",
    'quotes "within" and \'around\'"',
    "two\nlines\r\nor three",
    "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029 every other line end",
    "",
    "\0zero\\backslash\\t",
    "  spaces  around ",
    "emoji 🙂 é 漢字 \u00a0",
    "=1+1",
]


def write_predictions(folder, name, logits, texts, label_names, temperature=1.0):
    """As a classifier's predictions are written."""
    outputs = {"logits": logits}
    records = classification_predictions(outputs, label_names, temperature)
    return prediction_files.write_predictions(folder, name, outputs, texts, records)


def read_table(path):
    """Rows of a TSV as any reader finds them: lines, cut at tabs."""
    return [line.split("\t") for line in path.read_text("utf-8").split("\n")[:-1]]


def test_the_npz_holds_the_logits_under_the_originals_name(tmp_path):
    npz, _ = write_predictions(tmp_path, "predictions_tf_0", LOGITS, [("a",), ("b",)], LABELS)
    assert npz == tmp_path / "predictions_tf_0.npz"
    with np.load(npz) as arrays:
        assert arrays.files == ["arr_0"]
        assert arrays["arr_0"].dtype == np.float32
        np.testing.assert_array_equal(arrays["arr_0"], LOGITS)


def test_the_table_has_id_text_label_and_probabilities(tmp_path):
    _, tsv = write_predictions(tmp_path / "new", "out", LOGITS, [("so so",), ("no",)], LABELS)
    assert tsv == tmp_path / "new" / "out.tsv"
    assert read_table(tsv) == [
        ["id", "text", "label", "p_negative", "p_neutral", "p_positive"],
        ["0", "so so", "positive", "0.125000", "0.250000", "0.625000"],
        ["1", "no", "negative", "0.500000", "0.250000", "0.250000"],
    ]


def test_a_temperature_divides_the_logits_of_the_probabilities_alone(tmp_path):
    # sqrt(1, 2, 5) = 1, 1.41421, 2.23607, in all 4.65028: shares 0.215, 0.304, 0.481;
    # sqrt(2, 1, 1): shares 1.41421 / 3.41421 = 0.414 and 0.293.
    npz, tsv = write_predictions(tmp_path, "out", LOGITS, [("a",), ("b",)], LABELS, 2.0)
    assert [row[2:] for row in read_table(tsv)[1:]] == [
        ["positive", "0.215041", "0.304114", "0.480846"],
        ["negative", "0.414214", "0.292893", "0.292893"],
    ]
    with np.load(npz) as arrays:
        np.testing.assert_array_equal(arrays["arr_0"], LOGITS)


def test_pairs_have_two_columns(tmp_path):
    _, tsv = write_predictions(tmp_path, "out", LOGITS, [("a", "b"), ("c", "d")], LABELS)
    table = read_table(tsv)
    assert [row[:4] for row in table] == [
        ["id", "text_a", "text_b", "label"],
        ["0", "a", "b", "positive"],
        ["1", "c", "d", "negative"],
    ]


def test_awkward_texts_stay_one_field_of_one_line(tmp_path):
    logits = np.zeros((len(AWKWARD), 3), np.float32)
    _, tsv = write_predictions(tmp_path, "out", logits, [(text,) for text in AWKWARD], LABELS)
    table = read_table(tsv)
    assert [len(row) for row in table] == [6] * (len(AWKWARD) + 1)
    assert len(tsv.read_text("utf-8").splitlines()) == len(table)  # no other line end either
    texts = [row[1] for row in table[1:]]
    assert texts[:3] == [
        "tab in the middle",
        'quotes "within" and \'around\'"',
        "two lines or three",
    ]
    assert texts[3:7] == ["every other line end", "", "zero\\backslash\\t", "spaces around"]


@settings(max_examples=20, deadline=None)
@given(texts=st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=4))
def test_any_text_is_read_back_with_its_words(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("predict")
    logits = np.zeros((len(texts), 2), np.float32)
    _, tsv = write_predictions(folder, "out", logits, texts, ("no", "yes"))
    with open(tsv, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert len(rows) == len(texts)
    for row, (first, second) in zip(rows, texts, strict=True):
        assert row["text_a"].split() == first.replace("\0", " ").split()
        assert row["text_b"].split() == second.replace("\0", " ").split()


def test_extreme_logits_give_probabilities_all_the_same(tmp_path):
    logits = np.array([[3e38, -3e38], [-1e4, 1e4]], np.float32)
    _, tsv = write_predictions(tmp_path, "out", logits, [("a",), ("b",)], ("no", "yes"))
    assert [row[2:] for row in read_table(tsv)[1:]] == [
        ["no", "1.000000", "0.000000"],
        ["yes", "0.000000", "1.000000"],
    ]


def test_as_many_texts_as_rows_are_needed(tmp_path):
    with pytest.raises(ValueError):
        write_predictions(tmp_path, "out", LOGITS, [("only one",)], LABELS)
    assert list(tmp_path.iterdir()) == []


def test_former_files_are_replaced_and_stay_whole_where_writing_fails(tmp_path, monkeypatch):
    texts = [("a",), ("b",)]
    paths = write_predictions(tmp_path, "out", LOGITS, texts, LABELS)
    before = {path: path.read_bytes() for path in paths}

    def no_space(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_predictions(tmp_path, "out", LOGITS * 2, texts, LABELS)
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in paths} == before
    assert sorted(tmp_path.iterdir()) == sorted(paths)  # nothing half written beside them
    write_predictions(tmp_path, "out", LOGITS * 2, texts, LABELS)
    assert all(path.read_bytes() != before[path] for path in paths)


def test_a_regression_has_its_value_and_no_probability(tmp_path):
    outputs = {"logits": np.array([[1.25], [-3.0]], np.float32)}
    records = regression_predictions(outputs)
    texts = [("a",), ("b",)]
    _, tsv = prediction_files.write_predictions(tmp_path, "out", outputs, texts, records)
    assert read_table(tsv) == [
        ["id", "text", "value"],
        ["0", "a", "1.250000"],
        ["1", "b", "-3.000000"],
    ]


def test_a_task_with_several_outputs_has_each_by_its_name(tmp_path):
    outputs = {"starts": np.arange(2.0), "ends": np.arange(2.0) + 1}
    records = [{"answer": "x"}, {"answer": "y"}]
    texts = [("a",), ("b",)]
    npz, _ = prediction_files.write_predictions(tmp_path, "out", outputs, texts, records)
    with np.load(npz) as arrays:
        assert sorted(arrays.files) == ["ends", "starts"]
        np.testing.assert_array_equal(arrays["ends"], outputs["ends"])


def test_a_label_with_tabs_and_line_ends_stays_one_field(tmp_path):
    labels = ("plain", "tab\tin it", "two\r\nlines\0")
    _, tsv = write_predictions(tmp_path, "out", LOGITS, [("a",), ("b",)], labels)
    head, first, _ = read_table(tsv)
    assert head[2:] == ["label", "p_plain", "p_tab in it", "p_two lines"]
    assert first[:3] == ["0", "a", "two lines"]
