# SPDX-License-Identifier: Apache-2.0
"""`--validate_only`: finds in seconds what would make a run fail later, and trains nothing.

Every part of a run is asked for what it would refuse, by the functions that the run itself uses;
the programs are traced with shapes alone (`graph.py`). What is found is printed and written to
`model_dir/validate/report.json`, and nothing else is written to model_dir.
"""

import contextlib
import json
import math
import os
import shutil
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from safetensors import SafetensorError

import data
from common.checkpoints import store
from common.checkpoints.formats import ours
from common.checkpoints.load import match_weights, open_checkpoint
from common.console import closing_summary, log
from common.errors import RunError, UserError
from common.export.export import check_format
from common.files import write_whole
from common.optimizers.factory import optimizer_of
from common.platform.machine import available_bytes
from common.training.checks import (
    check_device,
    check_fits,
    check_metric,
    check_trained,
    check_vocab,
    last_step_of,
    set_up,
)
from common.training.distribution import ONE_DEVICE, make_distribution
from common.training.run_state import PREFIX, BestMetric
from common.validate import graph

REPORT = Path("validate", "report.json")
TRAINING_MODES = ("train", "train_and_eval")
GIGABYTE = 1e9
# What a process grew by on a CPU over what is estimated: 3.1 GB over 2.1, MiniLM, 64 rows of 128
# tokens. Libraries' work space, machine code and the input are not in the graph.
MEASURED_EXCESS = 1.5


def validate(params, params_path, choose_checkpoint, model_functions, check_meaning, given_texts):
    """Checks a run, prints the report and writes it.

    Args:
        params: Params as given, with model_dir.
        params_path: str, for messages.
        choose_checkpoint: RunParams -> (path to resume or None, path to load or None).
        model_functions: make_model and model_fn of `model.py`.
        check_meaning: (params to save, path to resume) -> None. Raises UserError where a resumed
            run would be another one.
        given_texts: (texts, input_file) of a prediction.
    Returns:
        exit code: 0, or 2 where there are problems; all of them are printed.
    """
    check = Validation(params, params_path, model_functions)
    check.run_all(choose_checkpoint, check_meaning, given_texts)
    path = Path(params.runconfig.model_dir) / REPORT
    with check.collecting():
        write_whole(path, json.dumps(check.report(), indent=2, ensure_ascii=False) + "\n")
    print(closing_summary([*check.items, ("Report", str(path))]), flush=True)
    for problem in check.problems:
        log(f"Problem: {problem}")
    return 2 if check.problems else 0


class Validation:
    """What has been looked at so far, and found.

    Args:
        params, params_path, model_functions: as of `validate`.
    Attributes:
        problems: list of str, sentences on what would make the run fail.
        items: list of (name, value), the report to read.
        facts: dict, the report to process.
    """

    def __init__(self, params, params_path, model_functions):
        self.params = params
        self.params_path = params_path
        self.make_model, self.model_fn = model_functions
        self.mode = params.runconfig.mode
        self.is_training = self.mode in TRAINING_MODES
        self.problems, self.items, self.facts = [], [], {}
        self.started = time.monotonic()

    @contextlib.contextmanager
    def collecting(self):
        """Within, what is refused becomes a problem, and the checks go on behind it."""
        try:
            yield
        except (UserError, RunError, OSError) as error:
            self.add_problem(str(error))

    def add_problem(self, text):
        if text not in self.problems:  # train and eval may say the same of their data
            self.problems.append(text)

    def report(self):
        return {
            "ok": not self.problems,
            "mode": self.mode,
            "params": str(self.params_path),
            "problems": self.problems,
            **self.facts,
            "seconds": round(time.monotonic() - self.started, 2),
        }

    def run_all(self, choose_checkpoint, check_meaning, given_texts):
        """Looks at everything, each part as far as those before it allow."""
        distribution = self._look_at_device()
        resumed, checkpoint = self._look_at_checkpoints(choose_checkpoint)
        config = {} if checkpoint is None else checkpoint.config
        seed = self.params.runconfig.tf_random_seed
        if seed is None:  # a resumed run has the checkpoint's again
            seed = config.get("tf_random_seed") if resumed else None
            self.params = self.params.with_runconfig(tf_random_seed=0 if seed is None else seed)
        texts = []
        with self.collecting():
            texts = data.read_texts(*given_texts) if self.mode == "predict" else []
        as_given = self.params
        complete, labels, vocab = self._complete(config, bool(texts))
        first_step, last_step = 0, 1
        if self.is_training:
            if resumed is not None:
                first_step = int(checkpoint.config["step"])
            with self.collecting():
                last_step = last_step_of(self.params.runconfig, first_step)
        if complete is not None and len(vocab) > complete.model.vocab_size:
            self.add_problem(
                f"{complete.predict_input.vocab_file} has the ids 0 to {len(vocab) - 1}, but the "
                f"embedding table has model.vocab_size {complete.model.vocab_size} rows; leave "
                "model.vocab_size out, or give the vocabulary that the weights were trained with"
            )
        export_best = self.params.runconfig.export_best
        if complete is not None and self.mode == "train_and_eval" and export_best is not None:
            with self.collecting():
                check_format(export_best, complete)
        batches = self._look_at_data(texts, first_step, last_step)
        if self.is_training and batches.get("train") is not None:
            with self.collecting():
                distribution.check_batch_size(self.params.train_input.batch_size)
        if complete is None:
            self.items.append(("Programs", "not traced: the network is not known"))
            return
        if self.is_training and resumed is not None:
            with self.collecting():
                check_meaning(self.params.with_inputs_of(as_given), resumed)
        with graph.new_graph().as_default():
            model = self.make_model(self.params)
            self._look_at_programs(model, batches, resumed, checkpoint, labels, vocab, distribution)

    # ---- the machine and the weights -------------------------------------------------------------

    def _look_at_device(self):
        """Returns the Distribution of the run, or that of one device."""
        run, distribution = self.params.runconfig, ONE_DEVICE
        with self.collecting():
            if run.multiple_workers:
                self.items.append(("Workers", "each is checked by itself; none is waited for"))
            else:
                distribution = make_distribution(run)
        with self.collecting():
            if run.device is not None:
                check_device(run.device)
        kinds = {d.device_type for d in tf.config.list_logical_devices()}
        is_on_cpu = "GPU" not in kinds or "cpu" in str(run.device).lower()
        self.device_type = "CPU" if is_on_cpu else "GPU"
        self.facts["device"] = self.device_type
        return distribution

    def _look_at_checkpoints(self, choose_checkpoint):
        """Returns the path to resume or None, and the Checkpoint whose weights are used or None."""
        run = self.params.runconfig
        listed = store.list_checkpoints(run.model_dir)
        faults = {str(path): fault for _, path in listed if (fault := store.fault_in(path))}
        self.facts["model_dir"] = {"checkpoints": len(listed), "damaged": faults}
        # Where those of model_dir are damaged, the one to start from is looked at all the same.
        resumed, chosen = None, run.checkpoint_path if self.is_training else None
        checkpoint = None
        with self.collecting():
            resumed, chosen = choose_checkpoint(run)
        if chosen is not None:
            with self.collecting():
                checkpoint = open_checkpoint(chosen)
        if checkpoint is None:
            resumed = None
            self.items.append(("Checkpoint", "none" if chosen is None else f"{chosen}: unusable"))
        else:
            use = "to resume" if resumed else "to start from" if self.is_training else "to use"
            text = f"{checkpoint.path} ({checkpoint.format}), {use}"
            self.items.append(("Checkpoint", text))
            self.facts["checkpoint"] = {
                "path": str(checkpoint.path),
                "format": checkpoint.format,
                "resumed": resumed is not None,
            }
        return resumed, checkpoint

    def _complete(self, config, has_texts):
        """Returns the complete Params or None, label names, and the vocabulary, both may be empty.

        self.params becomes as complete as it can: the data are read where the network is wrong.
        """
        try:
            self.params, labels, vocab = data.complete_params(
                self.params, config, self.params_path, labels_from_checkpoint=has_texts
            )
            return self.params, labels, vocab
        except (UserError, OSError) as error:
            self.add_problem(str(error))
        with contextlib.suppress(UserError):  # the shapes may follow from the params alone
            self.params = self.params.with_vocab_file(config.get("vocab_file"))
        try:
            classes = self.params.model.num_cls_classes or len(config.get("label_names", ())) or 2
            completed = self.params.complete(config, {"num_cls_classes": classes}, self.params_path)
        except UserError as error:
            if error.args[0].splitlines()[1:] != self.problems[-1].splitlines()[1:]:
                self.add_problem(str(error))
            return None, (), []
        self.params = completed
        return completed, (), []

    def _fits(self, model, optimizer, resumed, checkpoint, labels, vocab):
        """Whether the weights of a checkpoint, and its state where resumed, are the network's."""
        variables = model.weights_by_name()
        if resumed is not None:
            weights = {name: variable.value for name, variable in variables.items()}
            state = ours.read_state(resumed)
            state = {name: tensor for name, tensor in state.items() if not name.startswith(PREFIX)}
            check_fits(resumed, weights | optimizer.averages, ours.read_weights(resumed))
            check_fits(resumed, optimizer.state, state)
            if not self.params.runconfig.allow_changed_params and vocab:
                check_vocab(vocab, checkpoint.vocab_file, Path(resumed))
            return
        head = self.is_training and self.params.model.disable_nsp
        report, sources = match_weights(variables, checkpoint, head, self.params_path)
        if not self.is_training:
            check_trained(report, len(labels) or self.params.model.num_cls_classes)
        for name, source in sources.items():
            try:
                is_finite = np.isfinite(np.asarray(source)).all()
            except (OSError, ValueError, RuntimeError, SafetensorError) as error:
                raise UserError(
                    f"{name} of checkpoint {checkpoint.path} cannot be read ({error}); the file is "
                    "damaged, fetch it again"
                ) from error
            if not is_finite:
                raise UserError(
                    f"{name} of checkpoint {checkpoint.path} has numbers that are not finite; "
                    "take another one"
                )
        counts = {key: len(getattr(report, key)) for key in ("loaded", "fresh", "unused")}
        self.facts["checkpoint"]["weights"] = counts
        text = ", ".join(f"{number} {key}" for key, number in counts.items())
        self.items.append(("Weights", f"{text}{''.join(f'; {note}' for note in report.notes)}"))

    # ---- data ------------------------------------------------------------------------------------

    def _look_at_data(self, texts, first_step, last_step):
        """Returns {"train" or a split: Batches} of what the mode reads, as far as it can be."""
        run, read = self.params.runconfig, {}
        # One folder for all runs notes skipped rows; a validation leaves it alone.
        params = self.params.with_runconfig(model_dir=None)
        if self.is_training and self.params.train_input is not None:
            with self.collecting():
                last_step = max(last_step, first_step + 1)
                read["train"] = data.train_input_fn(params, first_step, last_step)
                self._describe("train", read["train"], self.params.train_input)
        if self.mode == "predict":
            with self.collecting():
                read |= data.predict_input_fn(params, texts)[0]
        elif self.mode != "train" or run.calibrate_temperature:
            with self.collecting():
                read |= data.eval_input_fn(params)
        section = self.params.predict_input if self.mode == "predict" else self.params.eval_input
        for split, batches in read.items():
            if split != "train":
                with self.collecting():
                    self._describe(split, batches, section)
        return read

    def _describe(self, split, batches, cfg):
        """Reads the first batch, and counts what is cut and what is padding."""
        if not len(batches):
            raise UserError(
                f"{split} has {batches.num_rows} rows, of which not one batch of "
                f"{cfg.batch_size} can be made; choose a smaller batch_size"
            )
        features, targets, *_ = next(iter(batches))
        tensors = features | targets
        first_batch = {
            name: {
                "shape": tensor.shape.as_list(),
                "dtype": tensor.dtype.name,
                "least": tensor.numpy().min().item(),
                "most": tensor.numpy().max().item(),
            }
            for name, tensor in tensors.items()
        }
        num_rows = batches.num_rows
        facts = {
            "rows": num_rows,
            "batches": len(batches),
            "shapes": np.unique(batches.shapes, axis=0).tolist(),
            "truncated_share": batches.num_truncated / num_rows,
            "padding_share": 1.0 - batches.num_real / batches.num_computed,
            "first_batch": first_batch,
        }
        self.facts.setdefault("data", {})[split] = facts
        self.items.append(
            (
                f"Data {split}",
                f"{num_rows:,} rows, {len(batches):,} batches of {batches.rows.shape[1]} "
                f"{batches.description}; "
                f"{facts['truncated_share']:.1%} of the rows are truncated, "
                f"{facts['padding_share']:.1%} of the computed tokens are padding",
            )
        )
        self.items.append(
            (
                "",
                "; ".join(
                    f"{name} {each['dtype']} {each['shape']}, {each['least']} to {each['most']}"
                    for name, each in first_batch.items()
                ),
            )
        )

    # ---- programs --------------------------------------------------------------------------------

    def _look_at_programs(self, model, batches, resumed, checkpoint, labels, vocab, distribution):
        """Traces what the run executes, and says what it takes. Within the graph of the model."""
        run, programs = self.params.runconfig, {}
        set_up(run.model_copy(update={"device": None, "deterministic": False}))
        optimizer, num_devices = None, len(distribution.devices)
        if self.is_training:
            with self.collecting():
                if not model.trainable_weights:
                    raise UserError(
                        f"{self.params_path}: model.freeze leaves nothing to train; freeze less"
                    )
                optimizer = optimizer_of(model, self.params)
        if checkpoint is not None and (optimizer is not None or not self.is_training):
            with self.collecting():
                self._fits(model, optimizer, resumed, checkpoint, labels, vocab)
        evaluation = {split: b for split, b in batches.items() if split != "train"}
        if run.best_metric is not None and self.mode == "train_and_eval" and evaluation:
            with self.collecting():
                check_metric(BestMetric(run.best_metric, run.best_metric_mode), model, evaluation)
        if optimizer is not None:
            with self.collecting():
                train = batches.get("train")
                if train is not None:
                    model.prepare_training(train.targets["labels"])
                shape = _largest(train, self.params.train_input, distribution.num_replicas)
                dtype = tf.float32 if self.params.train_input.task == "regression" else tf.int32
                programs["train"] = graph.trace_train_step(
                    self.model_fn,
                    self.params,
                    model,
                    optimizer,
                    shape,
                    dtype,
                    num_packed=None if train is None else train.num_packed,
                )
        if self.mode != "train" or run.calibrate_temperature:
            with self.collecting():
                name = "predict" if self.mode == "predict" else "eval"
                largest = max(evaluation.values(), key=_tokens_of, default=None)
                section = getattr(self.params, f"{name}_input")
                shape = _largest(largest, section, 1)
                programs[name] = graph.trace_predict_step(
                    self.model_fn,
                    self.params,
                    model,
                    shape,
                    num_packed=None if largest is None else largest.num_packed,
                )
        self._describe_network(model, optimizer, programs, num_devices)
        for name, program in programs.items():
            with self.collecting():
                self._check_kernels(name, program)

    def _check_kernels(self, name, program):
        """Raises UserError where an operation runs neither on the device nor on the CPU."""
        absent = program.without_kernel(self.device_type)
        if self.device_type != "CPU" and absent:
            # TensorFlow puts those on the CPU, which costs a copy to and fro.
            on_cpu, absent = absent, absent & program.without_kernel("CPU")
            listed = ", ".join(sorted(set(on_cpu) - set(absent))) or "none"
            self.items.append((f"On the CPU, {name}", listed))
        if absent:
            raise UserError(
                f"the {name} step needs {', '.join(sorted(absent))}, which this TensorFlow cannot "
                f"run on {self.device_type}; choose another --device or model.mixed_precision"
            )

    def _describe_network(self, model, optimizer, programs, num_devices):
        """What the run takes, against what the machine has."""
        count = sum(math.prod(w.shape) for w in model.weights)
        trained = sum(math.prod(w.shape) for w in model.trainable_weights)
        self.facts["parameters"] = {"all": count, "trained": trained}
        text = f"{count:,}" + (f", {trained:,} of them trained" if self.is_training else "")
        self.items.append(("Parameters", text))
        weights = graph.bytes_of_variables(w.value for w in model.weights)
        everything = graph.bytes_of_variables(
            tf.compat.v1.get_collection(tf.compat.v1.GraphKeys.GLOBAL_VARIABLES)
        )
        self.facts["programs"] = {}
        needs = {}
        for name, program in programs.items():
            peak = program.peak_bytes
            needs[name] = everything + peak
            self.facts["programs"][name] = {
                "shape": list(program.shape),
                "operations": len(program.operations),
                "flops": program.flops,
                "bytes_of_intermediate_results": peak,
            }
            self.items.append(
                (
                    f"Step {name}",
                    f"{program.shape[0]} rows of {program.shape[1]} tokens: "
                    f"{len(program.operations):,} operations, {program.flops / 1e9:,.4g} GFLOP, "
                    f"{peak / GIGABYTE:.3g} GB of intermediate results",
                )
            )
        if not needs:
            return
        shared = num_devices if self.device_type == "CPU" else 1  # replicas in one memory
        largest = max(needs, key=needs.get)
        needed, available = needs[largest] * shared, available_bytes(self.device_type)
        self.facts["memory"] = {
            "weights": weights,
            "optimizer_and_training_state": everything - weights,
            "needed": needed,
            "available": available,
        }
        parts = (
            f"weights {weights / GIGABYTE:.3g}, optimizer {(everything - weights) / GIGABYTE:.3g}, "
            f"intermediate results {programs[largest].peak_bytes / GIGABYTE:.3g}"
        )
        has = "unknown" if available is None else f"{available / GIGABYTE:.3g} GB"
        self.items.append(
            ("Memory", f"about {needed / GIGABYTE:.3g} GB ({parts}); available: {has}")
        )
        if available is not None and needed <= available < needed * MEASURED_EXCESS:
            self.items.append(("", "little room: a process may take half as much again"))
        if available is not None and needed > available:
            rows, tokens = programs[largest].shape
            room = (available / shared - everything) / programs[largest].peak_bytes * rows
            advice = (
                f"write {largest}_input.batch_size: {int(room) * shared} or less"
                if room >= 1
                else "no batch is small enough: take a smaller network or a larger machine"
            )
            others = (
                "; model.recompute: true, optimizer.grad_accum_steps and packing: buckets help too"
                if largest == "train"
                else ""
            )
            self.add_problem(
                f"the {largest} step for {rows} rows of {tokens} tokens needs about "
                f"{needed / GIGABYTE:.3g} GB ({parts}), and {self.device_type} has "
                f"{available / GIGABYTE:.3g} GB free; {advice}{others}"
            )
        if optimizer is not None:
            saved = {**model.weights_by_name(), **optimizer.state}
            with self.collecting():
                _check_model_dir(self.params.runconfig.model_dir)
                size = graph.bytes_of_variables(getattr(v, "value", v) for v in model.weights)
                size += graph.bytes_of_variables(optimizer.state.values())
                store.check_space(self.params.runconfig.model_dir, size)
            free = shutil.disk_usage(_existing(self.params.runconfig.model_dir)).free
            self.facts["disk"] = {"checkpoint": size, "free": free, "tensors": len(saved)}
            self.items.append(
                (
                    "Disk",
                    f"{size / GIGABYTE:.3g} GB a checkpoint; {free / GIGABYTE:.3g} GB free",
                )
            )


def _tokens_of(batches):
    return batches.shapes.prod(axis=1).max()


def _largest(batches, cfg, num_replicas):
    """(B, T) of the largest batch of one device; of the params where no data could be read."""
    rows, length = cfg.batch_size, cfg.max_sequence_length
    if batches is not None:
        rows, length = batches.shapes[batches.shapes.prod(axis=1).argmax()].tolist()
    return max(rows // num_replicas, 1), length


def _existing(folder):
    """The nearest folder above that is there."""
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def _check_model_dir(model_dir):
    folder = _existing(model_dir)
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(
            f"{folder} cannot be written to, and checkpoints go to {model_dir}; choose another "
            "--model_dir"
        )
