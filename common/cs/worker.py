# SPDX-License-Identifier: Apache-2.0
"""The second half of a run on the CS target, in the environment of the SDK.

    .venv-cs/bin/python -m common.cs.worker model_dir/cs/job

`target.py` starts it. It lowers, compiles, trains, evaluates or predicts as the job says, on a CS
system or on the SDK's CPU backend, and writes checkpoints that a run in TensorFlow can resume. The
exit codes are those of run.py.
"""

import contextlib
import json
import logging
import math
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np

from common.checkpoints.formats import ours
from common.checkpoints.load import load_weights, open_checkpoint
from common.console import counted, log
from common.cs import job as jobs
from common.cs.lowering import count_operations, keep_files, shortened
from common.cs.training_state import TrainingState
from common.errors import RunError, UserError
from common.files import write_whole
from common.metrics.row_metrics import RowMetrics, figures_of
from common.params import Params
from common.reports.metrics_file import MetricsFile
from common.reports.prediction_files import write_predictions
from common.training.lock import locked

HALF_DTYPES = {"mixed_bfloat16": "bfloat16"}  # dtype policy -> the SDK's; else float16
MAX_MESSAGE = 400  # characters of an SDK message


class Worker:
    """One program on one backend. folder: path-like, the job's."""

    def __init__(self, folder):
        self.folder = Path(folder).resolve()
        self.job = jobs.Job.read(folder)
        self.params = Params.model_validate(self.job.params)
        self.run = self.params.runconfig
        self.cfg = self.params.model
        self.model_dir = Path(self.run.model_dir)
        self.metrics_file = MetricsFile(self.model_dir)
        self.cs_dir = self.folder.parent
        self.artifacts = self.cs_dir / "artifacts"
        self.is_training = self.run.mode == "train"
        self.started = time.monotonic()

    # ---- the parts of a program ------------------------------------------------------------------

    def import_sdk(self):
        started = time.monotonic()
        try:
            import cerebras.pytorch as cstorch
        except ImportError as error:
            raise UserError(
                f"{sys.executable} has no Cerebras SDK ({error}); `make cs-setup` installs it"
            ) from None
        # The SDK calls its compiler, torch-cirh-opt, by name.
        programs = str(Path(cstorch.__file__).parent / "lib")
        os.environ["PATH"] = os.pathsep.join([programs, os.environ.get("PATH", "")])
        self.cstorch = cstorch
        self.import_seconds = time.monotonic() - started

    def _make_backend(self):
        """Returns the SDK's backend. Can be called once per process."""
        cstorch, cs = self.cstorch, self.params.csconfig
        shutil.rmtree(self.artifacts, ignore_errors=True)  # of an earlier run
        options = {"artifact_dir": str(self.artifacts)}
        if cs.backend == "cpu" and self.job.action != "validate":
            if self.cfg.dtype_policy != "float32":
                log(f"{self.cfg.dtype_policy} is computed in float32 on the CPU backend")
            return cstorch.backend("CPU", **options)
        half = HALF_DTYPES.get(self.cfg.dtype_policy, "float16")
        cstorch.amp.set_half_dtype("cbfloat16" if cs.use_cbfloat16 else half)
        if self.job.action == "validate":
            return cstorch.backend("CSX", validate_only=True, **options)
        return cstorch.backend(
            "CSX",
            compile_only=self.job.action == "compile",
            compile_dir=cs.compile_dir,
            cluster_config=self._cluster_config(),
            **options,
        )

    def _cluster_config(self):
        cs = self.params.csconfig
        root = Path(__file__).resolve().parents[2]
        try:
            return self.cstorch.distributed.ClusterConfig(
                mgmt_address=self.job.address,
                credentials_path=cs.credentials_path,
                num_csx=cs.num_csx,
                max_wgt_servers=cs.num_wgt_servers,
                num_workers_per_csx=1,  # `loader.part_of_worker` relies on it
                mount_dirs=[str(root), str(self.model_dir.resolve()), *cs.mount_dirs],
                python_paths=[str(root), *cs.python_paths],
                job_labels=list(cs.job_labels),
                job_time_sec=cs.job_time_sec,
            )
        except ValueError as error:
            raise UserError(f"csconfig: {error}") from None

    def _build(self, rows):
        """Builds the network for the shapes of some Rows, with its weights, on the backend."""
        from common.cs.network import make_twin

        self.backend = self._make_backend()
        self.twin = make_twin(self.params, rows.num_tokens, self.backend.is_csx)
        self.twin.train(self.is_training)
        self._load_weights()
        self.compiled = self.cstorch.compile(self.twin, self.backend)

    def _load_weights(self):
        """Loads the weights that the job names; none if only shapes are needed."""
        job, weights = self.job, self.twin.weights_by_name()
        initial = self.folder / jobs.INITIAL
        if initial.exists():
            from safetensors.numpy import load_file

            arrays = load_file(initial)
            for name, weight in weights.items():
                weight.assign(arrays[name])
        elif job.resumed is not None:
            load_weights(self.twin, open_checkpoint(job.resumed))

    def _build_training(self):
        from common.cs import optimizer

        cfg = self.params.optimizer
        self.optimizer = optimizer.make_optimizer(self.twin, cfg, self.cfg.num_hidden_layers)
        self.state = TrainingState(self.optimizer, optimizer.trained_weights(self.twin), cfg)
        if self.job.resumed is not None:
            self.state.restore(self.job.resumed)
            log(f"Resuming {self.job.resumed} at step {self.job.first_step}")
        self.schedule = optimizer.LearningRate(self.optimizer, cfg, self.job.first_step)
        self.scaler = optimizer.make_grad_scaler(cfg) if self.backend.is_csx else None
        if self.scaler is not None:
            self.state.restore_scale(self.scaler)

    def _make_task(self):
        from common.cs.tasks import TASKS

        job = self.job
        return TASKS[self.params.task](self.cfg, job.label_names, job.class_weights, job.vocab)

    def _train_step(self, task):
        """Returns a traced function: batch -> losses, learning rate."""
        from common.cs.optimizer import update

        @self.cstorch.trace
        def step(batch):
            losses = task.losses(self._outputs, batch)
            rate = self.schedule.get_last_value()[0]
            update(losses[0], self.optimizer, self.scaler, self.params.optimizer)
            self.schedule.step()
            return [loss.detach() for loss in losses], rate

        return step

    def _forward_step(self, task):
        """Returns a traced function: batch -> {name: tensor}, what is scored or predicted."""
        import torch

        compute = task.answers if self.run.mode == "predict" else task.scores
        return self.cstorch.trace(torch.no_grad()(lambda batch: compute(self._outputs, batch)))

    def _outputs(self, batch):
        return self.compiled(*(batch[name] for name in self.twin.inputs))

    def _executor(self, split, **options):
        from common.cs.loader import make_loader

        path = jobs.find_rows(self.folder, split).resolve()
        data = self.cstorch.utils.data
        return data.DataExecutor(data.DataLoader(make_loader, str(path)), **options)

    # ---- validate, compile -----------------------------------------------------------------------

    def lower(self):
        """Compiles the program: only its front end (validate), or on the cluster (compile)."""
        split = self.job.splits[0]
        rows = self._rows_of(split)
        started = time.monotonic()
        self._build(rows)
        if self.is_training:
            self._build_training()
        step = (self._train_step if self.is_training else self._forward_step)(self._make_task())

        @self.cstorch.step_closure
        def return_outputs(outputs):
            """Makes these outputs of the program, as they are in a real run."""

        executor = self._executor(split, num_steps=1)
        with contextlib.chdir(self.cs_dir):  # the SDK writes what it cannot lower here
            for batch in executor:
                return_outputs(step(batch))
        seconds = time.monotonic() - started
        files = keep_files(self.artifacts, self.cs_dir)
        shutil.rmtree(self.artifacts, ignore_errors=True)
        if self.job.action == "validate" and "cirh.mlir" not in files:
            raise RunError(
                "the vendor's compiler ended without a cirh.mlir; see its messages above"
            )
        counts = {name: count_operations(path) for name, path in files.items()}
        report = {
            "mode": self.run.mode,
            "action": self.job.action,
            "batch": [rows.batch_size, rows.num_tokens],
            "parameters": sum(math.prod(w.shape) for w in self.twin.weights_by_name().values()),
            "half_dtype": self.cstorch.amp.get_half_dtype_str(),
            "seconds": round(seconds, 1),
            "import_seconds": round(self.import_seconds, 1),
            "sdk": self.cstorch.__version__,
            "files": {
                name: {
                    "path": str(path),
                    "bytes": path.stat().st_size,
                    "operations": sum(counts[name].values()),
                    "counts": dict(counts[name].most_common()),
                }
                for name, path in files.items()
            },
            "notes": self.job.notes,
        }
        write_whole(self.cs_dir / f"{self.job.action}.json", json.dumps(report, indent=2) + "\n")
        self._print_lowering(report, counts)

    def _print_lowering(self, report, counts):
        what = "training step" if self.is_training else "forward pass"
        more = ", loss, backward, AdamW, schedule, clipping" if self.is_training else ""
        verb = "Lowered" if self.job.action == "validate" else "Compiled"
        print(
            f"{verb}: the {what} of {report['parameters']:,} parameters (forward{more}) for "
            f"batches of {' x '.join(map(str, report['batch']))} tokens in {report['half_dtype']}, "
            f"by cerebras.pytorch {report['sdk']} in {report['seconds']} s"
        )
        for name, file in report["files"].items():
            print(
                f"  {file['path']}: {file['bytes'] / 1e6:.1f} MB, {file['operations']:,} "
                f"operations: {shortened(counts[name])}"
            )
        for note in report["notes"]:
            print(f"  note: {note}")
        print(f"  report: {self.cs_dir / (self.job.action + '.json')}")

    # ---- training --------------------------------------------------------------------------------

    def train(self):
        """Trains from first_step to last_step."""
        rows, task = self._rows_of("train"), self._make_task()
        self._build(rows)
        self._build_training()
        job, run = self.job, self.run
        num_steps = job.last_step - job.first_step
        log(
            f"Training steps {job.first_step + 1:,} to {job.last_step:,} of "
            f"{counted(rows.batch_size, 'row')}"
        )
        executor = self._executor(
            "train",
            num_steps=num_steps,
            checkpoint_steps=self._checkpoint_steps(num_steps),
            activation_steps=math.gcd(min(run.log_steps, num_steps), run.save_summary_steps),
        )
        unreported = []  # losses of each step since the last line

        @self.cstorch.step_closure
        def report(losses, rate):
            step = job.first_step + executor.user_iteration
            losses = list(map(float, losses))
            unreported.append(losses)
            if not math.isfinite(losses[0]):
                raise RunError(
                    f"the loss is {losses[0]} at step {step}; a lower learning rate helps"
                )
            if step % run.save_summary_steps == 0 or step == job.last_step:
                means = np.mean(unreported, axis=0).tolist()
                figures = dict(zip(task.loss_figures, means, strict=True))
                figures |= {f"train/{name}": value for name, value in job.baselines.items()}
                self.metrics_file.on_figures("train", step, figures | {"train/lr": float(rate)})
                unreported.clear()
            if step % run.log_steps == 0 or step == job.last_step:
                shown = {"loss": losses[0], **job.baselines}
                # The parts of the loss under the last word of their names.
                names = (name.rpartition("cost_")[2] for name in task.loss_figures[1:])
                shown |= dict(zip(names, losses[1:], strict=True))
                parts = "  ".join(f"{name} {value:.4f}" for name, value in shown.items())
                log(f"step {step:,}/{job.last_step:,}  {parts}  rate {float(rate):.3g}")

        @self.cstorch.checkpoint_closure
        def save():
            self._save(job.first_step + executor.user_iteration)

        step = self._train_step(task)
        for batch in executor:
            report(*step(batch))
            save()
        path = jobs.find_rows(self.folder, "train")
        if path.suffix == jobs.STREAMED:  # gigabytes, after a long training
            path.unlink()
        print(
            f"Trained to step {job.last_step:,} in {time.monotonic() - self.started:.0f} s; "
            f"checkpoint {self.model_dir / f'checkpoint-{job.last_step}'}"
        )

    def _checkpoint_steps(self, num_steps):
        """Returns the SDK's schedule of the multiples of save_checkpoints_steps in global steps."""
        every = self.run.save_checkpoints_steps
        schedule = self.cstorch.utils.data.utils.Schedule
        first = every - self.job.first_step % every - 1  # steps of a run count from 0
        return schedule(
            [schedule.Range(min(first, num_steps - 1), num_steps, every, include_last=True)]
        )

    def _save(self, step):
        """Writes a checkpoint like a run in TensorFlow."""
        weights = self.twin.weights_by_name()
        state = self.state.arrays(step, self.scaler, self.cstorch.to_numpy)
        path = ours.save_checkpoint(
            self.model_dir,
            step,
            {name: weight.as_neutral(weight.parameter) for name, weight in weights.items()},
            state,
            self.job.config | {"step": step},
            self.job.vocab,
            self.run.keep_checkpoint_max,
            keep={self.state.best_step},
        )
        log(f"Saved {path}")

    # ---- evaluation and prediction ---------------------------------------------------------------

    def _rows_of(self, split):
        return jobs.read_rows(jobs.find_rows(self.folder, split))

    def _measure(self, split, rows, step, metrics, names):
        """Updates Metrics with every batch of a split. names: of the targets they take."""
        numbers = iter(range(rows.num_steps))  # of the batch whose outputs come next

        @self.cstorch.step_closure
        def collect(outputs):
            number = next(numbers)
            arrays = {n: self.cstorch.to_numpy(t.detach().cpu()) for n, t in outputs.items()}
            batch = rows.batch(number)
            metrics.update(arrays, {name: batch[name] for name in names}, rows.numbers(number))

        for batch in self._executor(split, num_steps=rows.num_steps):
            collect(step(batch))

    def score(self):
        """Evaluates or predicts every split."""
        rows_of = {split: self._rows_of(split) for split in self.job.splits}
        self._build(next(iter(rows_of.values())))
        task, is_prediction = self._make_task(), self.run.mode == "predict"
        step = self._forward_step(task)
        metrics_of_split = {}
        for split, rows in rows_of.items():
            metrics = metrics_of_split[split] = (
                RowMetrics() if is_prediction else task.make_metrics()
            )
            self._measure(split, rows, step, metrics, () if is_prediction else task.measured)
        config = open_checkpoint(self.job.checkpoint).config
        if is_prediction:
            for number, (split, metrics) in enumerate(metrics_of_split.items()):
                texts = [tuple(row) for row in self.job.texts[split]]
                records = task.predictions(metrics.outputs, config)
                folder, name = self.model_dir / "predict", f"predictions_cs_{number}"
                for path in write_predictions(folder, name, metrics.outputs, texts, records):
                    print(f"Written {path}")
            return
        total = task.make_metrics()
        figures = figures_of(total, metrics_of_split)
        step = config.get("step", 0)
        facts = {**self.job.evaluation, "num_examples": len(total)}
        self.metrics_file.on_figures("eval", step, figures, facts=facts)
        print(f"Evaluated {self.job.checkpoint} on {counted(len(total), 'row')}")
        for name, value in figures.items():
            print(f"  {name.removeprefix('eval/')}: {value:.4f}")


def sentence_of(error):
    """Returns the message of an SDK exception as one sentence."""
    message = str(error).partition("Stack Trace")[0]
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    # Lines of the compiler begin with a place in the MLIR or in a file: `loc(...): error: ...`
    errors = [line.split("error:", 1)[1].strip() for line in lines if "error:" in line]
    text = (errors or lines or [type(error).__name__])[0]
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 3] + "..."


def main(argv=None):
    """Returns the exit code."""
    (folder,) = sys.argv[1:] if argv is None else argv
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    try:
        worker = Worker(folder)
        do = worker.train if worker.is_training else worker.score
        if worker.job.action != "run":
            do = worker.lower
        elif worker.params.csconfig.backend == "csx":
            logging.getLogger().setLevel(logging.INFO)  # minutes of the cluster's progress
        with locked(worker.model_dir) if worker.is_training else contextlib.nullcontext():
            worker.import_sdk()
            do()
        return 0
    except UserError as error:
        log(error)
        return 2
    except (RunError, OSError) as error:
        log(f"The run failed: {error}")
        return 1
    except KeyboardInterrupt:
        log("Interrupted; checkpoints are intact")
        return 130
    except Exception as error:  # the SDK raises many types
        logging.getLogger(__name__).debug("", exc_info=True)
        where = f" ({worker.job.address})" if worker.job.address else ""
        verb = {"validate": "lower", "compile": "compile"}.get(worker.job.action, "run")
        log(
            f"The run failed: the Cerebras SDK could not {verb} the program{where}: "
            f"{type(error).__name__}: {sentence_of(error)}"
        )
        return 1


if __name__ == "__main__":
    sys.exit(main())
