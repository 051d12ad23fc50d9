# SPDX-License-Identifier: Apache-2.0
"""Export of a checkpoint, and what int8 costs."""

import json

import numpy as np
import pytest

from common.checkpoints.load import open_checkpoint
from common.reports.metrics_file import read_evaluation
from common.training.exporter import export_checkpoint
from tests.reference.toy_session import (
    DATA,
    SPLITS,
    eval_input_fn,
    logits_in_rows,
    make_evaluator,
    make_params,
    metrics_in_numpy,
)


@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_what_int8_costs_is_measured_on_every_row_printed_and_kept(format, trained, tmp_path):
    if format == "onnx":
        pytest.importorskip("onnxruntime", reason="pip install onnx onnxruntime")
    params, folder = make_params(tmp_path, mode="export"), tmp_path / "out"
    evaluator = make_evaluator(params, checkpoint=open_checkpoint(trained))
    result = export_checkpoint(evaluator, format, folder, "int8")
    figures = json.loads((folder / "export.json").read_text())["metrics_of_files"]
    logits = np.concatenate([logits_in_rows(evaluator.model, tokens) for tokens in SPLITS.values()])
    labels = np.concatenate([tokens.targets["labels"] for tokens in SPLITS.values()])
    for name, value in metrics_in_numpy(logits, labels).items():
        assert figures[f"model.{format}"][name] == pytest.approx(value, abs=1e-5)
    before, after = (
        figures[f"{name}.{format}"]["eval/accuracy_cls"] for name in ("model", "model_int8")
    )
    lines = dict(result.lines)
    scored = f"accuracy {before:.4f} ({round(21 * before)} of 21)"
    assert lines[f"model.{format}"].startswith(scored)
    assert lines["Lost to int8"].startswith(f"{before - after:.4f} of accuracy")
    assert lines["Lost to int8"].endswith("another label")
    head = f"| evaluation | `model.{format}` | `model_int8.{format}` |"
    assert head in (folder / "README.md").read_text()


def test_files_are_scored_on_padded_rows_where_our_evaluation_packs_them(
    trained, tmp_path, monkeypatch
):
    pytest.importorskip("onnxruntime", reason="pip install onnx onnxruntime")
    params, asked = make_params(tmp_path, mode="export"), []
    packed = params.eval_input.model_copy(update={"packing": "packed"})
    params = params.model_copy(update={"eval_input": packed})
    read = DATA.eval_input_fn
    monkeypatch.setattr(
        DATA, "eval_input_fn", lambda p: asked.append(p.eval_input.packing) or read(p)
    )
    evaluator = make_evaluator(params, checkpoint=open_checkpoint(trained))
    export_checkpoint(evaluator, "onnx", tmp_path / "onnx", "int8")
    assert asked == ["buckets"]


def test_the_card_has_the_whole_evaluation_of_its_own_checkpoint(model_dir, tmp_path):
    step = 12
    checkpoint = open_checkpoint(model_dir / "checkpoint-12")
    evaluator = make_evaluator(make_params(model_dir, mode="export"), checkpoint=checkpoint)
    evaluator.inference.load(checkpoint)
    evaluator.evaluate(eval_input_fn(None), step)
    evaluator.listeners.close()
    figures, _ = read_evaluation(model_dir, step)
    export_checkpoint(evaluator, "keras", tmp_path / "keras")
    manifest = json.loads((tmp_path / "keras" / "export.json").read_text())
    assert manifest["step"] == step and manifest["metrics"] == pytest.approx(figures)
    assert manifest["evaluation"]["checkpoint"] == "checkpoint-12"
    card = (tmp_path / "keras" / "README.md").read_text()
    assert "21 rows: toy rows." in card
    (of_class, *_) = json.loads((model_dir / "eval/report-validation.json").read_text())[
        "per_class"
    ]
    assert f"| {of_class['label']} | {of_class['precision']:.4f} |" in card
