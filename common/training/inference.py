# SPDX-License-Identifier: Apache-2.0
"""The network's outputs without training: what evaluator, predictor and exporter share."""

import numpy as np

from common.BaseModel import EVAL, PREDICT
from common.checkpoints import store
from common.checkpoints.load import load_weights
from common.export.engine import run_batch
from common.kernels.shared_kernels import rounded_kernels, use_rounded
from common.platform.kept_programs import variables_of
from common.platform.streams import in_streams
from common.reports.listener import Listeners
from common.signals import poll
from common.tasks.targets import named
from common.training.checks import check_trained
from common.training.train_step import one_program_per_shape


def records_of(model, rows, origins):
    """Returns what the files say of each row: list of {column: str or float}; and how sure each
    mistake is, see `BaseModel.compare`.

    rows: RowMetrics. origins: Origins of `input/rows.py`, or None.
    """
    records, mistakes = rows.records(model, origins), np.zeros(len(rows))
    if rows.targets:
        truths, mistakes = rows.truths(model, origins)
        if any(value != "" for truth in truths for value in truth.values()):
            records = [record | truth for record, truth in zip(records, truths, strict=True)]
    places = [] if origins is None else origins.places()
    if places:
        records = [record | {"place": place} for record, place in zip(records, places, strict=True)]
    return records, mistakes


def sorted_by_length(params, section):
    """The same Params, whose rows of an input come sorted by length, padded to the batch's longest.

    So an Engine takes them, which has no program for each shape, and knows no packed rows.
    section: "eval_input" or "predict_input".
    """
    cfg = getattr(params, section)
    changes = {"packing": "buckets", "num_buckets": cfg.max_sequence_length}
    return params.model_copy(update={section: cfg.model_copy(update=changes)})


class Inference:
    """A network, and the compiled program of its outputs. programs: ProgramLibrary or None."""

    def __init__(self, session, model, listeners=None, programs=None):
        self.session, self.model = session, model
        self.listeners = listeners or Listeners()
        make, make_scores = (
            None if programs is None else programs.maker(kind, variables_of(model))
            for kind in ("predict", "score")
        )
        self._outputs_of = one_program_per_shape(self.outputs_of, make=make)
        self._scores_of = one_program_per_shape(self.scores_of, make=make_scores)

    def load(self, checkpoint):
        """Loads the weights of a Checkpoint to score or predict with, and tells which.

        Raises UserError where its head has not been trained for these labels.
        """
        report = load_weights(self.model, checkpoint)
        check_trained(report, self.model)
        notes = self._restore(checkpoint)
        self.listeners.on_message(f"Weights of {checkpoint.path} ({checkpoint.format}){notes}")
        for note in checkpoint.config.get("notes", ()):
            self.listeners.on_message(f"  {note}")

    def take(self, engine):
        """Tells of an Engine that answers in place of the weights of the session's checkpoint."""
        notes = self._restore(self.session.checkpoint)
        self.model.fold_calibration()  # which the weights of an export have in them
        what = f"{engine.title} with {engine.path}, of {self.session.checkpoint.path}"
        self.listeners.on_message(f"{what}{notes}")

    def _restore(self, checkpoint):
        """Takes what the task kept in a Checkpoint. Returns clauses for the log."""
        notes = "".join(f", {note}" for note in self.model.restore(checkpoint.config))
        best, described = store.describe_best(self.session.model_dir)
        if best == str(checkpoint.path):
            notes += f"; the best of this run{described.removeprefix(best)}"
        return notes

    def step(self):
        """Returns predict_step(features) -> {name: tensor}, of the weights as they are."""
        kernels = self.kernels()
        return lambda features: self._outputs_of(features, kernels)

    def scoring_step(self):
        """Returns score_step(features, targets) -> {name: tensor}, of a task that `has_scores`."""
        kernels = self.kernels()
        return lambda features, targets: self._scores_of(features, targets, kernels)

    def kernels(self):
        """The last argument of `outputs_of` and `scores_of`."""
        return rounded_kernels(self.model.all_dense())

    def outputs_of(self, features, kernels):
        """What is compiled for each shape of features."""
        session = self.session
        with use_rounded(self.model.all_dense(), kernels):
            spec = session.model_fn(features, None, PREDICT, session.params, self.model)
        return spec.predictions

    def scores_of(self, features, targets, kernels):
        """What is compiled for each shape of features, where the task `has_scores`."""
        session = self.session
        with use_rounded(self.model.all_dense(), kernels):
            spec = session.model_fn(features, targets, EVAL, session.params, self.model)
            return self.model.build_scores(spec.predictions, targets)

    def step_of(self, engine):
        """Returns predict_step(features) -> {name: array}, of what an Engine computes."""
        names = [name for name in self.model.onnx_outputs() if name != "probabilities"]

        def predict_step(features):
            features = {name: np.asarray(each) for name, each in features.items()}
            outputs = run_batch(engine, features, self.model.is_mask_inverted)
            return {name: outputs[name] for name in names}

        return predict_step

    def collect(self, batches_of_split, make_metrics, what, engine=None, is_scored=False):
        """Runs every batch of every split, and lets Metrics add them up over all workers.

        Args:
            batches_of_split: {split: Batches} with weights.
            make_metrics: () -> Metrics.
            what: str, for the progress.
            engine: Engine, of batches of `sorted_by_length`; None is the network.
            is_scored: bool. Metrics are those of the task, which may want scores for outputs.
        Returns:
            {split: Metrics}.
        Raises:
            Stopped: a signal has asked to, between two batches.
        """
        num_streams = self.session.run.num_streams if engine is None else engine.num_streams
        if engine is None and is_scored and self.model.has_scores:
            score_step = self.scoring_step()
        else:
            predict_step = self.step() if engine is None else self.step_of(engine)

            def score_step(features, targets):
                return predict_step(features)

        def compute(features, targets, *_):
            targets = named(targets)
            parts = score_step(features, targets), targets
            return [{name: np.asarray(each) for name, each in part.items()} for part in parts]

        distribution, metrics_of_split = self.session.distribution, {}
        for split, batches in batches_of_split.items():
            metrics, description = make_metrics(), f"{what} {split}"
            metrics.begin(batches)
            share, numbers = self._share_of_worker(batches)
            self.listeners.on_batch(description, 0, len(numbers))
            computed = in_streams(compute, share, num_streams)
            for n, (batch, number) in enumerate(zip(computed, numbers, strict=True), 1):
                poll()
                self.listeners.on_batch(description, n, len(numbers))
                (rows,) = batches.rows_of(max(number, 0), max(number, 0) + 1)
                metrics.update(*batch, rows if number >= 0 else np.full_like(rows, -1))
            if distribution.num_workers > 1:
                metrics.exchange(distribution.gather)
            metrics_of_split[split] = metrics
        return metrics_of_split

    def _share_of_worker(self, batches):
        """Returns this worker's share of some Batches, and its numbers; -1: without rows."""
        distribution = self.session.distribution
        worker, num_workers = distribution.worker, distribution.num_workers
        if num_workers == 1:
            return batches, range(len(batches))
        numbers = range(worker, len(batches), num_workers)
        if not numbers:  # more workers than batches
            return batches.dataset.take(1), [-1]  # which tells the shapes to `exchange`
        return batches.dataset.shard(num_workers, worker), numbers
