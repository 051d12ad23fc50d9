# SPDX-License-Identifier: Apache-2.0
"""The network's outputs without training: what evaluator, predictor and exporter share."""

import numpy as np

from common.BaseModel import PREDICT
from common.checkpoints.load import load_weights
from common.kernels.shared_kernels import rounded_kernels, use_rounded
from common.platform.kept_programs import variables_of
from common.platform.streams import in_streams
from common.reports.listener import Listeners
from common.signals import poll
from common.tasks.targets import named
from common.training.checks import check_trained
from common.training.train_step import one_program_per_shape


class Inference:
    """A network, and the compiled program of its outputs.

    Args:
        session: Session.
        model: BaseModel, of `session.make_model`.
        listeners: Listener.
        programs: ProgramLibrary or None.
    """

    def __init__(self, session, model, listeners=None, programs=None):
        self.session, self.model = session, model
        self.listeners = listeners or Listeners()
        make = None if programs is None else programs.maker("predict", variables_of(model))
        self._outputs_of = one_program_per_shape(self.outputs_of, make=make)

    def load(self, checkpoint):
        """Loads the weights of a Checkpoint to score or predict with, and tells which.

        Raises:
            UserError: its head has not been trained for these labels.
        """
        report = load_weights(self.model, checkpoint)
        check_trained(report, self.session.params.model.num_cls_classes)
        notes = "".join(f", {note}" for note in self.model.restore(checkpoint.config))
        self.listeners.on_message(f"Weights of {checkpoint.path} ({checkpoint.format}){notes}")

    def step(self):
        """Returns predict_step(features) -> {name: tensor}, of the weights as they are."""
        kernels = self.kernels()
        return lambda features: self._outputs_of(features, kernels)

    def kernels(self):
        """The second argument of `outputs_of`."""
        return rounded_kernels(self.model.all_dense())

    def outputs_of(self, features, kernels):
        """What is compiled for each shape of features."""
        session = self.session
        with use_rounded(self.model.all_dense(), kernels):
            spec = session.model_fn(features, None, PREDICT, session.params, self.model)
        return spec.predictions

    def run(self, batches, description, predict_step, num_streams=1, max_batches=None):
        """Yields the outputs of every batch of this worker's share.

        Args:
            batches: Batches with weights.
            description: str, for the progress.
            predict_step: of `step`, or alike.
            num_streams: int. Batches computed at a time, see `streams.py`.
            max_batches: int or None. Stop after so many.
        Yields:
            outputs: {name: array [B, ...]}; targets: {name: array [B, ...]}; rows: int [B], which
            row of the split each is, -1 where it only fills up the batch.
        Raises:
            Stopped: a signal has asked to, between two batches.
        """
        distribution = self.session.distribution
        total = len(batches) if max_batches is None else min(max_batches, len(batches))
        dataset, rows = batches.dataset.take(total), batches.rows[:total]
        if distribution.num_workers > 1:
            rows = rows[distribution.worker :: distribution.num_workers]
            if len(rows):
                dataset = dataset.shard(distribution.num_workers, distribution.worker)
            else:  # more workers than batches: one without rows tells the shapes to `exchange`
                dataset, rows = dataset.take(1), np.full_like(batches.rows[:1], -1)

        def compute(features, targets, *_):
            outputs = predict_step(features)
            return tuple(
                {name: tensor.numpy() for name, tensor in part.items()}
                for part in (outputs, named(targets))
            )

        self.listeners.on_batch(description, 0, len(rows))
        computed = in_streams(compute, dataset, num_streams)
        for n, ((outputs, targets), batch_rows) in enumerate(zip(computed, rows, strict=True), 1):
            poll()
            self.listeners.on_batch(description, n, len(rows))
            yield outputs, targets, batch_rows

    def collect(self, batches_of_split, make_metrics, what, predict_step=None, max_batches=None):
        """Runs every batch of every split, and lets Metrics add them up over all workers.

        Args:
            batches_of_split: {split: Batches} with weights.
            make_metrics: () -> Metrics.
            what: str, for the progress.
            predict_step: as of `run`; None is the network's own.
            max_batches: int or None. Stop after so many of each split.
        Returns:
            {split: Metrics}.
        """
        num_streams = self.session.run.num_streams if predict_step is None else 1
        predict_step = predict_step or self.step()
        distribution, metrics_of_split = self.session.distribution, {}
        for split, batches in batches_of_split.items():
            metrics = metrics_of_split[split] = make_metrics()
            for batch in self.run(
                batches, f"{what} {split}", predict_step, num_streams, max_batches
            ):
                metrics.update(*batch)
            if distribution.num_workers > 1:
                metrics.exchange(distribution.gather)
        return metrics_of_split
