# SPDX-License-Identifier: Apache-2.0
"""`--mode prepare_data`: makes what a training reads, ahead of it, or checks what is there."""

import shlex
import time

from common.console import counted, format_duration, log
from common.params.pretraining import RECORDS
from common.training.result import Result
from input.prepared.prepare import describe, notes_on, verify
from input.prepared.workers import map_unordered
from input.records.from_documents import write_records_of
from input.row_stores import (
    TRAIN,
    VALIDATION,
    names_documents,
    open_row_store,
    prepared_documents,
)


def prepare_data(params, read, map_shards=map_unordered):
    """Prepares the documents of train_input and eval_input. Returns the Result.

    Args:
        params: Params with a vocabulary.
        read: InputParams -> (tokenizer, Layout).
        map_shards: as `workers.map_unordered`.
    Raises:
        UserError: documents cannot be used, or prepared rows are damaged.
        RunError: the disk is full. What is finished is kept.
    """
    started = time.monotonic()
    lines, folders, rows = [], [], {}
    for split, cfg in ((TRAIN, params.train_input), (VALIDATION, params.eval_input)):
        if cfg is not None and cfg.data_processor in RECORDS:
            store = open_row_store(cfg, split, *read(cfg))  # reads and checks every record
            lines.append((split, f"{len(store):,} records are whole"))
            rows[f"prepared/rows_{split}"] = float(len(store))
            continue
        if cfg is None or not names_documents(cfg, split):
            continue
        if cfg.write_records:
            written = write_records_of(cfg, split, *read(cfg))
            examples = counted(written.num_examples, "record")
            documents = counted(written.num_documents, "document")
            text = f"{examples} of {documents}, {written.num_tokens:,} tokens"
            folder = str(written.paths[0].parent)
            lines += [(split, text), ("", shlex.quote(folder))]
            folders.append(folder)
            rows[f"prepared/rows_{split}"] = float(written.num_examples)
            continue
        tokenizer, layout = read(cfg)
        folder, manifest = prepared_documents(cfg, split, tokenizer, layout, map_shards)
        verify(folder, manifest, tokenizer.vocab_size)
        for note in notes_on(manifest):
            log(note)
        lines += [(split, describe(manifest)), ("", shlex.quote(str(folder)))]
        folders.append(str(folder))
        rows[f"prepared/rows_{split}"] = float(manifest["rows"])
        rows[f"prepared/tokens_{split}"] = float(manifest["tokens"])
    seconds = time.monotonic() - started
    outcome = "Prepared and checked"
    return Result(
        mode="prepare_data",
        outcome=outcome,
        model_dir=params.runconfig.model_dir or "",
        seconds=seconds,
        figures=rows,
        written=tuple(folders),
        lines=(("Done", f"{outcome}, {format_duration(seconds)}"), *lines),
    )
