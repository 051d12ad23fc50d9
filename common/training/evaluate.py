# SPDX-License-Identifier: Apache-2.0
"""Evaluation and prediction: the logits of every row, in the order of the split."""

import numpy as np

from common.BaseModel import PREDICT
from common.training.loop import one_program_per_shape
from common.training.progress import Progress


def make_predict_step(model_fn, params, model):
    """Returns predict_step(features) -> logits <float32>[B, C]."""

    @one_program_per_shape
    def predict_step(features):
        return model_fn(features, None, PREDICT, params, model).predictions["logits"]

    return predict_step


def collect_logits(predict_step, batches, max_batches=None, description="eval", log_every=100):
    """Runs every batch.

    Args:
        predict_step: of make_predict_step.
        batches: Batches with weights.
        max_batches: int or None. Stop after so many.
        description: str, first word of the progress lines.
        log_every: int, batches between two plain lines.
    Returns:
        logits: float32 [N, C] in row order; rows: int [N], which rows of the split they are.
    """
    total = len(batches) if max_batches is None else min(max_batches, len(batches))
    logits = []
    with Progress(total, "batches", description=description, log_every=log_every) as progress:
        for features, _, _ in batches.dataset.take(total):
            logits.append(predict_step(features).numpy())
            progress.update()
    return batches.in_row_order(np.stack(logits)), batches.row_numbers(total)
