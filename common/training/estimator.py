# SPDX-License-Identifier: Apache-2.0
"""One model with its optimizer, checkpoints and reports: what each mode of `run.py` calls.

Like the original's Estimator it is given the model's and the input's functions, so that it knows
neither the network nor the data.
"""

import contextlib
import functools
import json
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import tensorflow as tf

from common.checkpoints import store
from common.checkpoints.formats import ours
from common.checkpoints.load import load_weights, open_checkpoint
from common.checkpoints.small_files import read_params_yaml
from common.checkpoints.writer import CheckpointWriter, NoWriter
from common.console import closing_summary, format_duration
from common.errors import RunError, UserError
from common.export.export import Classifier, export
from common.files import write_whole
from common.metrics.calibration import expected_calibration_error, fit_temperature
from common.metrics.classification import classification_report, cross_entropy, softmax
from common.metrics.regression import regression_report
from common.optimizers.factory import optimizer_of
from common.platform.machine import gpus_of
from common.reports.metrics_file import read_curves
from common.reports.reports import NoReports, Reports
from common.signals import poll
from common.training.checks import (
    check_fits,
    check_metric,
    check_trained,
    check_vocab,
    last_step_of,
)
from common.training.distribution import ONE_DEVICE
from common.training.evaluate import Predictor, all_rows, collect_logits, metrics_of
from common.training.lock import check_still_there
from common.training.loop import NotFiniteError, is_evaluated, train
from common.training.predict import write_predictions
from common.training.run_state import PREFIX, BestMetric, RunState
from common.training.train_step import make_train_step

MAX_RECOVERIES = 3  # steps back from numbers that are not finite, in all of a run
MAX_SHOWN_TEXTS = 3  # of the batch in which they came up
CALIBRATION = "calibration.json"


def say(text):
    print(text, file=sys.stderr, flush=True)


class Estimator:
    """Trains, evaluates and predicts with one model.

    Args:
        params: complete Params.
        model_fn, make_model: as in `model.py`.
        label_names: str per class.
        vocab: list of str, kept with every checkpoint.
        distribution: Distribution. Of its workers only the chief writes to model_dir; all read it.
        programs: ProgramLibrary or None.
    """

    def __init__(
        self,
        params,
        model_fn,
        make_model,
        label_names,
        vocab,
        distribution=ONE_DEVICE,
        programs=None,
    ):
        self.params = params
        self.run = params.runconfig
        self.model_dir = Path(self.run.model_dir)
        self.model_fn, self.make_model = model_fn, make_model
        self.label_names = tuple(label_names)
        self.vocab = vocab
        self.distribution = distribution
        self.programs = programs
        self.model = make_model(params)
        self.predictor = Predictor(model_fn, params, self.model, programs)
        self.reports, self.writer = NoReports(self.model_dir), NoWriter()
        if distribution.is_chief:
            self.reports = Reports(self.model_dir)
            self.writer = CheckpointWriter(self.model_dir)
        self.metric = None
        if self.run.best_metric is not None:
            self.metric = BestMetric(self.run.best_metric, self.run.best_metric_mode)
        self.state = RunState()
        self.saved_step = None
        self.temperature = 1.0
        self.started = time.monotonic()

    # ---- checkpoints -----------------------------------------------------------------------------

    def _weights(self):
        """Returns {neutral name: variable}, the averages in the place of weights that have one."""
        weights = {name: weight.value for name, weight in self.model.weights_by_name().items()}
        return weights | self.optimizer.averages

    def _tensors(self):
        """What the weights and the optimizer's state hold now: two dicts of name to tensor."""
        return tuple(
            {name: variable.read_value() for name, variable in variables.items()}
            for variables in (self._weights(), self.optimizer.state)
        )

    def _save(self, step):
        """Begins to save; `self.writer` says when it is done."""
        check_still_there(self.model_dir)
        config = {key: getattr(self.params.model, key) for key in ours.GEOMETRY}
        config |= {
            "label_names": self.label_names,
            "step": step,
            "do_lower_case": self.params.predict_input.do_lower,
            "tf_random_seed": self.run.tf_random_seed,
            "best_metric": None if self.metric is None else str(self.metric),
        }
        weights, state = self._tensors()
        self.writer.save(
            step,
            weights,
            state | self.state.to_arrays(),
            config,
            self.vocab,
            self.run.keep_checkpoint_max,
            keep={self.state.best_step},
        )
        self.saved_step = step

    def _resume(self, path):
        """Puts every weight and the whole training state back. Returns the global step."""
        state = ours.read_state(path)
        self.state = RunState.from_tensors(state)
        state = {name: tensor for name, tensor in state.items() if not name.startswith(PREFIX)}
        for variables, tensors in (
            (self._weights(), ours.read_weights(path)),
            (self.optimizer.state, state),
        ):
            check_fits(path, variables, tensors)
            for name, variable in variables.items():
                variable.assign(tensors[name].read())
        self.saved_step = int(self.optimizer.step.numpy())
        config = ours.read_config(path)
        if not self.run.allow_changed_params:
            check_vocab(self.vocab, config["vocab_file"], path)
        self._restore_best(config.get("best_metric"))
        return self.saved_step

    def _restore_best(self, metric):
        """Lets best.json say what the resumed run knows: a later best is found again."""
        if self.metric is None or str(self.metric) != metric:
            self.state.forget_best()
        if not self.distribution.is_chief:
            return
        if (self.model_dir / f"checkpoint-{self.state.best_step}").is_dir():
            self._write_best(self.state.best_step, self.state.best_value)
        else:
            store.delete_best(self.model_dir)

    def _write_best(self, step, value):
        metric, mode = self.metric.name, self.metric.mode
        store.write_best(self.model_dir, step, metric=metric, mode=mode, value=value)

    def load(self, checkpoint):
        """Loads the weights of a Checkpoint to score or predict with, and says which.

        Raises:
            UserError: its head has not been trained for these labels.
        """
        check_trained(load_weights(self.model, checkpoint), len(self.label_names))
        self.temperature = float(checkpoint.config.get("temperature", 1.0))
        calibrated = f", temperature {self.temperature:.4f}" if self.temperature != 1.0 else ""
        say(f"Weights of {checkpoint.path} ({checkpoint.format}){calibrated}")

    # ---- training --------------------------------------------------------------------------------

    def train(self, train_input_fn, pretrained, resumed, eval_input_fn=None):
        """Trains until `max_steps`, or for `steps` more, and prints a closing summary.

        Weights come from, in this order:
          1. resumed: the newest whole checkpoint of model_dir, with optimizer and position;
          2. pretrained: a Checkpoint to warm-start from, optimizer and position fresh;
          3. nowhere: fresh from the seed.

        Args:
            train_input_fn: (params, first_step, last_step) -> Batches.
            pretrained: Checkpoint or None.
            resumed: path of a checkpoint of ours or None.
            eval_input_fn: params -> {split: Batches}, to evaluate in mode train_and_eval, and to
                calibrate; or None.
        Returns:
            exit code: 0, or 128 + n after signal n.
        Raises:
            RunError: a number is not finite, or something cannot be written. Checkpoints that
                were there are whole.
            Stopped: a signal came before there was anything new to save.
        """
        first_step, report = 0, None
        if self.distribution.is_chief:
            self.model_dir.mkdir(parents=True, exist_ok=True)
        if resumed is None and pretrained is not None:
            report = load_weights(self.model, pretrained, self.params.model.disable_nsp)
        self.optimizer = optimizer_of(self.model, self.params)
        if resumed is not None:
            first_step = self._resume(resumed)
            say(f"Resuming {resumed} at step {first_step}")
        elif report is not None:
            say(report.table())
        else:
            say("No checkpoint given: training starts from fresh weights")
        self._scale_rate()
        last_step = last_step_of(self.run, first_step)
        evaluation = None
        if eval_input_fn is not None and (
            self.run.mode == "train_and_eval" or self.run.calibrate_temperature
        ):
            evaluation = eval_input_fn(self.params)
        try:
            step, signal_number, metrics = self._fit(
                train_input_fn,
                first_step,
                last_step,
                evaluation if self.run.mode == "train_and_eval" else None,
            )
        finally:
            self.reports.close()
            self.writer.wait()
        what = f"Trained to step {step}"
        if self.distribution.num_workers > 1:  # also a barrier: all see what has been saved
            checksum = self._checksum()
            self.distribution.require_same("the checksum of the trained weights", checksum)
            what += f" by {self.distribution.num_workers} workers, all with weights {checksum:08x}"
        if step == first_step and signal_number is None:
            what = f"Nothing to train: step {step} of {last_step} reached"
        if self._is_exhausted() and step < last_step:
            what += (
                f", early: {self.state.num_without_better} evaluations without a better "
                f"{self.metric.name} than {self.state.best_value:.4f} of step "
                f"{self.state.best_step}"
            )
        if signal_number is None and self.run.calibrate_temperature and evaluation is not None:
            self._calibrate(evaluation)
        self._summarise(what, metrics)
        if signal_number is not None:
            say(f"Stopped by signal {signal_number}; the same command continues at step {step}")
            return 128 + signal_number
        return 0

    def _check_workers(self, batches, first_step):
        """Raises UserError where the workers are not about to do the same."""
        if self.distribution.num_workers == 1:
            return
        same = self.distribution.require_same
        same("the step to begin from", first_step)
        same("the number of training rows", batches.num_rows)
        same("the checksum of the rows of the batches", zlib.crc32(batches.rows))
        same("the checksum of the weights to begin from", self._checksum())

    def _checksum(self):
        checksum = 0
        for _, weight in sorted(self._weights().items()):
            checksum = zlib.crc32(weight.numpy(), checksum)
        return checksum

    def _fit(self, train_input_fn, first_step, last_step, evaluation):
        """Trains, from the last checkpoint anew where numbers stop being finite and that is wanted.

        Returns:
            (global step reached, signal number or None, metrics of the last evaluation).
        """
        metrics, evaluated = {}, float("-inf")

        def evaluate(step):
            nonlocal evaluated
            is_early = time.monotonic() - evaluated < self.run.throttle_secs
            if step < last_step and self.distribution.of_chief(is_early):
                return False
            with self.optimizer.averaged_weights():
                metrics.update(self._evaluate(evaluation, step))
            evaluated = time.monotonic()
            return self._note_evaluation(step, metrics)

        if evaluation is not None and self.metric is not None:
            check_metric(self.metric, self.model, evaluation)
        while True:
            is_over, batches = last_step <= first_step, None
            if not is_over:
                batches = train_input_fn(self.params, first_step, last_step)
                # With `repeat: false` there are fewer than asked for.
                num_steps = len(batches) // self.params.optimizer.grad_accum_steps
                last_step = min(last_step, first_step + num_steps)
                is_over = last_step <= first_step
                poll()
                self._check_workers(batches, first_step)
                batches = self.distribution.share_of(batches)
            is_due = evaluation is not None and self.distribution.of_chief(
                self._is_evaluation_due(first_step, last_step)
            )
            self.reports.truncate_after(first_step, first_step - 1 if is_due else first_step)
            if is_due:
                evaluate(first_step)
            if is_over or self._is_exhausted():
                return first_step, None, metrics
            for note in self.model.prepare_training(batches.targets["labels"]):
                say(note)
            self._describe(batches)
            weights, state = self._tensors()
            self.writer.reserve(weights | state)
            if self.run.recovery_factor is not None and self.saved_step is None:
                self._save(first_step)  # there has to be something to go back to

            def build(labels=batches.targets["labels"]):
                model = self.make_model(self.params)
                model.prepare_training(labels)
                return model, optimizer_of(model, self.params)

            train_step = make_train_step(
                self.model_fn,
                self.params,
                self.model,
                self.optimizer,
                self.distribution,
                build,
                self.programs,
            )

            def step_and_listen(features, labels, train_step=train_step):
                self.writer.poll()
                self.distribution.share_requests()
                with self.distribution.losses_explained():
                    figures = train_step(features, labels)
                check_still_there(self.model_dir)
                return figures

            try:
                step, signal_number = train(
                    step_and_listen,
                    batches,
                    first_step,
                    last_step,
                    self.run,
                    self.reports,
                    self._save,
                    None if evaluation is None else evaluate,
                    self.state.losses,
                    check_gradients=not self.optimizer.loss_scale.skips_overflow,
                    num_workers=self.distribution.num_workers,
                    # A GPU is handed operations ahead of time as it is.
                    is_ahead=self.distribution.num_replicas == 1 and not gpus_of(self.run.device),
                )
                return step, signal_number, metrics
            except NotFiniteError as error:
                first_step = self._recover(error, batches, first_step)

    def _is_evaluation_due(self, step, last_step):
        """Whether the evaluation at the step to begin from is still to come, or is lost.

        A checkpoint is saved before it is evaluated. What metrics.jsonl says of that evaluation is
        measured again where the checkpoint does not know of it, for the best metric's sake.
        """
        if step == 0 or self.state.evaluated_step >= step:
            return False
        return (
            step >= last_step
            or is_evaluated(step, last_step, self.run)
            or self.reports.has_evaluation(step)
        )

    def _note_evaluation(self, step, metrics):
        """Keeps the checkpoint of an evaluation that is the best so far.

        Returns:
            bool. Whether training is to end here.
        """
        value = None if self.metric is None else self.metric.value_in(metrics)
        if self.state.count_evaluation(step, value, self.metric):
            if self.saved_step != step:
                self._save(step)
            self.writer.then(functools.partial(self._write_best, step, value))
            say(f"Best so far: {self.metric.name} {value:.4f} at step {step}")
        return self._is_exhausted()

    def _is_exhausted(self):
        patience = self.run.early_stopping_patience
        return patience is not None and self.state.num_without_better >= patience

    # ---- numbers that are not finite -------------------------------------------------------------

    def _scale_rate(self):
        """Lets `recover_from_nan` lower the learning rate: a factor that is 1 at first."""
        factor = self.run.recovery_factor
        if factor is None:
            return
        schedule = self.optimizer.learning_rate
        self.rate_factor = tf.Variable(factor**self.state.num_recoveries, dtype=tf.float32)
        self.optimizer.learning_rate = lambda step: schedule(step) * self.rate_factor

    def _recover(self, error, batches, first_step):
        """Goes back to the last checkpoint with a lower rate. Returns its step.

        Raises:
            RunError: that is not wanted, or has been done often enough.
        """
        factor = self.run.recovery_factor
        text = f"{error}.{self._context_of(error, batches, first_step)}"
        number = self.state.num_recoveries + 1
        if factor is None:
            raise RunError(text) from error
        if number > MAX_RECOVERIES:
            raise RunError(f"{text}\n  {MAX_RECOVERIES} steps back have not helped") from error
        self.writer.wait()
        self.distribution.barrier()
        path = store.newest_checkpoint(self.model_dir, say)
        if path is None:
            raise RunError(text) from error
        first_step = self._resume(path)
        self.state.num_recoveries = number
        self.rate_factor.assign(factor**number)
        say(
            f"{text}\nBack to step {first_step}, with the learning rate times {factor**number:g} "
            f"(recover_from_nan, {number} of {MAX_RECOVERIES})"
        )
        return first_step

    def _context_of(self, error, batches, first_step):
        """Lines on the tensor and the rows with which numbers stopped being finite."""
        lines = []
        found = self.optimizer.first_nonfinite()
        if found is not None and found[0] == error.step:
            lines.append(f"the first gradient that was not finite is that of {found[1]}")
        per_step = self.params.optimizer.grad_accum_steps
        first = (error.step - 1 - first_step) * per_step
        rows = batches.rows[first : first + per_step].ravel()
        lines.append(f"rows of the step: {', '.join(map(str, rows))}")
        features, _ = next(iter(batches.dataset.skip(first).take(1)))
        ids_of_row = np.asarray(features["input_ids"])
        if "starts" in features:
            ids_of_row = np.split(ids_of_row.ravel(), np.asarray(features["starts"])[1:])
        for row, ids in zip(rows[:MAX_SHOWN_TEXTS], ids_of_row, strict=False):
            tokens = [self.vocab[i] for i in ids if self.vocab[i] != "[PAD]"]
            text = " ".join(tokens).replace(" ##", "")
            lines.append(f"row {row}: {text if len(text) <= 80 else text[:77] + '...'}")
        return "".join(f"\n  {line}" for line in lines)

    def _describe(self, batches):
        cfg = self.params.train_input
        per_step = self.params.optimizer.grad_accum_steps
        rows = f"{per_step} x {cfg.batch_size}" if per_step > 1 else cfg.batch_size
        say(
            f"Training on {batches.num_rows:,} rows: {len(batches) // per_step:,} steps of "
            f"{rows}, {batches.description}; "
            f"{batches.num_real / batches.num_computed:.0%} of the computed tokens are real"
            + self.distribution.description
        )

    # ---- evaluation ------------------------------------------------------------------------------

    def _score(self, batches_of_split, predict_step=None, description="eval"):
        """Returns {split: (logits [N, C], labels [N])}; without predict_step the network's own."""
        num_streams = self.run.num_streams if predict_step is None else 1
        predict_step = predict_step or self.predictor.step()
        scores = {}
        for split, batches in batches_of_split.items():
            logits, rows = collect_logits(
                predict_step,
                batches,
                self.run.eval_steps,
                f"{description} {split}",
                distribution=self.distribution,
                num_streams=num_streams,
            )
            scores[split] = logits, batches.targets["labels"][rows]
        return scores

    def _evaluate(self, batches_of_split, step):
        """Scores every split. Returns the metrics of all rows, and writes the reports."""
        scores = self._score(batches_of_split)
        logits, labels = all_rows(scores)
        metrics = metrics_of(self.model, scores)
        check_still_there(self.model_dir)
        self.reports.scalars("eval", step, metrics)
        if logits.shape[-1] == 1:
            report = regression_report(logits, labels)
        else:
            report = classification_report(logits, labels, self.label_names)
        say(self.reports.evaluation(step, report))
        return metrics | {"rows": len(labels)}

    def _calibrate(self, batches_of_split):
        """Fits a temperature for the last checkpoint and for the best, and keeps it with them."""
        results = {}
        steps = {self.saved_step, self.state.best_step} - {-1, None}
        for step in sorted(steps):
            path = self.model_dir / f"checkpoint-{step}"
            if store.fault_in(path) is not None:
                continue  # the best of a run that has lost it
            checkpoint = open_checkpoint(path)
            self.load(checkpoint)
            logits, labels = all_rows(self._score(batches_of_split))
            temperature = fit_temperature(logits, labels)
            before, after = (
                {
                    "expected_calibration_error": expected_calibration_error(softmax(z), labels),
                    "loss": float(cross_entropy(z, labels).mean()),
                }
                for z in (logits, logits / temperature)
            )
            results[path.name] = {
                "temperature": temperature,
                "num_examples": len(labels),
                "before": before,
                "after": after,
            }
            changes = [
                f"{name.replace('_', ' ')} {before[name]:.4f} -> {after[name]:.4f}"
                for name in before
            ]
            say(
                f"Temperature {temperature:.4f} of {path.name}, fitted to {len(labels):,} rows: "
                + ", ".join(changes)
            )
            is_new = checkpoint.config.get("temperature") != temperature
            if is_new and self.distribution.is_chief:
                ours.update_config(path, temperature=temperature)
        content = json.dumps(results, indent=2) + "\n"
        if self.distribution.is_chief:
            write_whole(self.model_dir / "eval" / CALIBRATION, content)

    def evaluate(self, eval_input_fn, checkpoint):
        """Scores a Checkpoint on every row and prints a closing summary. Returns exit code 0."""
        self.load(checkpoint)
        step = checkpoint.config.get("step", 0)
        metrics = self._evaluate(eval_input_fn(self.params), step)
        self._summarise(f"Evaluated {checkpoint.path}", metrics)
        return 0

    def evaluate_all(self, eval_input_fn):
        """Scores every checkpoint of model_dir, oldest first. Returns exit code 0."""
        batches = eval_input_fn(self.params)
        rows = []
        for step, path in store.list_checkpoints(self.model_dir):
            fault = store.fault_in(path)
            if fault is not None:
                say(f"skipped {path}: {fault}")
                continue
            self.load(open_checkpoint(path))
            metrics = self._evaluate(batches, step)
            name = "pearson" if "eval/pearson" in metrics else "accuracy_cls"
            rows.append((step, metrics[f"eval/{name}"], metrics["loss"]))
        best = max(rows, key=lambda row: row[1])
        for step, figure, loss in rows:
            mark = "  best" if step == best[0] else ""
            name = name.removesuffix("_cls")
            print(f"step {step:>8}  {name} {figure:.4f}  loss {loss:.4f}{mark}")
        self._summarise(f"Evaluated {len(rows)} checkpoints", {})
        return 0

    # ---- prediction ------------------------------------------------------------------------------

    def predict(self, batches_of_split, texts_of_split, checkpoint):
        """Predicts every row of every split and writes the files of `write_predictions`.

        Args:
            batches_of_split: {name: Batches}.
            texts_of_split: {name: list of tuples of str}, in row order.
            checkpoint: Checkpoint.
        Returns:
            {name: logits float32 [N, C]}.
        """
        self.load(checkpoint)
        predict_step = self.predictor.step()
        logits_of_split, written = {}, []
        for task, (split, batches) in enumerate(batches_of_split.items()):
            logits, _ = collect_logits(
                predict_step,
                batches,
                description=f"predict {split}",
                distribution=self.distribution,
                num_streams=self.run.num_streams,
            )
            logits_of_split[split] = logits
            if not self.distribution.is_chief:
                continue
            written += write_predictions(
                self.model_dir / "predict",
                f"predictions_tf_{task}",
                logits,
                texts_of_split[split],
                self.label_names,
                self.temperature,
            )
        rows = sum(len(logits) for logits in logits_of_split.values())
        items = [("Predicted", f"{rows:,} rows"), *(("Written", str(path)) for path in written)]
        say(closing_summary(items))
        return logits_of_split

    # ---- export ----------------------------------------------------------------------------------

    def export(
        self,
        checkpoint,
        text_features,
        export_format,
        export_dir=None,
        quantize=None,
        eval_input_fn=None,
        data="",
    ):
        """Writes a Checkpoint for other programs. Returns exit code 0.

        Args:
            checkpoint: Checkpoint of a trained classifier.
            text_features: TextFeatures, texts to features.
            export_format, quantize: as `common/export/export.py`.
            export_dir: path-like; None is export/<format> in model_dir.
            eval_input_fn: params -> {split: Batches}, to show what quantisation costs; or None.
            data: str, what the rows are, for the model card.
        """
        self.load(checkpoint)
        if self.temperature != 1.0:
            # logits / T, whoever computes them: the classifier's last layer is linear.
            for weight in self.model.classifier.weights:
                weight.assign(weight.value / self.temperature)
        step = checkpoint.config.get("step")
        classifier = Classifier(
            self.model,
            self.params,
            self.label_names,
            self.vocab,
            text_features,
            self._metrics_of(checkpoint.path, step),
            step,
            quantize,
            data,
            self._params_of(checkpoint.path),
        )
        batches_of_split, comparison = None, []
        if quantize is not None and eval_input_fn is not None:
            try:
                batches_of_split = eval_input_fn(self.params)
            except UserError as error:  # the export itself needs no data
                comparison.append(("Not scored", str(error)))

        def score(folder):
            scores, lines = self._compare_onnx_files(folder, batches_of_split)
            comparison.extend(lines)
            return scores

        folder, notes = export(
            export_format,
            classifier,
            export_dir or self.model_dir / "export" / export_format,
            score if batches_of_split else None,
        )
        items = [("Exported", str(folder)), *(("Note", note) for note in notes)]
        if self.temperature != 1.0:
            items.append(("Temperature", f"{self.temperature:.4f}, in the classifier's weights"))
        say(closing_summary(items + comparison))
        return 0

    def _is_in_model_dir(self, path):
        return Path(path).resolve().is_relative_to(self.model_dir.resolve())

    def _params_of(self, path):
        """Returns {section: {key: value}} of the run that a checkpoint of model_dir is of."""
        sections = read_params_yaml(self.model_dir) if self._is_in_model_dir(path) else None
        return sections or None

    def _metrics_of(self, path, step):
        """Returns {name: figure} of a checkpoint of model_dir that was evaluated, else {}."""
        inside = self._is_in_model_dir(path)
        curves = read_curves(self.model_dir) if inside else {}
        return {
            name: curve[step]
            for (split, name), curve in curves.items()
            if split == "eval" and step in curve
        }

    def _compare_onnx_files(self, folder, batches_of_split):
        """Scores a network before and after quantisation.

        Returns {file: {metric: float}}, and what it cost, as items of a summary.
        """
        from common.export import onnx

        metrics, labels_given, items = {}, [], []
        for name in (onnx.MODEL_FILE, onnx.INT8_FILE):
            scores = self._score(batches_of_split, onnx.make_predict_step(folder / name), name)
            logits, labels = all_rows(scores)
            metrics[name] = metrics_of(self.model, scores)
            labels_given.append(logits.argmax(axis=-1))
            items.append((name, figures_of(metrics[name], len(labels))))
        before, after = metrics.values()
        lost = {key: before[key] - after[key] for key in before if key.startswith("eval/")}
        text = ", ".join(f"{value:.4f} of {figure_name(key)}" for key, value in lost.items())
        if logits.shape[-1] > 1:
            differ = int((labels_given[0] != labels_given[1]).sum())
            text += f"; {differ} of {len(labels)} rows have another label"
        items.append(("Lost to int8", text))
        return metrics, items

    # ---- what is printed last --------------------------------------------------------------------

    def _summarise(self, what, metrics):
        check_still_there(self.model_dir)
        self.reports.plot_curves()
        self.reports.close()
        items = [("Done", f"{what}, {format_duration(time.monotonic() - self.started)}")]
        if "eval/accuracy_cls" in metrics:
            rows = metrics["rows"]
            correct = round(metrics["eval/accuracy_cls"] * rows)
            items.append(("Accuracy", f"{metrics['eval/accuracy_cls']:.4f} ({correct} of {rows})"))
        items += [
            (name.removeprefix("eval/"), f"{value:.4f}")
            for name, value in metrics.items()
            if name not in ("rows", "eval/accuracy_cls")
        ]
        newest = store.list_checkpoints(self.model_dir)
        if newest:
            items.append(("Checkpoint", str(newest[-1][1])))
        with contextlib.suppress(UserError):
            items.append(("Best", str(store.best_checkpoint(self.model_dir))))
        items += [
            ("Metrics", str(self.model_dir / "metrics.jsonl")),
            ("Plots", str(self.model_dir / "plots")),
            ("TensorBoard", f"tensorboard --logdir {self.model_dir}"),
        ]
        say(closing_summary(items))


def figure_name(key):
    """What a metric is called in a line of text."""
    return key.removeprefix("eval/").removesuffix("_cls")


def figures_of(metrics, rows):
    """Returns the metrics of so many rows as a line of text, accuracy with its count first."""
    figures = {figure_name(key): value for key, value in metrics.items()}
    accuracy = figures.pop("accuracy", None)
    texts = [f"{key} {value:.4f}" for key, value in figures.items()]
    if accuracy is not None:
        texts.insert(0, f"accuracy {accuracy:.4f} ({round(accuracy * rows)} of {rows})")
    return ", ".join(texts)
