# SPDX-License-Identifier: Apache-2.0
"""Files of one's own, from end to end, and the examples of docs/input.md."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from common.params import Params
from common.reports.listeners import standard_listeners
from common.training.checks import set_up
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
    session = open_session(params)
    set_up(session.run)
    listeners = standard_listeners(session.model_dir, session.run.log_steps)
    result = Trainer(session, session.new_model(), listeners).train()
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
    assert list(table[0]) == ["id", "text", "value"]
    assert [row["text"] for row in table] == [text for text, _ in rows]
    np.testing.assert_allclose([float(row["value"]) for row in table], values, atol=1e-6)
