# SPDX-License-Identifier: Apache-2.0
"""The activities: what is done on a machine. A run is run.py as a child process, so that a worker
imports no TensorFlow, and whatever ends the worker, the child saves and the next one goes on."""

import asyncio
import contextlib
import json
import time
from datetime import datetime, timedelta
from pathlib import Path

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.service import RPCError

from common.console import log as tell
from common.errors import UserError
from common.files import write_whole
from common.reports.metrics_file import METRICS_FILE, read_curves
from common.reports.run_json import TRAINING_MODES, last_training
from experiments.bayes import Bayes
from experiments.child import Child, command_of
from experiments.halving import figure_at
from experiments.hparams import write_hparams
from experiments.run_folder import read_run
from experiments.temporal.known_names import resolve
from experiments.temporal.types import (
    QUEUE,
    BertFineTuneRequest,
    BertFineTuneResult,
    BertInferenceRequest,
    BertInferenceResult,
    ExperimentFile,
    ParamsRun,
    RunPlace,
    RunProgress,
    Tried,
    finite,
)

REFUSED, BUSY = 2, 75  # exit codes of run.py; 128 + n: stopped by signal n, and it has saved
BEAT_SECONDS = 0.2  # of the loop; the SDK sends a heartbeat every 2 s
WAIT_SECONDS = 2.0  # before a run is offered again that found no room
REPORT_SECONDS = 15.0  # between two reports to the experiment, at first; see `Reports`
LOSSES = ("train/cost", "train/cost_cls")  # the total, of tasks with several and with one
TAIL = 2000  # characters of a log that a failure quotes


def refusal(text, **given):
    """Returns an ApplicationError that the SDK does not print with a traceback."""
    return ApplicationError(text, category=ApplicationErrorCategory.BENIGN, **given)


class Slots:
    """How many runs a worker makes at the same time: those that train, and those that are promised
    room and have not come yet, as another worker of the host may have taken them."""

    PROMISE_SECONDS = 10.0

    def __init__(self, total):
        self.total, self.num_running, self.promises = total, 0, []

    def promise(self):
        """Returns whether there is room, which is then kept for a while."""
        now = time.monotonic()
        self.promises = [until for until in self.promises if until > now]
        has_room = self.num_running + len(self.promises) < self.total
        if has_room:
            self.promises.append(now + self.PROMISE_SECONDS)
        return has_room

    @contextlib.contextmanager
    def taken(self):
        self.promises = self.promises[1:]
        self.num_running += 1
        try:
            yield
        finally:
            self.num_running -= 1


class Curves:
    """The figures of a run that trains, read again when its file has changed."""

    def __init__(self, folder):
        self.folder, self.seen, self.curves = folder, None, {}

    def read(self):
        """Returns {(split, name): {step: float}}."""
        with contextlib.suppress(OSError):
            facts = (self.folder / METRICS_FILE).stat()
            if self.seen != (facts.st_mtime_ns, facts.st_size):
                self.seen = facts.st_mtime_ns, facts.st_size
                self.curves = read_curves(self.folder)
        return self.curves

    def last(self, split, name):
        """Returns (step, figure) of the last line that has it, or (None, None)."""
        curve = self.read().get((split, name))
        return next(reversed(curve.items())) if curve else (None, None)

    @property
    def loss(self):
        """(step, loss) of the last training steps that were told of, or (None, None)."""
        return next(filter(any, (self.last("train", name) for name in LOSSES)), (None, None))

    @property
    def last_step(self):
        return max((step for curve in self.read().values() for step in curve), default=None)


class Activities:
    """The activities of one worker.

    Args:
        client: Client. slots: Slots. models: LoadedModels.
        storage: str, the name of what holds its model_dirs: the host's, unless several share it.
        runs_dir: Path, where model_dirs lie whose request names none.
        weights: {model_name: path} that replace those of known_names.py.
        make_command: callable(base, folder, overrides) -> the command of a run.
    """

    def __init__(self, client, slots, models, storage, runs_dir, weights, make_command=command_of):
        self.client, self.slots, self.models = client, slots, models
        self.queue, self.runs_dir = f"{QUEUE}@{storage}", Path(runs_dir).absolute()
        self.weights, self.make_command = weights, make_command

    @activity.defn
    async def choose_host(self) -> str:
        """Returns the queue of this host, if it has room for a run."""
        if not self.slots.promise():
            raise refusal(
                f"every slot of a worker of {self.queue} is taken",
                type="Busy",
                next_retry_delay=timedelta(seconds=WAIT_SECONDS),
            )
        return self.queue

    @activity.defn
    async def choose_combination(self, file: ExperimentFile, tried: list[Tried]) -> list[ParamsRun]:
        """Returns the runs of the next combination of method bayes, by those tried so far."""

        def choose():
            bayes = Bayes(file.experiment, [(each.values, each.figure) for each in tried])
            return bayes.values(len(tried))

        try:
            return file.runs(len(tried), await asyncio.to_thread(choose))
        except UserError as error:  # no Optuna here
            raise refusal(str(error), type="Refused") from None

    @activity.defn
    async def fine_tune_bert(self, request: BertFineTuneRequest) -> BertFineTuneResult:
        """Makes a run, or goes on with it. Raises ApplicationError, whose type says what follows:
        Refused and Failed are the workflow's to decide on, Busy and Stopped are tried again."""
        try:
            with self.slots.taken():
                return await self.make(request)
        except ApplicationError as error:
            if error.type in ("Failed", "Refused"):
                tell(f"{request.run_id}: {error.message}")
            raise
        except Exception as error:  # a fault of the program is not tried for ever
            reason = f"{type(error).__name__}: {error}"
            raise refusal(reason, type="Failed") from error

    async def make(self, request):
        """Does what `fine_tune_bert` says."""
        folder = Path(request.model_dir or self.runs_dir / request.run_id)
        log = folder.parent / "logs" / f"{request.run_id}.log"
        try:
            base, overrides = resolve(request.config, self.weights)
            log.parent.mkdir(parents=True, exist_ok=True)
            check_same(log.with_suffix(".config"), request.config)
        except (UserError, OSError) as error:
            raise refusal(str(error), type="Refused") from None
        if is_done(folder):
            return self.result(request, folder, is_done=True)
        told_before = log.stat().st_size if log.exists() else 0
        curves = Curves(folder)
        first_step = curves.last_step
        start = getattr(request.config, "folder", None)
        if start is not None and not Path(start).is_dir():
            raise refusal(
                f"the folder {start}, in which the experiment was started, is not on this host, so "
                "its relative paths lead nowhere",
                type="Refused",
            )
        child = Child(self.make_command(base, folder, overrides), log, start)
        code = await self.wait_for(child, request, curves)
        if code == 0:
            with contextlib.suppress(UserError, OSError):
                write_hparams(folder, varied_keys(request.config))
            return self.result(request, folder, is_done=True)
        is_at_rung = request.stop_at_step is not None and self.is_at_rung(request, curves)
        if code > 128 and is_at_rung:
            return self.result(request, folder, is_done=False)
        said = tail_of(log, told_before)
        if code == REFUSED:
            raise refusal(said or "run.py refused it", type="Refused")
        if code == BUSY:
            delay = timedelta(seconds=WAIT_SECONDS)
            raise refusal(said, type="Busy", next_retry_delay=delay)
        if code > 128 and curves.last_step != first_step:
            raise refusal(f"stopped with exit code {code}", type="Stopped")
        raise refusal(f"exit code {code}: {said}", type="Failed")

    async def wait_for(self, child, request, curves):
        """Waits until a run has ended, and tells of it. Returns its exit code.

        Where the activity is cancelled, paused, or its worker shut down, the run saves first, and
        then CancelledError is raised.
        """
        reports, cancelled = Reports(self, request), None
        while (code := child.exit_code()) is None:
            try:
                step, loss = curves.loss
                activity.heartbeat({"step": step, "loss": finite(loss), "pid": child.process.pid})
                if cancelled is None:
                    await reports.tell(curves)
                    if request.stop_at_step is not None and self.is_at_rung(request, curves):
                        child.ask_to_stop()
                await asyncio.sleep(BEAT_SECONDS)
            except asyncio.CancelledError as error:
                cancelled = cancelled or error
                child.ask_to_stop()
        if cancelled is not None and code != 0:
            raise cancelled
        return code

    def is_at_rung(self, request, curves):
        curve = curves.read().get(("eval", request.metric), {})
        return figure_at(curve, request.stop_at_step, False, request.goal == "maximize") is not None

    def result(self, request, folder, is_done):
        """Returns the BertFineTuneResult of what a folder holds."""
        try:
            run = read_run(folder)
        except UserError as error:  # it ended well, and its folder is gone or damaged
            raise refusal(str(error), type="Failed") from None
        curves = Curves(folder)
        curve = curves.read().get(("eval", request.metric), {})
        return BertFineTuneResult(
            run_id=request.run_id,
            config=request.config,
            train_loss=finite(curves.loss[1]),
            eval_accuracy=finite(run.figures.get("eval/accuracy_cls")),
            training_time_seconds=training_seconds(folder),
            num_parameters=num_parameters(folder),
            figures={k: v for k, v in run.figures.items() if finite(v) is not None},
            step=run.step,
            model_dir=str(folder),
            queue=self.queue,
            curve={} if request.stop_at_step is None else curve,
            is_done=is_done,
        )

    # ---- Inference -------------------------------------------------------------------------------

    @activity.defn
    async def locate_run(self, run_id: str) -> RunPlace:
        """Returns where a run lies, as its workflow has said; else here, if it lies here."""
        with contextlib.suppress(Exception):  # no such workflow, one of other types, not ended
            handle = self.client.get_workflow_handle(run_id, result_type=BertFineTuneResult)
            result = await asyncio.wait_for(handle.result(), WAIT_SECONDS)
            return RunPlace(model_dir=result.model_dir, queue=result.queue)
        folder = self.runs_dir / run_id
        if "/" not in run_id and is_done(folder):
            return RunPlace(model_dir=str(folder), queue=self.queue)
        raise refusal(
            f"no run {run_id} that is done: neither does the server know one, nor does "
            f"{self.runs_dir} of {self.queue} hold it",
            type="Refused",
        )

    @activity.defn
    async def run_bert_inference(
        self, request: BertInferenceRequest, model_dir: str
    ) -> BertInferenceResult:
        """Returns what the model of a run says of texts."""
        asked = self.models.ask(model_dir, request.max_seq_length, request.use_gpu, request.texts)
        answering = asyncio.ensure_future(asked)
        while not answering.done():
            activity.heartbeat()
            await asyncio.wait([answering], timeout=BEAT_SECONDS)
        try:
            answer = answering.result()
        except UserError as error:
            raise refusal(str(error), type="Refused") from None
        return BertInferenceResult(run_id=request.run_id, texts=request.texts, **answer)


class Reports:
    """Tells an experiment's workflow of a run: once it trains, and after evaluations.

    Each report is a few events in the history of the workflow, which has room for 50,000: the time
    between two grows with the time since the start, so that 10 days make 200.
    """

    def __init__(self, activities, request):
        self.activities, self.request = activities, request
        self.started = time.monotonic()
        self.next, self.told = 0.0, None

    async def tell(self, curves):
        now = time.monotonic()
        evaluated, figure = curves.last("eval", self.request.metric)
        step, loss = curves.loss
        news = step is not None, evaluated
        if self.request.experiment is None or news == self.told or now < self.next:
            return
        self.told = news
        self.next = now + max(REPORT_SECONDS, (now - self.started) / 20)
        progress = RunProgress(
            run_id=self.request.run_id,
            state="running",
            step=curves.last_step,
            loss=finite(loss),
            figure=finite(figure),
            queue=self.activities.queue,
        )
        handle = self.activities.client.get_workflow_handle(self.request.experiment)
        with contextlib.suppress(RPCError):  # the run goes on without
            await handle.signal("report", progress, rpc_timeout=timedelta(seconds=3))


def is_done(folder):
    """Whether the last training in a folder ended well."""
    return last_training(Path(folder)).get("exit_code") == 0


def varied_keys(config):
    """Returns the dotted keys that TensorBoard shows of a run."""
    is_of_file = isinstance(config, ParamsRun)
    return config.values if is_of_file else ("optimizer.learning_rate", "train_input.batch_size")


def check_same(path, config):
    """Raises UserError where a run of that name was made with another config. Records this one."""
    asked = config.model_dump_json(indent=2, exclude={"folder"}) + "\n"
    former = path.read_text("utf-8") if path.exists() else asked
    if former != asked:
        raise UserError(
            f"{path} is what a run of that name was made with, and it is now to be another:\n"
            f"{asked}choose another experiment_name, or another folder"
        )
    write_whole(path, asked)


def training_seconds(folder):
    """Returns the seconds of all starts of training that are on record, but for killed ones."""
    seconds = 0.0
    for path in (folder / "runs").glob("*/run.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            facts = json.loads(path.read_text("utf-8"))
            if facts["mode"] in TRAINING_MODES:
                started, ended = (
                    datetime.fromisoformat(facts[key]) for key in ("started", "ended")
                )
                seconds += (ended - started).total_seconds()
    return seconds


def num_parameters(folder):
    """Returns the number of weights, as the last training's Result says; 0 where it has none."""
    for path in sorted((folder / "runs").glob("*/result-train*.json"), reverse=True):
        with contextlib.suppress(OSError, ValueError):
            return json.loads(path.read_text("utf-8")).get("num_parameters") or 0
    return 0


def tail_of(log, start):
    """Returns the end of what a log has since a byte: str."""
    with contextlib.suppress(OSError), open(log, "rb") as file:
        file.seek(start)
        text = file.read().decode("utf-8", "replace").strip()
        return text if len(text) <= TAIL else f"...{text[-TAIL:]}"
    return ""
