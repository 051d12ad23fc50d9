# SPDX-License-Identifier: Apache-2.0
"""One model with its optimizer, checkpoints and reports: what each mode of `run.py` calls.

Like the original's Estimator it is given the model's and the input's functions, so that it knows
neither the network nor the data.
"""

import sys
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from common.checkpoints import store
from common.checkpoints.load import load_weights, open_checkpoint
from common.errors import UserError
from common.export.export import Classifier, export
from common.metrics.classification import classification_report
from common.optimizers.adamw import AdamW
from common.training.evaluate import collect_logits, make_predict_step
from common.training.loop import make_train_step, train
from common.training.predict import write_predictions
from common.training.progress import format_duration
from common.training.reports import Reports, closing_summary, read_curves

GEOMETRY = (
    "hidden_size",
    "num_hidden_layers",
    "num_heads",
    "filter_size",
    "vocab_size",
    "max_position_embeddings",
    "encoder_nonlinearity",
    "layer_norm_epsilon",
    "use_pre_normalization",
    "use_position_embedding",
    "use_segment_embedding",
)


def say(text):
    print(text, file=sys.stderr, flush=True)


class Estimator:
    """Trains, evaluates and predicts with one model.

    Args:
        params: complete Params.
        model_fn, make_model: as in `model.py`.
        label_names: str per class.
        vocab: list of str, kept with every checkpoint.
    """

    def __init__(self, params, model_fn, make_model, label_names, vocab):
        self.params = params
        self.run = params.runconfig
        self.model_dir = Path(self.run.model_dir)
        self.model_fn = model_fn
        self.label_names = tuple(label_names)
        self.vocab = vocab
        self.model = make_model(params)
        self.predict_step = make_predict_step(model_fn, params, self.model)
        self.reports = Reports(self.model_dir)
        self.started = time.monotonic()

    # ---- checkpoints -----------------------------------------------------------------------------

    def _weights(self):
        return {name: weight.value for name, weight in self.model.weights_by_name().items()}

    def _save(self, step):
        config = {key: getattr(self.params.model, key) for key in GEOMETRY}
        config |= {
            "label_names": self.label_names,
            "step": step,
            "do_lower_case": self.params.predict_input.do_lower,
            "tf_random_seed": self.run.tf_random_seed,
        }
        store.save_checkpoint(
            self.model_dir,
            step,
            {name: np.asarray(weight) for name, weight in self._weights().items()},
            {name: np.asarray(value) for name, value in self.optimizer.state.items()},
            config,
            self.vocab,
            self.run.keep_checkpoint_max,
        )

    def _resume(self, path):
        """Puts every weight and the whole training state back. Returns the global step."""
        for variables, tensors in (
            (self._weights(), store.read_weights(path)),
            (self.optimizer.state, store.read_state(path)),
        ):
            differing = sorted(
                name
                for name in {*variables, *tensors}
                if name not in variables
                or name not in tensors
                or tuple(variables[name].shape) != tensors[name].shape
            )
            if differing:
                raise UserError(
                    f"{path} cannot be resumed: {', '.join(differing[:5])} "
                    f"({len(differing)} in all) differ from what the params ask for. Use the "
                    "params it was made with, or another --model_dir"
                )
            for name, variable in variables.items():
                variable.assign(tensors[name].read())
        return int(self.optimizer.step.numpy())

    def load(self, checkpoint):
        """Loads the weights of a Checkpoint to score or predict with, and says which.

        Raises:
            UserError: its head has not been trained for these labels.
        """
        report = load_weights(self.model, checkpoint)
        if report.fresh:
            raise UserError(
                f"checkpoint {checkpoint.path} has no trained weights for "
                f"{', '.join(sorted(report.fresh))}; train first, or give the checkpoint of a "
                f"classifier with {len(self.label_names)} labels"
            )
        say(f"Weights of {checkpoint.path} ({checkpoint.format})")

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
            eval_input_fn: params -> {split: Batches}, to evaluate after every save; or None.
        Returns:
            exit code: 0, or 128 + n after signal n.
        """
        weights = {w.path.split("/", 1)[1]: w.value for w in self.model.trainable_weights}
        self.optimizer = AdamW(weights, self.params.optimizer)
        first_step = 0
        if resumed is not None:
            first_step = self._resume(resumed)
            say(f"Resuming {resumed} at step {first_step}")
        elif pretrained is not None:
            report = load_weights(self.model, pretrained, self.params.model.disable_nsp)
            say(report.table())
        else:
            say("No checkpoint given: training starts from fresh weights")
        self.reports.truncate_after(first_step)

        last_step = self._last_step(first_step)
        evaluation = None if eval_input_fn is None else eval_input_fn(self.params)
        if last_step <= first_step:
            metrics = {} if evaluation is None else self._evaluate(evaluation, first_step)
            self._summarise(f"Nothing to train: step {first_step} of {last_step} reached", metrics)
            return 0
        batches = train_input_fn(self.params, first_step, last_step)
        self._describe(batches)
        metrics, evaluated = {}, float("-inf")

        def evaluate(step):
            nonlocal evaluated
            if step < last_step and time.monotonic() - evaluated < self.run.throttle_secs:
                return
            metrics.update(self._evaluate(evaluation, step))
            evaluated = time.monotonic()

        step, signal_number = train(
            make_train_step(self.model_fn, self.params, self.model, self.optimizer),
            batches,
            first_step,
            last_step,
            self.run,
            self.reports,
            self._save,
            None if evaluation is None else evaluate,
        )
        self._summarise(f"Trained to step {step}", metrics)
        if signal_number is not None and step < last_step:
            say(f"Stopped by signal {signal_number}; the same command continues at step {step}")
            return 128 + signal_number
        return 0

    def _last_step(self, first_step):
        run = self.run
        goals = []
        if run.steps is not None and run.mode != "train_and_eval":
            goals.append(first_step + run.steps)
        if run.max_steps is not None:
            goals.append(run.max_steps)
        if not goals:
            or_steps = "" if run.mode == "train_and_eval" else ", or --steps (how many more)"
            raise UserError(
                "how long to train is not said: give --max_steps (the step to reach), or "
                f"runconfig.max_steps in the params file{or_steps}"
            )
        return min(goals)

    def _describe(self, batches):
        cfg = self.params.train_input
        real = batches.num_tokens[batches.rows].sum()
        computed = int(batches.lengths.sum()) * cfg.batch_size
        say(
            f"Training on {len(batches.labels):,} rows: {len(batches):,} steps of "
            f"{cfg.batch_size}, padded to {', '.join(map(str, sorted(set(batches.lengths))))} "
            f"tokens; {100 * real / computed:.0f}% of the computed tokens are real"
        )

    # ---- evaluation ------------------------------------------------------------------------------

    def _evaluate(self, batches_of_split, step):
        """Scores every split. Returns the metrics of all rows, and writes the reports."""
        logits, labels, metrics = [], [], {}
        for split, batches in batches_of_split.items():
            split_logits, rows = collect_logits(
                self.predict_step, batches, self.run.eval_steps, f"eval {split}"
            )
            logits.append(split_logits)
            labels.append(batches.labels[rows])
            if len(batches_of_split) > 1:  # the original: eval/accuracy_matched, _mismatched
                hits = split_logits.argmax(axis=-1) == labels[-1]
                name = split.removeprefix("validation_")
                metrics[f"eval/accuracy_{name}"] = float(hits.mean())
        logits, labels = np.concatenate(logits), np.concatenate(labels)
        metrics = self.model.build_eval_metric_ops(logits, labels) | metrics
        self.reports.scalars("eval", step, metrics)
        report = classification_report(logits, labels, self.label_names)
        say(self.reports.evaluation(step, report))
        return metrics | {"rows": len(labels)}

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
            rows.append((step, metrics["eval/accuracy_cls"], metrics["loss"]))
        best = max(rows, key=lambda row: row[1])
        for step, accuracy, loss in rows:
            mark = "  best" if step == best[0] else ""
            print(f"step {step:>8}  accuracy {accuracy:.4f}  loss {loss:.4f}{mark}")
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
        logits_of_split, written = {}, []
        for task, (split, batches) in enumerate(batches_of_split.items()):
            logits, _ = collect_logits(self.predict_step, batches, description=f"predict {split}")
            logits_of_split[split] = logits
            written += write_predictions(
                self.model_dir / "predict",
                f"predictions_tf_{task}",
                logits,
                texts_of_split[split],
                self.label_names,
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
    ):
        """Writes a Checkpoint for other programs. Returns exit code 0.

        Args:
            checkpoint: Checkpoint of a trained classifier.
            text_features: TextFeatures, texts to features.
            export_format, quantize: as `common/export/export.py`.
            export_dir: path-like; None is export/<format> in model_dir.
            eval_input_fn: params -> {split: Batches}, to show what quantisation costs; or None.
        """
        self.load(checkpoint)
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
        )
        folder = export_dir or self.model_dir / "export" / export_format
        folder, notes = export(export_format, classifier, folder)
        items = [("Exported", str(folder)), *(("Note", note) for note in notes)]
        if quantize is not None and eval_input_fn is not None:
            items += self._accuracy_of_onnx_files(folder, eval_input_fn)
        say(closing_summary(items))
        return 0

    def _metrics_of(self, path, step):
        """Returns {name: figure} of a checkpoint of model_dir that was evaluated, else {}."""
        inside = Path(path).resolve().is_relative_to(self.model_dir.resolve())
        curves = read_curves(self.model_dir / "metrics.jsonl") if inside else {}
        return {
            name: curve[step]
            for (split, name), curve in curves.items()
            if split == "eval" and step in curve
        }

    def _accuracy_of_onnx_files(self, folder, eval_input_fn):
        """Scores model.onnx and model_int8.onnx. Returns items of a summary."""
        from common.export.onnx import make_predict_step as make_onnx_step

        try:
            batches_of_split = eval_input_fn(self.params)
        except UserError as error:  # the export itself needs no data
            return [("Not scored", str(error))]
        items = []
        for name in ("model.onnx", "model_int8.onnx"):
            step, correct, rows = make_onnx_step(folder / name), 0, 0
            for split, batches in batches_of_split.items():
                logits, numbers = collect_logits(
                    step, batches, self.run.eval_steps, f"{name} {split}"
                )
                correct += int((logits.argmax(axis=-1) == batches.labels[numbers]).sum())
                rows += len(numbers)
            items.append((name, f"accuracy {correct / rows:.4f} ({correct} of {rows})"))
        return items

    # ---- what is printed last --------------------------------------------------------------------

    def _summarise(self, what, metrics):
        self.reports.plot_curves()
        self.reports.close()
        items = [("Done", f"{what}, {format_duration(time.monotonic() - self.started)}")]
        if metrics:
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
        items += [
            ("Metrics", str(self.model_dir / "metrics.jsonl")),
            ("Plots", str(self.model_dir / "plots")),
            ("TensorBoard", f"tensorboard --logdir {self.model_dir}"),
        ]
        say(closing_summary(items))


def set_up(run):
    """Makes a run repeatable, before anything is built. run: RunParams.

    Raises:
        UserError: `run.device` is no device of this machine.
    """
    if run.device is not None:
        _check_device(run.device)
    keras.utils.set_random_seed(run.tf_random_seed)
    if run.deterministic:
        tf.config.experimental.enable_op_determinism()


def _check_device(device):
    """TensorFlow itself would take the CPU without a word where a GPU is absent."""
    # A name ends in its type and number: /device:CPU:0
    names = [d.name.lower().split(":")[-2:] for d in tf.config.list_logical_devices()]
    present = [f"/{kind}:{number}" for kind, number in names]
    try:
        spec = tf.DeviceSpec.from_string(device)
        wanted = f"/{spec.device_type.lower()}:{spec.device_index or 0}"
    except (ValueError, AttributeError):
        wanted = None
    if wanted not in present:
        raise UserError(f"--device {device} is not here; this machine has {', '.join(present)}")
