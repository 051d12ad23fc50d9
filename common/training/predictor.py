# SPDX-License-Identifier: Apache-2.0
"""Prediction: what the task says of every row, for people and for files."""

import time

from common.console import counted
from common.metrics.row_metrics import RowMetrics
from common.reports.prediction_files import in_one_cell, write_predictions
from common.training.inference import records_of
from common.training.result import Result


def predict(session, inference):
    """Predicts the texts of a Session with a checkpoint, or else every row of its splits.

    Writes the files of `write_predictions`. Returns Result, with a line for each text or row that
    the user named, and for each row that could not be written.
    """
    started, model = time.monotonic(), inference.model
    inference.load(session.checkpoint)
    batches, texts = session.data.predict_input_fn(session.params, session.texts)
    collected = inference.collect(batches, RowMetrics, "predict")
    written, not_written, output, predictions, num_rows = [], [], [], [], 0
    for number, (split, rows) in enumerate(collected.items()):
        origins = batches[split].origins()
        records, _ = records_of(model, rows, origins)
        num_rows += len(records)
        if session.distribution.is_chief:
            folder, name = session.model_dir / "predict", f"predictions_tf_{number}"
            beside = texts[split], records, origins.columns
            try:
                paths = write_predictions(folder, name, rows.outputs, *beside)
                written += map(str, paths)
            except OSError as error:
                not_written.append(f"{folder / name} could not be written: {error}")
        if session.texts or session.input_file or not_written:
            output += [
                "\t".join(map(in_one_cell, [*model.shorten(record), " | ".join(row)]))
                for row, record in zip(texts[split], records, strict=True)
            ]
            predictions += [
                {"texts": row, **record} for row, record in zip(texts[split], records, strict=True)
            ]
    return Result(
        mode=session.mode,
        outcome=f"Predicted {counted(num_rows, 'row')}",
        model_dir=str(session.model_dir),
        seconds=time.monotonic() - started,
        num_examples=num_rows,
        checkpoint=str(session.checkpoint.path),
        written=written,
        not_written=not_written,
        lines=[
            *([] if session.texts else [("Predicted", counted(num_rows, "row"))]),
            *(("Cut", each.truncation) for each in batches.values() if each.truncation),
            *([] if session.texts else [("Written", path) for path in written]),
        ],
        output=output,
        predictions=predictions,
    )
