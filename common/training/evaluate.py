# SPDX-License-Identifier: Apache-2.0
"""Evaluation and prediction: the logits of every row, in the order of the split; their metrics."""

import contextlib
import math

import numpy as np

from common.BaseModel import PREDICT
from common.kernels.shared_kernels import rounded_kernels, use_rounded
from common.platform.kept_programs import variables_of
from common.platform.streams import in_streams
from common.reports.progress import Console
from common.signals import poll
from common.training.distribution import ONE_DEVICE
from common.training.train_step import one_program_per_shape


class Predictor:
    """What the network computes of a batch in evaluation and prediction.

    Args:
        model_fn: as in `model.py`.
        params: complete Params.
        model: BaseModel.
        programs: ProgramLibrary or None.
    """

    def __init__(self, model_fn, params, model, programs=None):
        self.model_fn, self.params, self.model = model_fn, params, model
        make = None if programs is None else programs.maker("predict", variables_of(model))
        self._logits_of = one_program_per_shape(self.logits_of, make=make)

    def step(self):
        """Returns predict_step(features) -> logits <float32>[B, C], of the weights as they are."""
        kernels = self.kernels()
        return lambda features: self._logits_of(features, kernels)

    def kernels(self):
        """The second argument of `logits_of`."""
        return rounded_kernels(self.model.all_dense())

    def logits_of(self, features, kernels):
        """What is compiled for each shape of features."""
        with use_rounded(self.model.all_dense(), kernels):
            spec = self.model_fn(features, None, PREDICT, self.params, self.model)
        return spec.predictions["logits"]


def collect_logits(
    predict_step,
    batches,
    max_batches=None,
    description="eval",
    distribution=ONE_DEVICE,
    num_streams=1,
):
    """Runs every batch, each on one of the workers.

    Args:
        predict_step: of a Predictor.
        batches: Batches with weights.
        max_batches: int or None. Stop after so many.
        description: str, first word of the progress lines.
        distribution: Distribution.
        num_streams: int. Batches computed at a time, see `streams.py`.
    Returns:
        logits: float32 [N, C] in row order; rows: int [N], which rows of the split they are.
    Raises:
        Stopped: a signal has asked to, between two batches.
    """
    total = len(batches) if max_batches is None else min(max_batches, len(batches))
    share = math.ceil(total / distribution.num_workers)
    with contextlib.closing(Console()) as console:
        console.on_batch(description, 0, share)

        def logits_of(features, *_):
            return predict_step(features).numpy()

        def logits_of_each(elements):
            for done, logits in enumerate(in_streams(logits_of, elements, num_streams), start=1):
                poll()
                console.on_batch(description, done, share)
                yield logits

        logits = distribution.collect(batches.dataset.take(total), logits_of_each, total)
    return batches.in_row_order(logits), batches.row_numbers(total)


def all_rows(scores):
    """Logits [N, C] and labels [N] of all splits together. scores: {split: (logits, labels)}."""
    logits, labels = zip(*scores.values(), strict=True)
    return np.concatenate(logits), np.concatenate(labels)


def metrics_of(model, scores):
    """Returns {name: float} of all rows together, and the accuracy of each of several splits.

    scores: {split: (logits [N, C], labels [N])}.
    """
    metrics = model.build_eval_metric_ops(*all_rows(scores))
    if len(scores) > 1 and "eval/accuracy_cls" in metrics:
        for split, (logits, labels) in scores.items():  # the original's accuracy_matched
            hits = logits.argmax(axis=-1) == labels
            metrics[f"eval/accuracy_{split.removeprefix('validation_')}"] = float(hits.mean())
    return metrics
