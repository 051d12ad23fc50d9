# SPDX-License-Identifier: Apache-2.0
"""What clients, workflows and activities send each other: paths, names and figures, as JSON."""

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from experiments.experiment import EarlyTerminate, Experiment, overrides_of
from experiments.run_folder import SEED

QUEUE = "bert-finetune-task-queue"  # of all workers; one of a host ends with @ and its name
ADDRESS, NAMESPACE = "localhost:7233", "default"  # of a server
METRIC = "eval/accuracy_cls"
HEARTBEAT_SECONDS = 15.0
MAX_RUNS = 500  # 0.6 MB of results; a payload has 2 MB at most


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BertFineTuneConfig(Record):
    """A run in the words of Hugging Face; known_names.py says what they are here."""

    model_name: str
    dataset_name: str
    dataset_config_name: str
    num_epochs: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    max_seq_length: int = Field(gt=0)
    use_gpu: bool
    max_train_samples: int | None = Field(None, gt=0)
    max_eval_samples: int | None = Field(None, gt=0)


class ParamsRun(Record):
    """A run of an experiment's YAML file."""

    number: int  # counted over all seeds
    combination: int
    model_name: str  # of the base, with which the run's id ends
    base: str  # path of the params file
    folder: str  # in which relative paths start, as where the command was given
    overrides: dict[str, Any]  # {dotted key: value}
    values: dict[str, Any]  # those of them that the experiment varies


RunConfig = BertFineTuneConfig | ParamsRun


class ExperimentFile(Record):
    """What makes a ParamsRun of the values of a combination.

    experiment: what the file says, its base an absolute path. flags: {dotted key: value} of the
    command line, for every run. folder: as of ParamsRun.
    """

    experiment: Experiment
    flags: dict[str, Any]
    folder: str

    def runs(self, combination, values):
        """Returns the runs of a combination, one a seed: list of ParamsRun."""
        seeds = self.experiment.seeds
        overrides = overrides_of(self.experiment, values, self.flags)
        return [
            ParamsRun(
                number=combination * len(seeds) + place,
                combination=combination,
                model_name=self.experiment.base_name,
                base=self.experiment.base,
                folder=self.folder,
                overrides=overrides | {SEED: seed},
                values=values,
            )
            for place, seed in enumerate(seeds)
        ]


class Tried(Record):
    """A combination. figure: the mean over its seeds; None: it has none, or not yet."""

    values: dict[str, Any]
    figure: float | None = None


class BertFineTuneRequest(Record):
    """One run.

    model_dir: path; None: run_id below the worker's --runs_dir. metric, goal: the figure that
    counts. stop_at_step: the run saves and ends at its first evaluation at or after this step.
    queue: of the host that has its model_dir; None: any host. experiment: id of the workflow that
    is told of the progress. is_searchable: whether the server has our search attributes.
    heartbeat_seconds: a worker that is silent for so long is taken for dead.
    """

    run_id: str
    config: RunConfig
    model_dir: str | None = None
    metric: str = METRIC
    goal: Literal["maximize", "minimize"] = "maximize"
    stop_at_step: int | None = None
    queue: str | None = None
    experiment: str | None = None
    is_searchable: bool = False
    heartbeat_seconds: float = HEARTBEAT_SECONDS


class BertFineTuneResult(Record):
    """What a run has reached. Its figures are those of the checkpoint that it chose.

    curve: {step: figure} of the metric, of a run that was to stop at a step. is_done: False where
    it has stopped there.
    """

    run_id: str
    config: RunConfig
    train_loss: float | None
    eval_accuracy: float | None
    training_time_seconds: float
    num_parameters: int
    figures: dict[str, float] = {}
    step: int | None = None
    model_dir: str = ""
    queue: str = ""
    curve: dict[int, float] = {}
    is_done: bool = True


class BertInferenceRequest(Record):
    run_id: str
    texts: list[str]
    max_seq_length: int = Field(gt=0)
    use_gpu: bool


class BertInferenceResult(Record):
    run_id: str
    texts: list[str]
    predicted_labels: list[int]
    confidences: list[float]


class RunPlace(Record):
    """Where a run's model_dir lies: its path, and the queue of the host that has it."""

    model_dir: str
    queue: str


class BertExperimentInput(Record):
    """Runs, and how they are made; the fields below `runs` have defaults.

    experiment_name: names of runs begin with it; empty: the workflow's id, so that each start by a
    schedule makes new runs. model_dir: the folder of the runs' folders; None: the worker's
    --runs_dir. chosen_by: a file of method bayes, which chooses what comes after `runs`.
    """

    experiment_name: str
    runs: list[RunConfig] = Field(max_length=MAX_RUNS)
    model_dir: str | None = None
    metric: str = METRIC
    goal: Literal["maximize", "minimize"] = "maximize"
    max_parallel: int = Field(1, gt=0)
    early_terminate: EarlyTerminate | None = None
    is_searchable: bool = False
    heartbeat_seconds: float = Field(HEARTBEAT_SECONDS, ge=3)
    chosen_by: ExperimentFile | None = None


class BertExperimentOutput(Record):
    """runs: those that are done. failed: {run id: why}. ended: ids of those that were pruned, or
    ended early, or were cancelled. combinations: the values of each, of an experiment's file."""

    experiment_name: str
    runs: list[BertFineTuneResult]
    failed: dict[str, str] = {}
    ended: list[str] = []
    combinations: list[dict[str, Any]] = []


class RunProgress(Record):
    """What is known of a run. figure: the last one of the metric that counts."""

    run_id: str
    state: Literal["waiting", "running", "at a rung", "done", "failed", "ended"] = "waiting"
    step: int | None = None
    loss: float | None = None
    figure: float | None = None
    queue: str | None = None
    reason: str | None = None


class ExperimentProgress(Record):
    experiment_name: str
    is_paused: bool
    runs: list[RunProgress]


def run_id_of(experiment_name, number, config):
    """Returns the name of a run, which is also that of its folder and its workflow."""
    number = getattr(config, "number", number)
    return f"{experiment_name}-run-{number}-{config.model_name.replace('/', '_')}"


def inference_queue(queue):
    """Returns the queue of a host that its trainings do not hold up."""
    return f"{queue}/inference"


def finite(value):
    """Returns a float, or None for what JSON has no number for."""
    return value if value is not None and math.isfinite(value) else None
