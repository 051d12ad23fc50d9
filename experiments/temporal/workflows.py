# SPDX-License-Identifier: Apache-2.0
"""The workflows: which run is made when. They decide by what activities return, and read no files,
no clock and no network: the server repeats them after a crash, and they decide the same again."""

import asyncio
import contextlib
import math
import re
import statistics
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy, SearchAttributePair, TypedSearchAttributes
from temporalio.common import WorkflowIDReusePolicy as ReusePolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    ChildWorkflowError,
    FailureError,
    WorkflowAlreadyStartedError,
    is_cancelled_exception,
)

with workflow.unsafe.imports_passed_through():
    from experiments.halving import Halving, figure_at
    from experiments.temporal.connection import EXPERIMENT, FIGURE
    from experiments.temporal.types import (
        MAX_RUNS,
        BertExperimentInput,
        BertExperimentOutput,
        BertFineTuneRequest,
        BertFineTuneResult,
        BertInferenceRequest,
        BertInferenceResult,
        ExperimentProgress,
        ParamsRun,
        RunConfig,
        RunPlace,
        RunProgress,
        Tried,
        inference_queue,
        run_id_of,
    )

MAX_FAILURES = 3  # of a run, as of the local controller
SHORT = timedelta(seconds=15)
LONG = timedelta(days=30)
AGAIN = RetryPolicy(
    initial_interval=timedelta(seconds=1),
    maximum_interval=timedelta(seconds=30),
    non_retryable_error_types=["Failed", "Refused"],
)

A_FEW_TIMES = RetryPolicy(maximum_attempts=5, non_retryable_error_types=["Refused"])


@workflow.defn
class BertRunWorkflow:
    """One run, on the host that has its model_dir. It can be paused, and is cancelled when it has
    saved."""

    def __init__(self):
        self.is_paused = False
        self.training = None

    @workflow.signal
    def pause(self):
        """Lets the run save and leave its machine, until `resume`."""
        self.is_paused = True
        if self.training is not None:
            self.training.cancel()

    @workflow.signal
    def resume(self):
        self.is_paused = False

    @workflow.run
    async def run(self, request: BertFineTuneRequest) -> BertFineTuneResult:
        queue = request.queue or await workflow.execute_activity(
            "choose_host", start_to_close_timeout=SHORT, retry_policy=AGAIN, result_type=str
        )
        num_failures = 0
        while True:
            await workflow.wait_condition(lambda: not self.is_paused)
            self.training = workflow.start_activity(
                "fine_tune_bert",
                request,
                task_queue=queue,
                start_to_close_timeout=LONG,
                heartbeat_timeout=timedelta(seconds=request.heartbeat_seconds),
                retry_policy=AGAIN,
                # Else the workflow would be closed while the run is still saving.
                cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
                result_type=BertFineTuneResult,
            )
            try:
                result = await self.training
            except ActivityError as error:
                is_cancelled = is_cancelled_exception(error)
                if workflow.cancellation_reason() is not None:
                    raise
                num_failures += not is_cancelled
                has_failed = getattr(error.cause, "type", None) == "Failed"
                if not is_cancelled and (not has_failed or num_failures >= MAX_FAILURES):
                    raise
            else:
                break
            finally:
                self.training = None
        figure = result.figures.get(request.metric)
        if request.is_searchable and figure is not None:
            workflow.upsert_search_attributes([FIGURE.value_set(figure)])
        return result


class Run:
    """A run of an experiment, as its workflow knows it. task: of its child workflow, or None."""

    def __init__(self, run_id, combination, config):
        self.id, self.combination, self.config = run_id, combination, config
        self.told = RunProgress(run_id=run_id)
        self.task = self.child = self.result = None
        self.is_pruned = False

    @property
    def state(self):
        return self.told.state

    def tell(self, **changes):
        self.told = self.told.model_copy(update=changes)


class NotWritten:
    """In place of a journal: the server's history has every decision."""

    def of(self, event, **wanted):
        return []

    def add(self, event, **facts):
        """Nothing: see the class."""


@workflow.defn
class BertFineTuningWorkflow:
    """An experiment: a child workflow for each run, at most max_parallel at the same time.

    Its turns are those of the local controller: start what there is room for; once all are at a
    rung, end the worse combinations. What bayes tries next is an activity's answer.
    """

    @workflow.init
    def __init__(self, given: BertExperimentInput):
        # A schedule gives each start an id of its own, with a time in it.
        workflow_id = re.sub(r"[^A-Za-z0-9._-]", "_", workflow.info().workflow_id)
        self.name = given.experiment_name or workflow_id
        self.given, self.runs, self.is_paused = given, {}, False
        self.max_parallel = given.max_parallel
        file = given.chosen_by
        self.max_combinations = 0 if file is None else file.experiment.max_combinations
        self.maximizes = given.goal == "maximize"
        self.halving = Halving(given.early_terminate, self.maximizes, NotWritten())
        self.add_runs(given.runs)

    # ---- What it is asked and told ---------------------------------------------------------------

    @workflow.signal
    def add_runs(self, runs: list[RunConfig]):
        """Adds runs, but for those of an experiment's file that are there; MAX_RUNS at most."""
        for config in runs:
            number = getattr(config, "number", len(self.runs))
            run_id = run_id_of(self.name, number, config)
            if run_id not in self.runs and len(self.runs) < MAX_RUNS:
                combination = getattr(config, "combination", number)
                self.runs[run_id] = Run(run_id, combination, config)

    @workflow.signal
    def prune(self, run_id: str):
        """Ends a run before the others; what it has saved stays."""
        run = self.runs.get(run_id)
        if run is None or run.state in ("done", "failed"):
            return
        run.is_pruned = True
        if run.task is not None:
            run.task.cancel()
        else:
            run.tell(state="ended", reason="pruned")
            self._end_at_rungs()

    @workflow.signal
    def set_max_parallel(self, number: int):
        self.max_parallel = max(1, number)

    @workflow.signal
    def set_max_combinations(self, number: int):
        """Of method bayes."""
        self.max_combinations = number

    @workflow.signal
    async def pause(self):
        """Lets every run save and leave its machine; none starts until `resume`."""
        self.is_paused = True
        await self._tell_running(BertRunWorkflow.pause)

    @workflow.signal
    async def resume(self):
        self.is_paused = False
        await self._tell_running(BertRunWorkflow.resume)

    @workflow.signal
    def report(self, told: RunProgress):
        """What an activity tells of its run: step, loss, figure, host."""
        run = self.runs.get(told.run_id)
        if run is not None and run.state == "running":
            run.told = told

    @workflow.query
    def progress(self) -> ExperimentProgress:
        return ExperimentProgress(
            experiment_name=self.name,
            is_paused=self.is_paused,
            runs=[run.told for run in self.runs.values()],
        )

    @workflow.query
    def leaderboard(self) -> list[RunProgress]:
        """Returns the runs that have a figure, the best first."""
        known = [run.told for run in self.runs.values() if run.told.figure is not None]
        sign = -1 if self.maximizes else 1
        return sorted(known, key=lambda told: (sign * told.figure, told.run_id))

    @workflow.query
    def combinations(self) -> list[dict[str, Any]]:
        """Returns the values of each combination of an experiment's file."""
        return list(self._values.values())

    # ---- The loop --------------------------------------------------------------------------------

    @workflow.run
    async def run(self, given: BertExperimentInput) -> BertExperimentOutput:
        workflow.logger.info("%s: %d runs", self.name, len(given.runs))
        try:
            while True:
                await workflow.wait_condition(self._has_turn)
                run = self._next()
                if run is not None:
                    run.tell(state="running", reason=None)
                    run.task = asyncio.create_task(self._make(run))
                elif self._has_more():
                    self.add_runs(await self._choose())
                else:
                    break
        except (asyncio.CancelledError, ActivityError):  # cancelled, or bayes failed
            tasks = [run.task for run in self._running if run.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self._output()

    @property
    def _running(self):
        return [run for run in self.runs.values() if run.state == "running"]

    async def _tell_running(self, signal):
        for run in self._running:
            if run.child is not None:
                with contextlib.suppress(FailureError):  # it has ended at this moment
                    await run.child.signal(signal)

    def _has_turn(self):
        """Whether a run can start, or all have ended."""
        has_more = self._has_more()
        is_over = all(run.state in ("done", "failed", "ended") for run in self.runs.values())
        has_room = len(self._running) < self.max_parallel and not self.is_paused
        return (is_over and not has_more) or (has_room and (has_more or self._next() is not None))

    @property
    def _values(self):
        """{combination: its values} of an experiment's file, in order."""
        configs = [run.config for run in self.runs.values() if isinstance(run.config, ParamsRun)]
        return {each.combination: each.values for each in configs}

    def _has_more(self):
        """Whether bayes is to choose a further combination."""
        return len(self._values) < self.max_combinations and len(self.runs) < MAX_RUNS

    async def _choose(self):
        """Returns the runs of the combination that bayes tries next."""
        tried = [Tried(values=v, figure=self._mean(n)) for n, v in self._values.items()]
        return await workflow.execute_activity(
            "choose_combination",
            args=[self.given.chosen_by, tried],
            start_to_close_timeout=SHORT,
            retry_policy=AGAIN,
            result_type=list[ParamsRun],
        )

    def _mean(self, combination):
        """Returns the mean over seeds of a combination; None where a run of it is not done."""
        runs = [run for run in self.runs.values() if run.combination == combination]
        figures = [run.told.figure if run.state == "done" else None for run in runs]
        return None if None in figures else statistics.fmean(figures)

    def _next(self):
        """Returns the next Run to start, or None."""
        is_open = ("waiting", "at a rung")
        for run in self.runs.values():
            if run.state in is_open and not self._is_at_rung(run):
                return run
        return None

    def _rung_of(self, run):
        """Returns the step at which a run is to stop, or None."""
        combinations = {each.combination for each in self.runs.values()}
        if len(combinations - self.halving.dropped) == 1:
            return None  # the last one that goes on is compared with none
        return self.halving.next_step(run.combination)

    def _is_at_rung(self, run):
        step = self._rung_of(run)
        return step is not None and self._figure_at(run, step) is not None

    def _figure_at(self, run, step):
        if run.result is None:
            return None
        return figure_at(run.result.curve, step, run.result.is_done, self.maximizes)

    async def _make(self, run):
        """Makes a run, until it is done or at its rung."""
        given, attributes = self.given, None
        request = BertFineTuneRequest(
            run_id=run.id,
            config=run.config,
            model_dir=f"{given.model_dir}/{run.id}" if given.model_dir else None,
            metric=given.metric,
            goal=given.goal,
            stop_at_step=self._rung_of(run),
            queue=run.result.queue if run.result else None,
            experiment=workflow.info().workflow_id,
            is_searchable=given.is_searchable,
            heartbeat_seconds=given.heartbeat_seconds,
        )
        if given.is_searchable:
            pair = SearchAttributePair(EXPERIMENT, self.name)
            attributes = TypedSearchAttributes([pair])
        try:
            run.child = await workflow.start_child_workflow(
                BertRunWorkflow.run,
                request,
                id=run.id,
                cancellation_type=workflow.ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
                parent_close_policy=workflow.ParentClosePolicy.REQUEST_CANCEL,
                id_reuse_policy=ReusePolicy.ALLOW_DUPLICATE,
                search_attributes=attributes,
            )
            run.result = await run.child
            state = "done" if run.result.is_done else "at a rung"
            figure = run.result.figures.get(given.metric)
            run.tell(state=state, step=run.result.step, figure=figure, queue=run.result.queue)
        except (ChildWorkflowError, asyncio.CancelledError) as error:
            if is_cancelled_exception(error):
                run.tell(state="ended", reason="pruned" if run.is_pruned else "cancelled")
            else:
                run.tell(state="failed", reason=sentence_of(error))
        except WorkflowAlreadyStartedError:
            reason = "another experiment on this server is making a run of that name"
            run.tell(state="failed", reason=reason)
        finally:
            run.task = run.child = None
        self._end_at_rungs()

    def _end_at_rungs(self):
        """Ends the combinations that are not among the best of their rung, once all are there."""
        if self.given.early_terminate is None:
            return
        while True:  # an evaluation may lie beyond several rungs
            going_on = {}
            for run in self.runs.values():
                if run.combination not in self.halving.dropped:
                    going_on.setdefault(run.combination, []).append(run)
            waiting = [run for runs in going_on.values() for run in runs]
            if all(run.state in ("done", "failed", "ended") for run in waiting):
                return
            figures = {n: self._mean_at_rung(n, runs) for n, runs in going_on.items()}
            passed = dict(self.halving.passed)
            for number, place, of in self.halving.decide(figures):
                for run in going_on[number]:
                    if run.state == "at a rung":
                        run.tell(state="ended", reason=f"place {place} of {of} at its rung")
            if self.halving.passed == passed:
                return

    def _mean_at_rung(self, number, runs):
        """Returns the mean over seeds at the next rung; None while a run is on its way there."""
        if any(run.state == "running" for run in runs):
            return None
        if any(run.state in ("failed", "ended") for run in runs):
            return math.nan
        figures = [self._figure_at(run, self.halving.next_step(number)) for run in runs]
        return None if None in figures else statistics.fmean(figures)

    def _output(self):
        runs = self.runs.values()
        failed = {run.id: run.told.reason for run in runs if run.state == "failed"}
        done = [run.result for run in runs if run.state == "done"]
        if failed and not done:
            raise ApplicationError(
                f"no run ended well; {next(iter(failed))}: {next(iter(failed.values()))}"
            )
        return BertExperimentOutput(
            experiment_name=self.name,
            runs=[result.model_copy(update={"curve": {}}) for result in done],
            failed=failed,
            ended=[run.id for run in runs if run.state == "ended"],
            combinations=self.combinations(),
        )


@workflow.defn
class BertInferenceWorkflow:
    """What a run's model says of texts. The worker keeps the model loaded."""

    @workflow.run
    async def run(self, request: BertInferenceRequest) -> BertInferenceResult:
        place = await workflow.execute_activity(
            "locate_run",
            request.run_id,
            start_to_close_timeout=SHORT,
            retry_policy=A_FEW_TIMES,
            result_type=RunPlace,
        )
        return await workflow.execute_activity(
            "run_bert_inference",
            args=[request, place.model_dir],
            task_queue=inference_queue(place.queue),
            start_to_close_timeout=timedelta(minutes=10),
            heartbeat_timeout=SHORT,
            retry_policy=A_FEW_TIMES,
            result_type=BertInferenceResult,
        )


def sentence_of(error):
    """Returns the innermost reason of a failed child: str."""
    while getattr(error, "cause", None) is not None:
        error = error.cause
    return str(error)
