# SPDX-License-Identifier: Apache-2.0
"""Files of one's own, from end to end, and the examples of docs/input.md."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

import data
from common.checkpoints.load import open_checkpoint
from common.checkpoints.store import newest_checkpoint
from common.params import Params
from common.training.estimator import Estimator
from model import make_model, model_fn
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
    for word in ("TextFileDataProcessor", "TfdsDataProcessor", "task: regression"):
        assert word in text


def test_a_regression_on_files_is_trained_scored_and_predicted(tmp_path):
    """How many of the words are `a`: 2 words, so that a few steps tell more from fewer."""
    rows = [(f"{x} {y}", (x == "a") + (y == "a") + 0.5) for x in "abcd" for y in "abcd"]
    with open(tmp_path / "rows.tsv", "w") as file:
        file.write("words\tscore\n" + "".join(f"{text}\t{score}\n" for text, score in rows))
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
    params, label_names, vocab = data.complete_params(params, {}, "params.yaml")
    estimator = Estimator(params, model_fn, make_model, label_names, vocab)
    assert estimator.train(data.train_input_fn, None, None, data.eval_input_fn) == 0
    lines = (tmp_path / "model_dir" / "metrics.jsonl").read_text().splitlines()
    (metrics,) = [line for line in map(json.loads, lines) if line["split"] == "eval"]
    report = json.loads((tmp_path / "model_dir/eval/report-validation.json").read_text())
    assert report["pearson"] == metrics["eval/pearson"] > 0.9
    assert report["spearman"] == metrics["eval/spearman"] > 0.7
    assert metrics["loss"] == metrics["eval/mse"] < 0.2  # the labels' variance is 0.375

    checkpoint = open_checkpoint(newest_checkpoint(tmp_path / "model_dir"))
    batches, texts = data.predict_input_fn(params)
    logits = estimator.predict(batches, texts, checkpoint)["validation"]
    values = logits[:, 0]
    assert np.mean((values - [score for _, score in rows]) ** 2) == pytest.approx(metrics["loss"])
    with open(tmp_path / "model_dir/predict/predictions_tf_0.tsv", newline="") as file:
        table = list(csv.DictReader(file, delimiter="\t"))
    assert list(table[0]) == ["id", "text", "value"]
    assert [row["text"] for row in table] == [text for text, _ in rows]
    np.testing.assert_allclose([float(row["value"]) for row in table], values, atol=1e-6)
