# SPDX-License-Identifier: Apache-2.0
"""Prediction: what the task says of every row, for people and for files."""

import time

from common.metrics.row_metrics import RowMetrics
from common.reports.prediction_files import write_predictions
from common.training.result import Result


class Predictor:
    """Predicts the session's texts, or else every row of the prediction splits.

    Args:
        session: Session with a checkpoint.
        inference: Inference.
    """

    def __init__(self, session, inference):
        self.session, self.inference = session, inference
        self.started = time.monotonic()

    def predict(self):
        """Writes the files of `write_predictions`. Returns Result, with a line for each text."""
        session, model = self.session, self.inference.model
        self.inference.load(session.checkpoint)
        batches, texts = session.data.predict_input_fn(session.params, session.texts)
        collected = self.inference.collect(batches, RowMetrics, "predict")
        written, output, num_rows = [], [], 0
        for number, (split, rows) in enumerate(collected.items()):
            records = model.predictions(rows.outputs)
            num_rows += len(records)
            if session.distribution.is_chief:
                name = f"predictions_tf_{number}"
                folder = session.model_dir / "predict"
                written += write_predictions(folder, name, rows.outputs, texts[split], records)
            if session.texts:
                output += [
                    "\t".join([*model.shorten(record), " | ".join(row)])
                    for row, record in zip(texts[split], records, strict=True)
                ]
        paths = [str(path) for path in written]
        return Result(
            mode=session.mode,
            outcome=f"Predicted {num_rows:,} rows",
            model_dir=str(session.model_dir),
            seconds=time.monotonic() - self.started,
            num_examples=num_rows,
            checkpoint=str(session.checkpoint.path),
            written=paths,
            lines=[("Predicted", f"{num_rows:,} rows"), *(("Written", path) for path in paths)],
            output=output,
        )
