# SPDX-License-Identifier: Apache-2.0
"""Prediction: what the task says of every row, for people and for files."""

import time

from common.console import counted, in_one_cell
from common.file_texts import shown
from common.files import write_whole
from common.reports.prediction_files import write_predictions
from common.training.inference import records_of, sorted_by_length
from common.training.result import Result


def predict(session, inference, engine=None):
    """Predicts the texts of a Session with a checkpoint, or else every row of its splits.

    Writes the files of `write_predictions`. Returns Result, with a line for each text or row that
    the user named, and for each row that could not be written.

    engine: Engine, which computes with an export of that checkpoint; None: the network does.
    """
    started, model = time.monotonic(), inference.model
    params = session.params
    if engine is None:
        inference.load(session.checkpoint)
    else:
        inference.take(engine)
        params = sorted_by_length(params, "predict_input")
    batches, texts = session.data.predict_input_fn(params, session.texts)
    for each in batches.values() if session.texts else ():
        for note in each.notes:
            inference.listeners.on_message(note)
    collected = inference.collect(batches, model.build_gathered, "predict", engine)
    computed_by = None if engine is None else f"{engine.title}, {engine.path}"
    written, not_written, output, predictions, num_rows = [], [], [], [], 0
    for number, (split, rows) in enumerate(collected.items()):
        origins = batches[split].origins()
        records, _ = records_of(model, rows, origins)
        rows_shown = [tuple(map(shown, row)) for row in texts[split]]
        num_rows += len(records)
        if session.distribution.is_chief:
            folder, name = session.model_dir / "predict", f"predictions_tf_{number}"
            beside = rows_shown, records, origins.columns
            try:
                paths = write_predictions(folder, name, rows.outputs, *beside)
                for file, text in rows.files(model, name, origins).items():
                    paths.append(folder / file)
                    write_whole(paths[-1], text)
                written += map(str, paths)
            except OSError as error:
                not_written.append(f"{folder / name} could not be written: {error}")
        if session.texts or session.input_file or not_written:
            told = list(zip(rows_shown, records, strict=True))
            if rows_shown != texts[split]:  # texts of files
                number = {text: n for n, text in enumerate(dict.fromkeys(r[0] for r in rows_shown))}
                told.sort(key=lambda pair: (number[pair[0][0]], *model.rank(pair[1])))
            output += [
                "\t".join(map(in_one_cell, [*model.shorten(record), " | ".join(row)]))
                for row, record in told
            ]
            predictions += [{"texts": row, **record} for row, record in told]
    return Result(
        mode=session.mode,
        outcome=f"Predicted {counted(num_rows, 'row')}",
        model_dir=str(session.model_dir),
        seconds=time.monotonic() - started,
        num_examples=num_rows,
        checkpoint=str(session.checkpoint.path),
        engine=computed_by,
        written=written,
        not_written=not_written,
        lines=[
            *([] if session.texts else [("Predicted", counted(num_rows, "row"))]),
            *([] if session.texts or not computed_by else [("Engine", computed_by)]),
            *(("Cut", each.truncation) for each in batches.values() if each.truncation),
            *([] if session.texts else [("Written", path) for path in written]),
        ],
        output=output,
        predictions=predictions,
    )
