# SPDX-License-Identifier: Apache-2.0
"""Export of a checkpoint for other programs, with what is known of it and what it costs."""

import time
from pathlib import Path

from common.checkpoints.small_files import read_params_yaml
from common.errors import UserError
from common.export.export import Classifier, export
from common.export.formats import EXPORT_FORMATS
from common.metrics.row_metrics import figure_name
from common.reports.evaluation_report import read_report
from common.reports.metrics_file import read_evaluation
from common.training.inference import sorted_by_length
from common.training.result import Result


def export_checkpoint(evaluator, export_format, export_dir=None, quantize=None):
    """Writes the session's checkpoint, and scores it again where it is quantized. Returns Result.

    Args:
        evaluator: Evaluator, whose session has a checkpoint, and params in float32.
        export_format, quantize: as `common/export/export.py`.
        export_dir: path-like; None is export/<format> in model_dir.
    """
    started, session, model = time.monotonic(), evaluator.session, evaluator.model
    params, data, path = session.params, session.data, session.checkpoint.path
    text_features = data.get_text_features(params)
    evaluator.inference.load(session.checkpoint)
    calibration = model.fold_calibration()
    step = session.checkpoint.config.get("step")
    # Of a checkpoint of model_dir alone: what the run measured, and its params.
    is_known = Path(path).resolve().is_relative_to(session.model_dir.resolve())
    figures, facts = read_evaluation(session.model_dir, step) if is_known else ({}, {})
    reports = [read_report(session.model_dir, folder) for folder in ("", f"checkpoint-{step}")]
    of_figures = [
        report
        for report in reports
        if report.get("step") == step and report.get("loss") == figures.get("loss")
    ]
    classifier = Classifier(
        model,
        params,
        session.vocab,
        text_features,
        figures,
        step,
        quantize,
        data.describe(params.predict_input),
        (is_known and read_params_yaml(session.model_dir)) or None,
        facts,
        of_figures[0].get("per_class", []) if of_figures else [],
        calibration,
    )
    batches_of_split, comparison = None, []
    if quantize is not None:
        try:
            batches_of_split = data.eval_input_fn(
                sorted_by_length(params.with_runconfig(eval_steps=None), "eval_input")
            )
        except UserError as error:  # the export itself needs no data
            comparison.append(("Not scored", str(error)))

    def score(folder):
        module = EXPORT_FORMATS[export_format].module
        scores, lines = _compare_files(evaluator, module, folder, batches_of_split)
        comparison.extend(lines)
        return scores

    folder, notes = export(
        export_format,
        classifier,
        export_dir or session.model_dir / "export" / export_format,
        score if batches_of_split else None,
    )
    lines = [("Exported", str(folder)), *(("Note", note) for note in notes)]
    return Result(
        mode=session.mode,
        outcome=f"Exported {path} as {export_format}",
        model_dir=str(session.model_dir),
        seconds=time.monotonic() - started,
        step=step,
        checkpoint=str(path),
        written=[str(folder)],
        lines=[*lines, *calibration, *comparison],
    )


def _compare_files(evaluator, module, folder, batches_of_split):
    """Scores a network before and after quantization. module: of a format with `quantizations`.

    Returns {file: {metric: float}}, and what it costs, as lines of a summary.
    """
    figures, totals, lines = {}, [], []
    for name in (module.MODEL_FILE, module.INT8_FILE):
        engine = module.open_engine(folder / name)
        figures[name], total = evaluator.score(batches_of_split, engine, name)
        totals.append(total)
        described = total.describe(figures[name])
        lines.append((name, ", ".join(f"{key.lower()} {text}" for key, text in described)))
    before, after = figures.values()
    lost = [
        f"{before[key] - after[key]:.4f} of {figure_name(key)}"
        for key in before
        if key.startswith("eval/")
    ]
    difference = totals[0].describe_difference(totals[1])
    lines.append(("Lost to int8", "; ".join(filter(None, [", ".join(lost), difference]))))
    return figures, lines
