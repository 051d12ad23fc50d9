# SPDX-License-Identifier: Apache-2.0
"""Prediction: every row in its order, in files and as lines."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from common.checkpoints.load import open_checkpoint
from common.training import predictor
from tests.reference.toy_session import (
    LABELS,
    SPLITS,
    logits_in_rows,
    make_evaluator,
    make_params,
)


def predict(params, model_dir, **values):
    """Returns the Result, and the network with the checkpoint's weights."""
    inference = make_evaluator(params, checkpoint=open_checkpoint(model_dir), **values).inference
    return predictor.predict(inference.session, inference), inference.model


def test_predictions_are_those_of_the_checkpoint_for_every_row(trained, tmp_path):
    result, model = predict(make_params(tmp_path, mode="predict"), trained)
    for number, tokens in enumerate(SPLITS.values()):
        expected = logits_in_rows(model, tokens)
        path = tmp_path / "predict" / f"predictions_tf_{number}"
        logits = np.load(f"{path}.npz")["arr_0"]
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
        with open(f"{path}.tsv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        assert [row["text"] for row in rows] == [f"text {i}" for i in range(len(tokens))]
        assert [row["label"] for row in rows] == [LABELS[i] for i in expected.argmax(axis=1)]
        truths = tokens.targets["labels"]
        assert [row["label_true"] for row in rows] == [LABELS[i] for i in truths]
        is_right = expected.argmax(axis=1) == truths
        assert [row["correct"] for row in rows] == ["yes" if right else "no" for right in is_right]
    assert result.num_examples == 21 and len(result.written) == 4
    assert result.output == ()  # the splits go to files alone


def test_what_is_special_about_a_checkpoint_is_told_before_it_is_used(trained, tmp_path, capsys):
    checkpoint = open_checkpoint(trained)
    config = checkpoint.config | {"notes": ["tokenizer: 1 token added"]}
    checkpoint = replace(checkpoint, config=config)
    evaluator = make_evaluator(make_params(tmp_path, mode="eval"), checkpoint=checkpoint)
    evaluator.inference.load(checkpoint)
    assert "tokenizer: 1 token added\n" in capsys.readouterr().err


def test_predictions_that_cannot_be_written_are_lines_and_the_result_says_so(trained, tmp_path):
    (tmp_path / "predict").write_text("in the place of the folder")
    result, _ = predict(make_params(tmp_path, mode="predict"), trained)
    assert len(result.output) == 21 and result.output[0].endswith("\ttext 0")
    assert result.written == () and result.exit_code == 1
    assert "predictions_tf_0 could not be written: [Errno " in result.not_written[0]


def test_given_texts_have_a_line_each(trained, tmp_path):
    texts = [("text 0",), ("text 1",)]
    result, model = predict(make_params(tmp_path, mode="predict"), trained, texts=texts)
    logits = logits_in_rows(model, SPLITS["validation_matched"])[0]
    share = np.exp(logits.max()) / np.exp(logits).sum()
    assert result.output[0] == f"{LABELS[logits.argmax()]}\t{share:.4f}\ttext 0"
    assert result.lines == ()  # a text is answered by its line alone
    assert result.predictions[0]["texts"] == ("text 0",)
    assert result.predictions[0][f"p_{LABELS[logits.argmax()]}"] == pytest.approx(share, abs=1e-6)


def test_a_label_with_a_tab_leaves_the_columns_of_a_line_alone(trained, tmp_path):
    labels = ("with\ttab", "and\ttab")
    params = make_params(tmp_path, mode="predict")
    result, _ = predict(params, trained, texts=[("text 0",)] * 13, label_names=labels)
    label, share, text = result.output[0].split("\t")
    assert label in ("with tab", "and tab") and 0.5 <= float(share) <= 1 and text == "text 0"
