# SPDX-License-Identifier: Apache-2.0
"""`--validate_only`: finds in seconds what would make a run fail later, and trains nothing.

Every part of a run is asked for what it would refuse, by the functions that the run itself uses;
the programs are traced with shapes alone (`graph.py`). What is found is printed and written to
`model_dir/validate/report.json`, and nothing else is written to model_dir.
"""

import contextlib
import dataclasses
import json
import math
import os
import shutil
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from safetensors import SafetensorError

from common.checkpoints import store
from common.checkpoints.formats import ours
from common.checkpoints.load import check_finite, match_weights
from common.console import closing_summary, counted, log
from common.errors import RunError, UserError
from common.files import existing_above, write_whole
from common.optimizers.factory import optimizer_of
from common.platform.machine import available_bytes
from common.training.checks import (
    check_calibration,
    check_device,
    check_fits,
    check_metric,
    check_plan_size,
    check_trained,
    set_up,
)
from common.training.distribution import ONE_DEVICE, make_distribution
from common.training.length import describe_length, last_step_of, notes_on_length
from common.training.run_state import PREFIX, BestMetric
from common.validate import graph

REPORT = Path("validate", "report.json")
# What a process grew by on a CPU over what is estimated: 3.1 GB over 2.1, MiniLM, 64 rows of 128
# tokens. Libraries' work space, machine code and the input are not in the graph.
MEASURED_EXCESS = 1.5


class Problems:
    """What would make the run fail. `sentences`: list of str."""

    def __init__(self):
        self.sentences = []

    @contextlib.contextmanager
    def collecting(self, part=None):
        """Within, what is refused becomes a problem, and the checks go on behind it."""
        del part  # every part of `open_session` alike
        try:
            yield
        except (UserError, RunError, OSError) as error:
            self.add(str(error))

    def add(self, text):
        # Train and eval may say the same of their data. The first line of a list of faults only
        # counts them.
        known = [sentence.splitlines()[1:] or sentence for sentence in self.sentences]
        if (text.splitlines()[1:] or text) not in known:
            self.sentences.append(text)


def open_distribution(run, problems):
    """Returns the Distribution of a run, or that of one device. run: RunParams."""
    distribution = ONE_DEVICE
    if not run.multiple_workers:  # each worker is checked by itself; none is waited for
        with problems.collecting():
            distribution = make_distribution(run)
    with problems.collecting():
        if run.device is not None:
            check_device(run.device)
    return distribution


def validate(session, problems):
    """Checks a run, prints the report and writes it. Returns 0, or 2 where there are problems.

    session: of `open_session` with `problems.collecting`. problems: those that were found so far.
    """
    check = Validation(session, problems)
    check.run_all()
    path = session.model_dir / REPORT
    with problems.collecting():
        write_whole(path, json.dumps(check.report(), indent=2, ensure_ascii=False) + "\n")
    check.note("Report", str(path))
    print(closing_summary(check.items), flush=True)
    for problem in problems.sentences:
        log(f"Problem: {problem}")
    return 2 if problems.sentences else 0


class Validation:
    """What has been looked at so far, and found.

    Args:
        session, problems: as of `validate`.
    Attributes:
        items: list of (name, value), the report to read.
        facts: dict, the report to process.
    """

    def __init__(self, session, problems):
        self.session, self.params, self.run = session, session.params, session.run
        self.problems, self.collecting = problems, problems.collecting
        self.mode, self.is_training = session.mode, session.is_training
        self.items, self.facts = [], {}
        self.started = time.monotonic()

    def note(self, name, text):
        self.items.append((name, text))

    def report(self):
        return {
            "ok": not self.problems.sentences,
            "mode": self.mode,
            "params": str(self.session.params_path),
            "problems": self.problems.sentences,
            **self.facts,
            "seconds": round(time.monotonic() - self.started, 2),
        }

    def run_all(self):
        """Looks at everything, each part as far as those before it allow."""
        session = self.session
        self._describe_device()
        self._describe_checkpoints()
        first_step, last_step = session.first_step, None
        seconds = self.run.max_seconds
        if self.is_training and seconds is not None:
            self.note("Length", f"the steps of {seconds:g} seconds, which training measures first")
        elif self.is_training and self.run.num_epochs is None:  # else the rows could not be read
            with self.collecting():
                check_plan_size(self.params)
                last_step = last_step_of(self.run, first_step)
        batches = self._look_at_data(first_step, last_step)
        if not session.is_complete:
            self.note("Programs", "not traced: the network is not known")
            return
        with tf.Graph().as_default():
            self.check_programs(session.new_model(), batches)

    # ---- the machine and the weights -------------------------------------------------------------

    def _describe_device(self):
        if self.run.multiple_workers:
            self.note("Workers", "each is checked by itself; none is waited for")
        kinds = {d.device_type for d in tf.config.list_logical_devices()}
        is_on_cpu = "GPU" not in kinds or "cpu" in str(self.run.device).lower()
        self.device_type = "CPU" if is_on_cpu else "GPU"
        self.facts["device"] = self.device_type

    def _describe_checkpoints(self):
        listed = store.list_checkpoints(self.session.model_dir)
        faults = {str(path): fault for _, path in listed if (fault := store.fault_in(path))}
        self.facts["model_dir"] = {"checkpoints": len(listed), "damaged": faults}
        checkpoint, resumed = self.session.checkpoint, self.session.resumed
        if checkpoint is None:
            asked = self.run.origin if self.is_training else self.run.checkpoint_path
            self.note("Checkpoint", "none" if asked is None else f"{asked}: unusable")
            return
        use = "to resume" if resumed else "to start from" if self.is_training else "to use"
        self.note("Checkpoint", f"{checkpoint.path} ({checkpoint.format}), {use}")
        self.facts["checkpoint"] = {
            "path": str(checkpoint.path),
            "format": checkpoint.format,
            "resumed": resumed is not None,
        }

    def _check_weights(self, model, optimizer):
        """Checks that the weights of the checkpoint, and its state to resume, are the network's."""
        checkpoint, resumed = self.session.checkpoint, self.session.resumed
        params_path = self.session.params_path
        variables = model.weights_by_name()
        if resumed is not None:
            weights = {name: variable.value for name, variable in variables.items()}
            state = ours.read_state(resumed)
            state = {name: tensor for name, tensor in state.items() if not name.startswith(PREFIX)}
            check_fits(resumed, weights | optimizer.averages, ours.read_weights(resumed))
            check_fits(resumed, optimizer.state, state)
            return
        head = self.is_training and model.ignores_head
        report, sources = match_weights(
            variables, checkpoint, head, params_path, model.head, model.task
        )
        if not self.is_training:
            check_trained(report, model)
        for name, source in sources.items():
            try:
                array = np.asarray(source)
            except (OSError, ValueError, RuntimeError, SafetensorError) as error:
                where = f"{name} of checkpoint {checkpoint.path}"
                raise UserError(
                    f"{where} cannot be read ({error}); the file is damaged, fetch it again"
                ) from error
            check_finite(checkpoint.path, name, array)
        counts = {key: len(getattr(report, key)) for key in ("loaded", "fresh", "unused")}
        self.facts["checkpoint"]["weights"] = counts
        text = ", ".join(f"{number} {key}" for key, number in counts.items())
        self.note("Weights", "; ".join([text, *report.notes]))

    def _check_teacher(self):
        """Checks that the teacher's checkpoint has every weight of its network, its head too."""
        session = self.session
        model = session.make_model(self.params.teacher, session.label_names)
        report, _ = match_weights(
            model.weights_by_name(), session.teacher, head=model.head, task=model.task
        )
        check_trained(report, model)

    # ---- data ------------------------------------------------------------------------------------

    def _look_at_data(self, first_step, last_step):
        """Returns {"train" or a split: Batches} of what the mode reads, as far as it can be.

        last_step: int, or None where the length of training is not known.
        """
        data, read = self.session.data, {}
        if self.params.predict_input.vocab_file is None:  # which is told
            return read
        # One folder for all runs notes skipped rows; a validation leaves it alone.
        params = self.params.with_runconfig(model_dir=None)
        if self.is_training and self.params.train_input is not None:
            with self.collecting():
                until = max(last_step or 0, first_step + 1)
                read["train"] = data.train_input_fn(params, first_step, until)
                self._describe("train", read["train"], self.params.train_input)
                if last_step is not None:
                    self._describe_length(read["train"], first_step)
        if self.mode == "predict":
            with self.collecting():
                read |= data.predict_input_fn(params, self.session.texts)[0]
        elif self.mode != "train" or self.run.calibrates:
            with self.collecting():
                read |= data.eval_input_fn(params)
        section = self.params.predict_input if self.mode == "predict" else self.params.eval_input
        for split, batches in read.items():
            if split != "train":
                with self.collecting():
                    self._describe(split, batches, section)
        # A complete network without classes is that of a task whose outputs no label names.
        has_classes = self.params.model.num_cls_classes is not None
        is_known = self.session.label_names or (self.session.is_complete and not has_classes)
        if is_known and self.mode != "predict":
            for summary in data.summarize(params, read):
                facts = self.facts.setdefault("data", {}).setdefault(summary.split, {})
                facts["summary"] = dataclasses.asdict(summary)
                for line in summary.lines:
                    self.note("", line)
        return read

    def _describe_length(self, batches, first_step):
        """Says how long training is, and where its schedule ends elsewhere."""
        accumulation = self.params.optimizer.accumulation
        last_step = accumulation.whole_steps(first_step, len(batches))
        if batches.num_per_epoch is not None:
            self.note("Length", describe_length(last_step, batches.num_per_epoch, accumulation))
            epochs = accumulation.batches(last_step) / batches.num_per_epoch
            self.facts["length"] = {"steps": last_step, "epochs": epochs}
        for note in notes_on_length(self.params, last_step):
            self.note("Schedule", note)

    def _describe(self, split, batches, cfg):
        """Reads the first batch, and counts what is cut and what is padding."""
        if not len(batches):
            raise UserError(
                f"{split} has {counted(batches.num_rows, 'row')}, of which not one batch of "
                f"{cfg.batch_size} can be made; choose a smaller batch_size"
            )
        features, targets, *_ = next(iter(batches))
        first_batch = {
            name: {
                "shape": tensor.shape.as_list(),
                "dtype": tensor.dtype.name,
                "least": tensor.numpy().min().item(),
                "most": tensor.numpy().max().item(),
            }
            for name, tensor in (features | targets).items()
        }
        padding = 1.0 - batches.share_real
        self.facts.setdefault("data", {})[split] = {
            "rows": batches.num_rows,
            "batches": len(batches),
            "shapes": batches.distinct_shapes,
            "truncated_share": batches.num_truncated / batches.num_rows,
            "padding_share": padding,
            "first_batch": first_batch,
        }
        self.note(
            f"Data {split}",
            f"{counted(batches.num_rows, 'row')}, "
            f"{counted(len(batches), 'batch', 'batches')} of {batches.batch_size} "
            f"{batches.description}; {batches.truncation or 'max_sequence_length cuts no row'}; "
            f"{padding:.1%} of the computed tokens are padding",
        )
        ranges = (
            f"{name} {each['dtype']} {each['shape']}, {each['least']} to {each['most']}"
            for name, each in first_batch.items()
        )
        self.note("", "; ".join(ranges))
        for note in batches.notes:
            self.note("", note)

    # ---- programs --------------------------------------------------------------------------------

    def check_programs(self, model, batches):
        """Traces what the run executes, and says what it takes. Within the graph of the model."""
        run, programs, distribution = self.run, {}, self.session.distribution
        set_up(run.model_copy(update={"device": None, "deterministic": False}))
        optimizer = None
        if self.is_training:
            with self.collecting():
                if not model.trainable_weights:
                    params_path = self.session.params_path
                    raise UserError(
                        f"{params_path}: model.freeze leaves nothing to train; freeze less"
                    )
                optimizer = optimizer_of(model, self.params)
        if self.session.checkpoint and (optimizer is not None or not self.is_training):
            with self.collecting():
                self._check_weights(model, optimizer)
        if self.is_training and self.params.teacher is not None:
            with self.collecting():
                self._check_teacher()
        evaluation = {split: b for split, b in batches.items() if split != "train"}
        if run.best_metric is not None and self.mode == "train_and_eval" and evaluation:
            with self.collecting():
                check_metric(BestMetric(run.best_metric, run.best_metric_mode), model, evaluation)
        if self.is_training and run.calibrates:
            with self.collecting():
                check_calibration(model)
        if optimizer is not None:
            with self.collecting():
                train = batches.get("train")
                programs["train"] = graph.trace_train_step(
                    self.session.model_fn,
                    self.params,
                    model,
                    optimizer,
                    *_largest(train, self.params.train_input, distribution.num_replicas),
                )
        if self.mode != "train" or run.calibrates:
            with self.collecting():
                name = "predict" if self.mode == "predict" else "eval"
                largest = max(evaluation.values(), key=_tokens_of, default=None)
                section = getattr(self.params, f"{name}_input")
                programs[name] = graph.trace_predict_step(
                    self.session.model_fn,
                    self.params,
                    model,
                    *_largest(largest, section, 1),
                    is_scored=name == "eval",
                )
        self._describe_network(model, optimizer, programs)
        for name, program in programs.items():
            with self.collecting():
                self._check_kernels(name, program)

    def _check_kernels(self, name, program):
        """Raises UserError where an operation runs neither on the device nor on the CPU."""
        absent = program.without_kernel(self.device_type)
        if self.device_type != "CPU" and absent:
            # TensorFlow puts those on the CPU, which costs a copy to and fro.
            on_cpu, absent = absent, absent & program.without_kernel("CPU")
            self.note(f"On the CPU, {name}", ", ".join(sorted(set(on_cpu) - set(absent))) or "none")
        if absent:
            raise UserError(
                f"the {name} step needs {', '.join(sorted(absent))}, which this TensorFlow cannot "
                f"run on {self.device_type}; choose another --device or model.mixed_precision"
            )

    def _describe_network(self, model, optimizer, programs):
        """What the run takes, against what the machine has."""
        count = sum(math.prod(w.shape) for w in model.weights)
        trained = sum(math.prod(w.shape) for w in model.trainable_weights)
        self.facts["parameters"] = {"all": count, "trained": trained}
        text = f"{count:,}" + (f", {trained:,} of them trained" if self.is_training else "")
        self.note("Parameters", text)
        weights = graph.bytes_of_variables(w.value for w in model.weights)
        everything = graph.bytes_of_variables(
            tf.compat.v1.get_collection(tf.compat.v1.GraphKeys.GLOBAL_VARIABLES)
        )
        self.facts["programs"] = {}
        peaks = {name: program.peak_bytes for name, program in programs.items()}
        for name, program in programs.items():
            self.facts["programs"][name] = {
                "shape": list(program.shape),
                "operations": len(program.operations),
                "flops": program.flops,
                "bytes_of_intermediate_results": peaks[name],
            }
            self.note(
                f"Step {name}",
                f"{program.shape[0]} rows of {program.shape[1]} tokens: "
                f"{len(program.operations):,} operations, {program.flops / 1e9:,.4g} GFLOP, "
                f"{gigabytes(peaks[name])} GB of intermediate results",
            )
        if not programs:
            return
        num_devices = len(self.session.distribution.devices)
        shared = num_devices if self.device_type == "CPU" else 1  # replicas in one memory
        largest = max(peaks, key=peaks.get)
        needed = (everything + peaks[largest]) * shared
        available = available_bytes(self.device_type)
        self.facts["memory"] = {
            "weights": weights,
            "optimizer_and_training_state": everything - weights,
            "needed": needed,
            "available": available,
        }
        parts = (
            f"weights {gigabytes(weights)}, optimizer {gigabytes(everything - weights)}, "
            f"intermediate results {gigabytes(peaks[largest])}"
        )
        has = "unknown" if available is None else f"{gigabytes(available)} GB"
        self.note("Memory", f"about {gigabytes(needed)} GB ({parts}); available: {has}")
        if available is not None and needed <= available < needed * MEASURED_EXCESS:
            self.note("", "little room: a process may take half as much again")
        if available is not None and needed > available:
            rows, tokens = programs[largest].shape
            room = (available / shared - everything) / peaks[largest] * rows
            advice = (
                f"write {largest}_input.batch_size: {int(room) * shared} or less"
                if room >= 1
                else "no batch is small enough: take a smaller network or a larger machine"
            )
            if largest == "train":
                advice += (
                    "; model.recompute: true, optimizer.grad_accum_steps and packing: buckets help "
                    "too"
                )
            self.problems.add(
                f"the {largest} step for {rows} rows of {tokens} tokens needs about "
                f"{gigabytes(needed)} GB ({parts}), and {self.device_type} has "
                f"{gigabytes(available)} GB free; {advice}"
            )
        if optimizer is not None:
            saved, model_dir = {**model.weights_by_name(), **optimizer.state}, self.run.model_dir
            size = weights + graph.bytes_of_variables(optimizer.state.values())
            with self.collecting():
                _check_model_dir(model_dir)
                store.check_space(model_dir, size)
            free = shutil.disk_usage(existing_above(model_dir)).free
            self.facts["disk"] = {"checkpoint": size, "free": free, "tensors": len(saved)}
            self.note("Disk", f"{gigabytes(size)} GB a checkpoint; {gigabytes(free)} GB free")


def gigabytes(num_bytes):
    return f"{num_bytes / 1e9:.3g}"


def _tokens_of(batches):
    return max(rows * length for rows, length in batches.distinct_shapes)


def _largest(batches, cfg, num_replicas):
    """((B, T), num_packed, num_predictions) of one device's largest batch; from params where no
    data was read."""
    rows, length, num_packed = cfg.batch_size, cfg.max_sequence_length, None
    num_predictions = cfg.num_predictions if cfg.task == "pretraining" else None
    if batches is not None:
        rows, length = max(batches.distinct_shapes, key=math.prod)
        num_packed, num_predictions = batches.num_packed, batches.num_predictions(length)
    return (max(rows // num_replicas, 1), length), num_packed, num_predictions


def _check_model_dir(model_dir):
    folder = existing_above(model_dir)
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(
            f"{folder} cannot be written to, and checkpoints go to {model_dir}; choose another "
            "--model_dir"
        )
