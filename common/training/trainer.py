# SPDX-License-Identifier: Apache-2.0
"""Training from the Session's weights to its last step, with evaluations on the way.

The loop is `loop.py`, one step `train_step.py`, checkpoints `saver.py`. A Trainer tells listeners
what happens, obeys a Control, returns a Result and prints nothing.
"""

import functools
import time
import zlib

from common.checkpoints.load import load_weights
from common.console import counted
from common.optimizers.factory import optimizer_of
from common.platform.machine import gpus_of
from common.reports.metrics_file import has_evaluation
from common.signals import listening, poll
from common.training.calibrator import calibrate
from common.training.checks import check_calibration, check_metric
from common.training.evaluator import Evaluator
from common.training.inference import Inference
from common.training.length import describe_length, last_step_of, notes_on_length
from common.training.lock import check_still_there
from common.training.loop import NotFiniteError, Reached, is_evaluated, train
from common.training.recovery import Recovery
from common.training.result import result_of
from common.training.run_state import best_metric_of
from common.training.saver import Saver
from common.training.teacher import Teacher
from common.training.train_step import make_train_step


class Trainer:
    """Trains the network of a Session. Of several workers only the chief writes to model_dir.

    control: Control or None. programs: ProgramLibrary or None. make_step: as `make_train_step`.
    """

    def __init__(
        self, session, model, listeners, control=None, programs=None, make_step=make_train_step
    ):
        self.session, self.params, self.run = session, session.params, session.run
        self.model, self.listeners, self.programs = model, listeners, programs
        self.control, self.make_step = control, make_step
        self.distribution = session.distribution
        self.metric = best_metric_of(self.run)
        self.evaluator = Evaluator(Inference(session, model, listeners, programs))
        self.teacher = None if session.teacher is None else Teacher(session, listeners)
        self.evaluated = {}  # attributes of Result
        self.evaluated_at = float("-inf")  # seconds of time.monotonic()

    def train(self):
        """Trains until `max_steps`, or for `steps` more.

        Weights come from, in this order:
          1. session.resumed: the newest whole checkpoint of model_dir, with optimizer and position;
          2. session.pretrained: a Checkpoint to warm-start from, optimizer and position fresh;
          3. nowhere: fresh from the seed.

        Returns:
            Result.
        Raises:
            RunError: a number is not finite, or something cannot be written. Checkpoints that
                were there are whole.
            Stopped: a signal came before there was anything new to save.
        """
        session, started = self.session, time.monotonic()
        if self.run.calibrates:
            check_calibration(self.model)
        begins = "No checkpoint given: training starts from fresh weights"
        if session.pretrained is not None:
            ignores_head = self.model.ignores_head
            begins = load_weights(self.model, session.pretrained, ignores_head).table()
        if self.teacher is not None:
            self.teacher.load_into(self.model)
        self.optimizer = optimizer_of(self.model, self.params)
        self.saver = Saver(session, self.model, self.optimizer, self.metric, self.listeners)
        first_step = 0
        if session.resumed is not None:
            first_step = self.saver.restore(session.resumed)
            begins = f"Resuming {session.resumed} at step {first_step}"
        self.listeners.on_message(begins)
        self.recovery = Recovery(session, self.optimizer, self.saver, self.listeners)
        last_step = last_step_of(self.run, first_step)
        evaluation, evaluates = None, self.run.mode == "train_and_eval"
        if evaluates or self.run.calibrates:
            evaluation = session.data.eval_input_fn(self.params)
        try:
            with listening(self.control) as self.control:
                reached = self._fit(first_step, last_step, evaluation if evaluates else None)
        finally:
            self.listeners.close()
            self.saver.writer.wait()
            if self.control is not None:
                self.control.has_unsaved = False
        outcome = self._describe_outcome(reached, first_step, last_step)
        if reached.stopped_by is None and self.run.calibrates:
            steps = {self.saver.saved_step, self.saver.state.best_step}
            calibrate(session, self.evaluator, evaluation, steps)
        check_still_there(session.model_dir)
        values = self.evaluated | vars(reached)
        result = result_of(session, self.model, outcome, started, **values)
        self.listeners.on_end(result)
        return result

    def _fit(self, first_step, last_step, evaluation):
        """Trains, anew from the last checkpoint where numbers stop being finite and that is wanted.

        evaluation: {split: Batches}, or None where none is wanted. Returns Reached.
        """
        run, saver, model = self.run, self.saver, self.model
        evaluate = None
        if evaluation is not None:
            if self.metric is not None:
                check_metric(self.metric, model, evaluation)
            evaluate = functools.partial(self._evaluate, evaluation)
        while True:
            if last_step > first_step:
                batches = self.session.data.train_input_fn(self.params, first_step, last_step)
                if self.teacher is not None:
                    batches = self.teacher.with_outputs(batches)
                # With `repeat: false` there are fewer than asked for.
                whole_steps = self.params.optimizer.accumulation.whole_steps
                last_step = min(last_step, whole_steps(first_step, len(batches)))
                poll()
                self._check_workers(batches, first_step)
                batches = self.distribution.shard(batches)
            self.last_step = last_step
            is_due = evaluate is not None and self.distribution.broadcast(
                self._is_evaluation_due(first_step, last_step)
            )
            self.listeners.on_resume(first_step, first_step - 1 if is_due else first_step)
            if is_due:
                evaluate(first_step)
            if last_step <= first_step or self._is_exhausted():
                return Reached(first_step)
            notes = notes_on_length(self.params, last_step)
            for note in (*batches.notes, *notes, *self._prepare(batches)):
                self.listeners.on_message(note)
            read = {"train": batches, **(evaluation or {})}
            for summary in self.session.data.summarize(self.params, read):
                self.listeners.on_message("\n".join(summary.lines))
            num_steps = last_step - first_step
            self.listeners.on_message(self._describe_training(batches, num_steps))
            if batches.num_per_epoch is not None:
                accumulation = self.params.optimizer.accumulation
                text = describe_length(last_step, batches.num_per_epoch, accumulation)
                self.listeners.on_message(text)
            saver.reserve()
            if self.recovery.is_wanted and saver.saved_step is None:
                saver.save(first_step)  # there has to be something to go back to
            try:
                return train(
                    self._make_step(batches.targets),
                    batches,
                    first_step,
                    last_step,
                    run,
                    self.listeners,
                    self.control,
                    saver.save,
                    evaluate,
                    saver.state.losses,
                    check_gradients=not self.optimizer.loss_scale.skips_overflow,
                    num_workers=self.distribution.num_workers,
                    loss_figures=model.loss_figures,
                    baselines=model.baselines,
                    # A GPU is handed operations ahead of time as it is.
                    is_ahead=self.distribution.num_replicas == 1 and not gpus_of(run.device),
                )
            except NotFiniteError as error:
                first_step = self.recovery.recover(error, batches, first_step)

    def _prepare(self, batches):
        return self.model.prepare_training(batches.targets, batches.token_counts)

    def _make_step(self, targets):
        """Returns train_step(features, targets), which also looks after saves and workers."""
        params, distribution, programs = self.params, self.distribution, self.programs

        def build():
            model = self.session.new_model()
            model.prepare_training(targets)
            if self.teacher is not None:
                self.teacher.load_into(model)
            return model, optimizer_of(model, params)

        of_one = self.session.model_fn, params, self.model, self.optimizer
        step = self.make_step(*of_one, distribution, build, programs)

        def train_step(features, targets):
            self.saver.writer.poll()
            distribution.share_requests(self.control)
            with distribution.lost_workers_explained():
                figures = step(features, targets)
            check_still_there(self.session.model_dir)
            return figures

        return train_step

    # ---- evaluation ------------------------------------------------------------------------------

    def _evaluate(self, batches_of_split, step):
        """Returns whether training is to end; see `loop.train`."""
        is_early = time.monotonic() - self.evaluated_at < self.run.throttle_secs
        if step < self.last_step and self.distribution.broadcast(is_early):
            return False
        with self.optimizer.averaged_weights():
            figures, total = self.evaluator.evaluate(
                batches_of_split, step, is_chosen=self.saver.is_best
            )
        lines = total.describe(figures)
        if self.metric is not None:
            lines = [("Last evaluation", f"step {step}"), *lines]
        self.evaluated = {"figures": figures, "num_examples": len(total), "lines": lines}
        self.evaluated_at = time.monotonic()
        best = self.saver.count_evaluation(step, figures)
        if best is not None:
            self.listeners.on_message(f"Best so far: {self.metric.name} {best:.4f} at step {step}")
        return self._is_exhausted()

    def _is_evaluation_due(self, step, last_step):
        """Whether the evaluation at the step to begin from is still to come, or is lost.

        A checkpoint is saved before it is evaluated. What metrics.jsonl says of that evaluation is
        measured again where the checkpoint does not know of it, for the best metric's sake.
        """
        if step == 0 or self.saver.state.evaluated_step >= step:
            return False
        return (
            step >= last_step
            or is_evaluated(step, last_step, self.run)
            or has_evaluation(self.session.model_dir, step)
        )

    def _is_exhausted(self):
        patience = self.run.early_stopping_patience
        return patience is not None and self.saver.state.num_without_better >= patience

    # ---- several workers -------------------------------------------------------------------------

    def _check_workers(self, batches, first_step):
        """Raises UserError where the workers are not about to do the same."""
        if self.distribution.num_workers == 1:
            return
        same = self.distribution.require_same
        same("the step to begin from", first_step)
        same("the number of training rows", batches.num_rows)
        same("the checksum of the rows of the batches", batches.checksum)
        same("the checksum of the weights to begin from", self._checksum())

    def _checksum(self):
        checksum = 0
        for _, weight in sorted(self.saver.weights().items()):
            checksum = zlib.crc32(weight.numpy(), checksum)
        return checksum

    # ---- for the reader --------------------------------------------------------------------------

    def _describe_training(self, batches, num_steps):
        cfg = self.params.train_input
        accumulation = self.params.optimizer.accumulation
        rows = f"{accumulation} x {cfg.batch_size}"
        rows = cfg.batch_size if accumulation.is_single else rows
        return (
            f"Training on {counted(batches.num_rows, 'row')}: "
            f"{counted(num_steps, 'step')} of "
            f"{rows}, {batches.description}; "
            f"{batches.share_real:.0%} of the computed tokens are real"
            + (batches.truncation and f"; {batches.truncation}")
            + self.distribution.description
        )

    def _describe_outcome(self, reached, first_step, last_step):
        step, outcome = reached.step, f"Trained to step {reached.step}"
        num_workers = self.distribution.num_workers
        if num_workers > 1:  # also a barrier: all see what has been saved
            checksum = self._checksum()
            self.distribution.require_same("the checksum of the trained weights", checksum)
            outcome += f" by {num_workers} workers, all with weights {checksum:08x}"
        if step == first_step and reached.stopped_by is None:
            outcome = f"Nothing to train: step {step} of {last_step} reached"
        if self._is_exhausted() and step < last_step:
            state = self.saver.state
            outcome += (
                f", early: {counted(state.num_without_better, 'evaluation')} without a better "
                f"{self.metric.name} than {state.best_value:.4f} of step {state.best_step}"
            )
        return outcome
