# SPDX-License-Identifier: Apache-2.0
"""Files of one's own, from end to end, and the examples of docs/input.md."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from common.params import Params
from common.reports.listeners import standard_listeners
from common.training.checks import set_up
from common.training.evaluator import Evaluator
from common.training.inference import Inference
from common.training.predictor import predict
from common.training.trainer import Trainer
from session import open_session
from utils import get_params

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "input.md").read_text("utf-8"), re.S)
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh"]


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_examples_of_the_documentation_are_accepted_whole(number, tmp_path, capsys):
    path = tmp_path / "params.yaml"
    path.write_text(EXAMPLES[number])
    params = get_params(path, {"runconfig.mode": "train_and_eval"})
    assert params.train_input.max_sequence_length
    assert capsys.readouterr().err == ""  # no key that does nothing


def test_there_are_examples_of_every_processor_and_task():
    text = "\n".join(EXAMPLES)
    for word in (
        "TextFileDataProcessor",
        "TfdsDataProcessor",
        "task: regression",
        "task: multi_label",
    ):
        assert word in text


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_several_labels_a_row_are_trained_tuned_scored_predicted_and_exported(
    tmp_path, suffix, capsys
):
    """A row has the label of each of its words; `d` has none."""
    names = {"a": "first", "b": "second", "c": "third"}
    texts = [f"{x} {y}" for x in "abcd" for y in "abcd"]
    labels = [sorted({names[word] for word in text.split() if word in names}) for text in texts]
    lines = [
        json.dumps({"words": t, "topics": found}) for t, found in zip(texts, labels, strict=True)
    ]
    if suffix == ".csv":
        found = ["; ".join(row) for row in labels]
        lines = ["words,topics", *map(",".join, zip(texts, found, strict=True))]
    file = tmp_path / f"rows{suffix}"
    file.write_text("\n".join(lines) + "\n")
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    params = Params.model_validate(
        {
            "train_input": {
                "data_processor": "TextFileDataProcessor",
                "task": "multi_label",
                "train_file": str(file),
                "eval_file": str(file),
                "text_columns": ["words"],
                "label_column": "topics",
                "label_separator": ";" if suffix == ".csv" else None,
                "vocab_file": str(tmp_path / "vocab.txt"),
                "cache_dir": str(tmp_path / "cache"),
                "max_sequence_length": 4,
                "batch_size": 8,
                "num_buckets": 1,
            },
            "model": {
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_heads": 2,
                "filter_size": 16,
                "dropout_rate": 0,
            },
            "optimizer": {"learning_rate": 3e-3, "use_bias_correction": True},
            "runconfig": {
                "mode": "train_and_eval",
                "max_steps": 60,
                "tf_random_seed": 1,
                "tune_thresholds": True,
                "best_metric": "eval/macro_f1",
                "model_dir": str(tmp_path / "model_dir"),
            },
        }
    )
    session = open_session(params)
    assert session.label_names == ("first", "second", "third")
    set_up(session.run)
    listeners = standard_listeners(session.model_dir, session.run.log_steps)
    result = Trainer(session, session.new_model(), listeners).train()
    assert result.figures["eval/macro_f1"] > 0.8 and result.figures["loss"] < 0.5
    report = json.loads((tmp_path / "model_dir/eval/report-validation.json").read_text())
    assert [row["support"] for row in report["per_class"]] == [7, 7, 7]
    assert "  class   precision  recall      f1  threshold  examples" in capsys.readouterr().err

    session = open_session(params.with_runconfig(mode="predict"))
    thresholds = session.checkpoint.config["thresholds"]
    predict(session, Inference(session, session.new_model()))
    logits = np.load(tmp_path / "model_dir/predict/predictions_tf_0.npz")["arr_0"]
    with open(tmp_path / "model_dir/predict/predictions_tf_0.tsv", newline="") as table:
        rows = list(csv.DictReader(table, delimiter="\t"))
    separator = ";" if suffix == ".csv" else ", "
    for row, z in zip(rows, logits.astype(float), strict=True):
        found = [
            n
            for n, x, t in zip(session.label_names, z, thresholds, strict=True)
            if 1 / (1 + np.exp(-x)) >= t
        ]
        assert row["label"] == separator.join(found)
        assert float(row["p_third"]) == pytest.approx(1 / (1 + np.exp(-z[2])), abs=1e-6)

    session = open_session(params.with_runconfig(mode="eval"))
    evaluator = Evaluator(Inference(session, session.new_model()))
    tuned = evaluator.evaluate_checkpoint().figures["eval/macro_f1"]
    assert tuned >= result.figures["eval/macro_f1"]

    wrong = params.model_copy(
        update={
            name: section.model_copy(update={"task": "classification", "label_separator": None})
            for name, section in params.inputs.items()
        }
    )
    with pytest.raises(UserError, match="a model for multi_label, but task is classification"):
        open_session(wrong.with_runconfig(mode="predict", tune_thresholds=False))


def test_a_regression_on_files_is_trained_scored_and_predicted(tmp_path, capsys):
    """How many of the words are `a`: 2 words, so that a few steps tell more from fewer."""
    rows = [(f"{x} {y}", (x == "a") + (y == "a") + 0.5) for x in "abcd" for y in "abcd"]
    with open(tmp_path / "rows.tsv", "w") as file:
        file.write("ticket\twords\tscore\n")
        file.writelines(f"T-{i}\t{text}\t{score}\n" for i, (text, score) in enumerate(rows))
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    params = Params.model_validate(
        {
            "train_input": {
                "data_processor": "TextFileDataProcessor",
                "task": "regression",
                "train_file": str(tmp_path / "rows.tsv"),
                "eval_file": str(tmp_path / "rows.tsv"),
                "text_columns": ["words"],
                "label_column": "score",
                "id_columns": "ticket",
                "vocab_file": str(tmp_path / "vocab.txt"),
                "cache_dir": str(tmp_path / "cache"),
                "max_sequence_length": 4,
                "batch_size": 8,
                "num_buckets": 1,
                "invert_mask": False,
            },
            "model": {
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_heads": 2,
                "filter_size": 16,
                "dropout_rate": 0,
            },
            "optimizer": {"learning_rate": 2e-3, "use_bias_correction": True},
            "runconfig": {
                "mode": "train_and_eval",
                "max_steps": 150,
                "tf_random_seed": 1,
                "model_dir": str(tmp_path / "model_dir"),
            },
        }
    )
    session = open_session(params)
    set_up(session.run)
    listeners = standard_listeners(session.model_dir, session.run.log_steps)
    result = Trainer(session, session.new_model(), listeners).train()
    told = capsys.readouterr().err
    for split in ("train", "validation"):
        assert f"Data {split}: 16 rows (values 0.5 to 2.5, mean 1); 4 to 4 tokens" in told
    assert "  rows that are in train, too: 16\n" in told
    assert ("pearson", f"{result.figures['eval/pearson']:.4f}") in result.lines
    lines = (tmp_path / "model_dir" / "metrics.jsonl").read_text().splitlines()
    (metrics,) = [line for line in map(json.loads, lines) if line["split"] == "eval"]
    report = json.loads((tmp_path / "model_dir/eval/report-validation.json").read_text())
    assert report["pearson"] == metrics["eval/pearson"] > 0.9
    assert report["spearman"] == metrics["eval/spearman"] > 0.7
    assert metrics["loss"] == metrics["eval/mse"] < 0.2  # the labels' variance is 0.375

    session = open_session(params.with_runconfig(mode="predict"))
    predict(session, Inference(session, session.new_model()))
    logits = np.load(tmp_path / "model_dir/predict/predictions_tf_0.npz")["arr_0"]
    values = logits[:, 0]
    assert np.mean((values - [score for _, score in rows]) ** 2) == pytest.approx(metrics["loss"])
    with open(tmp_path / "model_dir/predict/predictions_tf_0.tsv", newline="") as file:
        table = list(csv.DictReader(file, delimiter="\t"))
    assert list(table[0]) == ["id", "ticket", "text", "value", "value_true", "error", "place"]
    scored = (tmp_path / "model_dir/eval/rows_validation.tsv").read_text().splitlines()
    assert scored[0].split("\t") == list(table[0])
    for lines in ([list(row.values()) for row in table], [row.split("\t") for row in scored[1:]]):
        assert [line[1] for line in lines] == [f"T-{i}" for i in range(len(rows))]
    assert [row["text"] for row in table] == [text for text, _ in rows]
    np.testing.assert_allclose([float(row["value"]) for row in table], values, atol=1e-6)

    session = open_session(params.with_runconfig(mode="predict"), texts=["a b c d e", "a"])
    result = predict(session, Inference(session, session.new_model()))
    cut = "max_sequence_length cuts 1 of 2 rows (50.0%), tokens lost: 3"
    assert ("Cut", cut) in result.lines

    (tmp_path / "new.csv").write_text('words,ticket\n"a b",1\n"c\nd",2\n')
    session = open_session(params.with_runconfig(mode="predict"), input_file=tmp_path / "new.csv")
    result = predict(session, Inference(session, session.new_model()))
    assert [line.split("\t")[1] for line in result.output] == ["a b", "c d"]
