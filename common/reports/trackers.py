# SPDX-License-Identifier: Apache-2.0
"""What each tracker is told, in its own words. Each runs in the process of feed_tracker.py alone.

A run has the name of its model_dir, and the project or experiment that of the folder around it:
so the runs of an experiment are together. The trackers' own environment variables say where the
data go; without them they stay on this machine.
"""

import os
from datetime import datetime
from importlib.util import find_spec

from common.reports.metrics_file import EVALUATION_FACTS

PACKAGES = {"mlflow": ("mlflow", "sqlalchemy", "alembic"), "trackio": ("trackio",)}
PACKAGES["wandb"] = ("wandb",)
FOLDER = "tracking"  # in model_dir: what each has been told, and what its process printed
FACTS = ("time", "split", "step", *EVALUATION_FACTS)


def figures_of(line):
    """Returns {name: float} of a line of metrics.jsonl."""
    return {name: float(value) for name, value in line.items() if name not in FACTS}


def lacking(name):
    """Returns which packages of a tracker are missing, and what installs them: str, or ""."""
    missing = [package for package in PACKAGES[name] if find_spec(package) is None]
    install = f"is not installed: pip install 'bert-classifier[{name}]'"
    return f"{', '.join(missing)} {install}" if missing else ""


class Tracker:
    """A run in a tracker.

    folder: Path of the model_dir. params: {dotted key: value}. record: run.json, a dict.
    """

    def __init__(self, folder, params, record):
        self.folder, self.params, self.record = folder, params, record
        self.name, self.project = folder.name, folder.parent.name or "bert_classifier"

    def begin(self, run):
        """Opens the run with that id, or a new one where it is None. Returns its id: str."""
        raise NotImplementedError

    def log(self, lines):
        """Sends lines of metrics.jsonl: list of dict, in the order of the file."""
        raise NotImplementedError

    def end(self, exit_code):
        """Closes the run. exit_code: int; None: the training was killed."""
        raise NotImplementedError


class MLflow(Tracker):
    """MLFLOW_TRACKING_URI, or the file mlflow.db beside the model_dir."""

    def begin(self, run):
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        default = f"sqlite:///{self.folder.parent / 'mlflow.db'}"
        self.client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or default)
        if run is not None:
            self.client.update_run(run, status="RUNNING")
            self.run = run
            return run
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or self.project
        found = self.client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self.client.create_experiment(name)
        tags = {
            "mlflow.runName": self.name,
            "mlflow.source.git.commit": str(self.record.get("program")),
            "mlflow.source.name": " ".join(self.record.get("command") or ()),
            "model_dir": str(self.folder),
        }
        self.run = self.client.create_run(experiment, tags=tags).info.run_id
        params = [Param(key, str(value)[:6000]) for key, value in self.params.items()]
        for start in range(0, len(params), 100):  # the most that a request may have
            self.client.log_batch(self.run, params=params[start : start + 100])
        return self.run

    def log(self, lines):
        from mlflow.entities import Metric

        metrics = []
        for line in lines:
            at = int(datetime.fromisoformat(line["time"]).timestamp() * 1000)
            figures = figures_of(line).items()
            metrics += [Metric(name, value, at, line["step"]) for name, value in figures]
        for start in range(0, len(metrics), 1000):
            self.client.log_batch(self.run, metrics=metrics[start : start + 1000])

    def end(self, exit_code):
        is_killed = exit_code is None or exit_code > 128
        status = "FINISHED" if exit_code == 0 else "KILLED" if is_killed else "FAILED"
        self.client.set_terminated(self.run, status)


class Trackio(Tracker):
    """TRACKIO_DIR, or the folder trackio beside the model_dir."""

    def begin(self, run):
        os.environ.setdefault("TRACKIO_DIR", str(self.folder.parent / "trackio"))
        import trackio

        self.run = trackio.init(
            project=self.project,
            name=self.name,
            config={**self.params, "model_dir": str(self.folder)},
            resume="allow",
            embed=False,
        )
        return self.name

    def log(self, lines):
        for line in lines:
            self.run.log(figures_of(line), step=line["step"])

    def end(self, exit_code):
        del exit_code
        self.run.finish()


class WandB(Tracker):
    """W&B as its own settings say; without WANDB_MODE offline, in the folder wandb beside the
    model_dir, from which `wandb sync` sends it."""

    def begin(self, run):
        import wandb

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or self.project,
            name=self.name,
            id=run or None,
            resume="allow",
            config={**self.params, "model_dir": str(self.folder)},
            dir=os.environ.get("WANDB_DIR") or str(self.folder.parent),
            mode=os.environ.get("WANDB_MODE") or "offline",
        )
        # Evaluations may come after later steps: the step is a figure, by which curves are drawn.
        self.run.define_metric("global_step")
        self.run.define_metric("*", step_metric="global_step")
        return self.run.id

    def log(self, lines):
        for line in lines:
            self.run.log({**figures_of(line), "global_step": line["step"]})

    def end(self, exit_code):
        self.run.finish(exit_code=1 if exit_code is None else exit_code)


TRACKERS = {"mlflow": MLflow, "trackio": Trackio, "wandb": WandB}
