# SPDX-License-Identifier: Apache-2.0
"""`--mode experiment --executor temporal`: hands an experiment to a Temporal server, and watches.

The experiment does not need this process: killed or stopped, the same command attaches to it again,
also while the server is away.
"""

import asyncio
import contextlib
import socket
import time
from datetime import timedelta
from pathlib import Path

from temporalio.client import WorkflowExecutionStatus as Status
from temporalio.client import WorkflowFailureError, WorkflowQueryRejectedError
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.common import WorkflowIDConflictPolicy as ConflictPolicy
from temporalio.service import RPCError, RPCStatusCode

from common.console import counted, log
from common.errors import RunError, UserError
from common.files import check_no_links
from common.signals import Stopped
from common.training.lock import locked
from common.training.result import Result
from experiments.comparison import comparison_lines
from experiments.controller import WRITTEN, check_combinations, check_same
from experiments.journal import Journal
from experiments.run_folder import RunFolder
from experiments.sampling import Listed, num_combinations
from experiments.temporal.connection import EXPERIMENT, connect, make_searchable
from experiments.temporal.types import (
    HEARTBEAT_SECONDS,
    MAX_RUNS,
    QUEUE,
    BertExperimentInput,
    ExperimentFile,
    ParamsRun,
)
from experiments.temporal.workflows import BertFineTuningWorkflow

POLL_SECONDS = 1.0
PATIENCE = timedelta(seconds=5)  # for an answer of the server
QUIET_SECONDS = 10.0  # without an answer, before a sentence says so
MODEL_DIR = "model_dir"  # in the memo of the workflow: host and path


def run_experiment(experiment, model_dir, flags, control, address, namespace):
    """Makes every run. Returns the Result, and the ids of the runs that failed.

    Args:
        experiment, model_dir, flags, control: as of the local controller. A stop ends this process
            alone.
        address, namespace: of the server.
    Raises:
        UserError: nothing was started. Stopped: as Control asked. RunError: every run failed.
    """
    check_combinations(experiment, flags)
    total = num_combinations(experiment) * len(experiment.seeds)
    if total > MAX_RUNS:
        raise UserError(
            f"{experiment.experiment} has {total} runs; --executor temporal makes {MAX_RUNS} "
            "at most: lower run_cap, or make several experiments"
        )
    folder, started = Path(model_dir).absolute(), time.monotonic()
    output = asyncio.run(carry_out(experiment, folder, flags, control, address, namespace))
    return result_of(experiment, folder, output, time.monotonic() - started)


async def carry_out(experiment, folder, flags, control, address, namespace):
    """Starts the experiment or attaches to it, and waits. Returns BertExperimentOutput."""
    client = await connect(address, namespace)
    chosen = await check_is_same(client, experiment, folder)
    check_no_links(folder, WRITTEN)
    with locked(folder):
        check_same(experiment, flags, folder)
        with contextlib.closing(Journal(folder)) as journal:
            listed = chosen if experiment.method == "bayes" else Listed(experiment).all
            note_combinations(experiment, listed, journal)
            planned = [event["values"] for event in journal.of("combination")]
        handle = await submit(client, experiment, file_of(experiment, flags), folder, planned)
    output = await Watch(handle, control).run()
    with locked(folder), contextlib.closing(Journal(folder)) as journal:
        note_combinations(experiment, output.combinations, journal)
        known = {event["run"] for event in journal.of("end", exit_code=0)}
        for run in output.runs:
            if run.run_id not in known:  # so that the local controller takes it for done, too
                journal.add("end", run=run.run_id, exit_code=0)
    return output


def file_of(experiment, flags):
    """Returns the ExperimentFile of an Experiment."""
    base = str(Path(experiment.base).absolute())
    experiment = experiment.model_copy(update={"base": base})
    return ExperimentFile(experiment=experiment, flags=flags, folder=str(Path.cwd()))


def note_combinations(experiment, listed, journal):
    """Writes the combinations into the journal that it lacks, by which `experiments.runs` compares.

    listed: the values of each, from the first on.
    """
    seeds = len(experiment.seeds)
    for number in range(len(journal.of("combination")), len(listed)):
        ids = [experiment.run_id(number * seeds + place) for place in range(seeds)]
        journal.add("combination", number=number, values=listed[number], runs=ids)


def memo_of(folder):
    return f"{socket.gethostname()}:{folder}"


async def check_is_same(client, experiment, folder):
    """Raises UserError where the server is making an experiment of that name in another folder.

    Returns what bayes has chosen in this one, also where the experiment is over: list of values.
    """
    handle = client.get_workflow_handle(experiment.experiment)
    try:
        description = await handle.describe()
        place = await description.memo_value(MODEL_DIR, default=None)
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise UserError(f"the Temporal server does not answer: {error.message}") from None
        return []
    if description.status == Status.RUNNING and place != memo_of(folder):
        raise UserError(
            f"the server is making an experiment {experiment.experiment} in {place}, and "
            f"--model_dir is {memo_of(folder)}; give that --model_dir, or change `experiment` in "
            "the file"
        )
    if experiment.method == "bayes" and place == memo_of(folder):
        with contextlib.suppress(RPCError):  # no worker; the journal may have them
            query = BertFineTuningWorkflow.combinations
            return await handle.query(query, rpc_timeout=PATIENCE)
    return []


async def submit(client, experiment, file, folder, planned):
    """Starts the experiment's workflow, or attaches to it. Returns its handle.

    file: ExperimentFile. planned: the values of each combination that is known.
    """
    runs = [run for number, values in enumerate(planned) for run in file.runs(number, values)]
    total = num_combinations(experiment) * len(experiment.seeds)
    is_searchable = await make_searchable(client)
    given = BertExperimentInput(
        experiment_name=experiment.experiment,
        runs=runs,
        model_dir=str(folder),
        metric=experiment.metric.name,
        goal=experiment.metric.goal,
        max_parallel=experiment.max_parallel,
        early_terminate=experiment.early_terminate,
        is_searchable=is_searchable,
        heartbeat_seconds=HEARTBEAT_SECONDS,
        chosen_by=file if experiment.method == "bayes" else None,
    )
    try:
        handle = await client.start_workflow(
            BertFineTuningWorkflow.run,
            given,
            id=experiment.experiment,
            task_queue=QUEUE,
            id_conflict_policy=ConflictPolicy.USE_EXISTING,
            memo={MODEL_DIR: memo_of(folder)},
            search_attributes=attributes_of(given),
        )
        # These change nothing where the workflow has just begun.
        await handle.signal(BertFineTuningWorkflow.add_runs, runs)
        await handle.signal(BertFineTuningWorkflow.set_max_parallel, experiment.max_parallel)
        if given.chosen_by is not None:
            number = experiment.max_combinations
            await handle.signal(BertFineTuningWorkflow.set_max_combinations, number)
    except RPCError as error:  # such as a payload that is too large
        raise UserError(f"the Temporal server refused the experiment: {error.message}") from None
    log(
        f"{experiment.experiment} is on the server: {counted(total, 'run')}; the same command "
        "attaches to it again"
    )
    return handle


def attributes_of(given):
    """Returns the search attributes of an experiment's workflow, or None."""
    if not given.is_searchable:
        return None
    return TypedSearchAttributes([SearchAttributePair(EXPERIMENT, given.experiment_name)])


class Watch:
    """Waits for an experiment and tells what changes. control: Control."""

    def __init__(self, handle, control):
        self.handle, self.control = handle, control
        self.told = {}  # {run id: RunProgress}
        self.silent_since, self.has_said_so = None, False

    async def run(self):
        """Returns the BertExperimentOutput. Raises RunError where the experiment failed or was
        cancelled, Stopped as Control asks."""
        while True:
            if self.control.stopped_by is not None:
                log(
                    "The experiment goes on; the same command attaches to it, and `temporal "
                    f"workflow cancel --workflow-id {self.handle.id}` ends it"
                )
                raise Stopped(self.control.stopped_by)
            try:
                description = await self.handle.describe(rpc_timeout=PATIENCE)
                if description.status != Status.RUNNING:
                    return await self.outcome()
                self.tell(
                    await self.handle.query(BertFineTuningWorkflow.progress, rpc_timeout=PATIENCE)
                )
                self.silent_since, self.has_said_so = None, False
            except (RPCError, WorkflowQueryRejectedError) as error:
                self.say_silent(error)
            await asyncio.sleep(POLL_SECONDS)

    async def outcome(self):
        try:
            return await self.handle.result(rpc_timeout=PATIENCE)
        except WorkflowFailureError as error:
            cause = error.cause
            while getattr(cause, "cause", None) is not None:
                cause = cause.cause
            raise RunError(f"experiment {self.handle.id}: {cause}") from None

    def tell(self, progress):
        """Says what has changed since the last turn."""
        for run in progress.runs:
            former = self.told.get(run.run_id)
            if former is None or (former.state, former.step) != (run.state, run.step):
                if run.state != "waiting":
                    log(sentence_of(run))
                self.told[run.run_id] = run

    def say_silent(self, error):
        """Says once that the server, or its worker, does not answer."""
        now = time.monotonic()
        self.silent_since = self.silent_since or now
        if now - self.silent_since < QUIET_SECONDS or self.has_said_so:
            return
        self.has_said_so = True
        if getattr(error, "status", None) == RPCStatusCode.DEADLINE_EXCEEDED:
            log(f"No worker answers; start one: python -m {__package__}.worker")
        else:
            log(f"The server does not answer ({error}); waiting for it")


def sentence_of(run):
    """Returns what there is to say of a RunProgress: str."""
    parts = [f"{run.run_id} is {run.state}"]
    if run.state == "running" and run.step is not None:
        parts.append(f"step {run.step}")
    elif run.figure is not None:
        parts.append(f"{run.figure:.4f} at step {run.step}")
    if run.reason:
        parts.append(run.reason)
    return ", ".join(parts)


def result_of(experiment, folder, output, seconds):
    """Returns the Result, and the ids of the runs that failed."""
    for run_id, reason in output.failed.items():
        log(f"{run_id} failed: {reason}")
    if not output.runs:
        raise RunError(f"no run of {experiment.experiment} is done: all were ended")
    parts = [f"{counted(len(output.runs), 'run')} done"]
    parts += [f"{len(output.ended)} ended early"] if output.ended else []
    parts += [f"{len(output.failed)} failed"] if output.failed else []
    outcome, metric = ", ".join(parts), experiment.metric
    found = [run_folder_of(run) for run in output.runs]
    varied = list(experiment.parameters)
    lines = comparison_lines(found, metric.name, metric.goal == "minimize", varied)
    result = Result(
        mode="experiment",
        outcome=outcome,
        model_dir=str(folder),
        seconds=seconds,
        output=tuple(lines),
        lines=(("Done", outcome), ("Runs", str(folder))),
    )
    return result, list(output.failed)


def run_folder_of(run):
    """Returns what the table needs of a BertFineTuneResult, whose folder may be on another host."""
    config = run.config
    params = dict(config.overrides) if isinstance(config, ParamsRun) else config.model_dump()
    values = config.values if isinstance(config, ParamsRun) else params
    path = Path(run.model_dir)
    return RunFolder(run.run_id, path, params, {}, run.step, run.figures, 0, values)
