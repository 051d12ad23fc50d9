# SPDX-License-Identifier: Apache-2.0
"""`--mode experiment --executor local`: makes the runs of an experiment on this machine.

Each run is `run.py` as a child process in <model_dir>/<run id>, which continues with the same bits.
So the controller may be killed and started again at any time: it reads its journal, starts no
finished run again and goes on with the others.

A turn of the loop: take note of what has ended, stop what has reached its rung, decide which
combinations end there, start what there is room for.
"""

import contextlib
import dataclasses
import json
import statistics
import time
from pathlib import Path

from common.checkpoints import store
from common.console import counted, log
from common.errors import RunError, UserError
from common.files import check_no_links, write_whole
from common.params import plain_differences
from common.params.keys import may_change
from common.params.yaml_file import flattened
from common.reports.metrics_file import read_curves
from common.signals import Stopped
from common.training.lock import LOCK, locked
from common.training.result import Result
from experiments.bayes import FILE as OPTUNA
from experiments.bayes import Bayes
from experiments.child import Child, command_of
from experiments.comparison import comparison_lines, shown, table
from experiments.experiment import SET_BY_EXPERIMENT, overrides_of
from experiments.halving import Halving, figure_at
from experiments.hparams import write_hparams
from experiments.journal import FILE as JOURNAL
from experiments.journal import Journal, values_of_runs
from experiments.run_folder import read_run
from experiments.sampling import Listed, ends_of, num_combinations
from utils import SAVED as TRAINED
from utils import find_file, get_params, read_file

SAVED = "experiment.json"  # in model_dir: what the experiment was at its last start
BASE_VALUES = "base_values"  # there: {dotted key: value} of the base
WRITTEN = (LOCK, SAVED, JOURNAL, OPTUNA, "logs")
MAY_CHANGE = ("run_cap", "max_parallel")
MAX_FAILURES = 3  # of a run at one start of the controller
BUSY, REFUSED = 75, 2  # exit codes of run.py
POLL_SECONDS = 0.2
BUSY_SECONDS = 2.0  # before a run whose folder another process holds is tried again


@dataclasses.dataclass
class Run:
    """A combination with one seed."""

    id: str
    combination: int
    overrides: dict
    folder: Path
    child: Child | None = None
    is_done: bool = False
    num_failures: int = 0
    last_step: int | None = None  # at the end of its last process, to see progress
    not_before: float = 0.0

    @property
    def has_failed(self):
        return self.num_failures >= MAX_FAILURES


def check_combinations(experiment, flags):
    """Raises UserError unless run.py would accept the params of every combination.

    Of method bayes both ends of every parameter are checked. flags: {dotted key: value} of the
    command line, which every run has.
    """
    for key in flags:  # the value of the file would replace it in silence
        if key in SET_BY_EXPERIMENT:
            text = f"the experiment's file sets it: {SET_BY_EXPERIMENT[key]}; leave out the flag"
            raise UserError(f"{key} is given on the command line, and {text}")
        if key in experiment.parameters:
            text = "the experiment's parameters vary it; leave one of the two out"
            raise UserError(f"{key} is given on the command line, and {text}")
    origins = dict.fromkeys(experiment.parameters, "parameters of the experiment")
    listed = ends_of(experiment) if experiment.method == "bayes" else Listed(experiment).all
    for number, values in enumerate(listed):
        try:
            overrides = overrides_of(experiment, values, flags)
            told = log if number == 0 else None  # such as a schedule that gives way to a rate
            get_params(experiment.base, overrides, told, origins)
        except UserError as error:
            shown = ", ".join(f"{key}: {value}" for key, value in values.items())
            raise UserError(f"combination {number} ({shown}): {error}") from None


def plan_lines(experiment):
    """Returns what is said of the runs that an Experiment makes: list of str."""
    number, seeds = num_combinations(experiment), len(experiment.seeds)
    total = f"{counted(number * seeds, 'run')}: {counted(number, 'combination')}"
    head = f"{total}, {counted(seeds, 'seed')} each; run.py accepts the params of all"
    if experiment.method == "bayes":
        return [f"{head} that were tried: both ends of each parameter"]
    keys = list(experiment.parameters)
    rows = [[shown(values[key]) for key in keys] for values in Listed(experiment).all]
    return [head, *table(keys, rows)]


def check_same(experiment, flags, folder):
    """Raises UserError where the folder holds the runs of another experiment, or a training.

    Records this experiment, with the values of its base: the runs of two would be compared as if
    they had the same ones.
    """
    if (folder / TRAINED).is_file():
        raise UserError(
            f"{folder} is the model_dir of a training, which has {TRAINED} there; choose another "
            "--model_dir for the runs"
        )
    path, asked = folder / SAVED, experiment.model_dump(mode="json")
    asked["flags"] = {key: str(value) for key, value in flags.items()}
    base = flattened(read_file(find_file(experiment.base))[0])
    asked[BASE_VALUES] = json.loads(json.dumps(base, default=str))
    if path.exists():
        former = read_saved(path)
        changed = [
            f"  {key} was {former.get(key)}, is now {asked[key]}"
            for key in asked
            if former.get(key) != asked[key] and key not in (*MAY_CHANGE, BASE_VALUES)
        ]
        changes = plain_differences(former.get(BASE_VALUES, asked[BASE_VALUES]), asked[BASE_VALUES])
        changed += [
            f"  {key} was {old}, is now {new} in {experiment.base}"
            for key, old, new in changes
            if not may_change(key)
        ]
        if changed:
            head = f"{folder} holds the runs of an experiment that was another:"
            advice = "Give back the former values, or choose another --model_dir"
            raise UserError("\n".join([head, *changed, advice]))
    write_whole(path, json.dumps(asked, indent=2) + "\n")


def read_saved(path):
    """Returns what SAVED has: dict. Raises UserError where it is damaged."""
    try:
        saved = json.loads(path.read_text("utf-8"))
    except ValueError:
        saved = None
    if not isinstance(saved, dict):
        raise UserError(
            f"{path} is damaged, so whether the experiment is the same is not known; delete it if "
            "it is, or choose another --model_dir"
        )
    return saved


def run_experiment(experiment, model_dir, flags, control, make_command=command_of):
    """Makes every run. Returns the Result, and the ids of the runs that failed.

    Args:
        experiment: Experiment.
        model_dir: path of the folder of its runs.
        flags: {dotted key: value} of the command line, for every run.
        control: Control, which asks it to stop.
        make_command: callable(base, folder, overrides) -> the command of a run.
    Raises:
        UserError: nothing was started. Stopped: as Control asked. RunError: every run failed.
    """
    check_combinations(experiment, flags)
    started, folder = time.monotonic(), Path(model_dir)
    check_no_links(folder, WRITTEN)
    with locked(folder):
        check_same(experiment, flags, folder)
        (folder / "logs").mkdir(exist_ok=True)
        with contextlib.closing(Journal(folder)) as journal:
            controller = Controller(experiment, folder, flags, control, make_command, journal)
            controller.run()
    return controller.result(started)


class Controller:
    """The loop; arguments as of `run_experiment`. journal: Journal."""

    def __init__(self, experiment, folder, flags, control, make_command, journal):
        self.experiment, self.folder, self.flags = experiment, folder, flags
        self.control, self.make_command, self.journal = control, make_command, journal
        self.runs = {}  # {id: Run}, in the order in which they start
        for event in journal.of("combination"):
            self._plan(event["number"], event["values"])
        for event in journal.of("end", exit_code=0):
            run = self.runs.get(event["run"])
            if run is None:  # its line of the journal was lost, so it is begun anew
                continue
            run.is_done = (run.folder / TRAINED).is_file()
            if not run.is_done:
                log(f"{run.id} was done, and its folder is gone: it trains again")
        known = len(self._combinations)
        figures = {each["combination"]: each["figure"] for each in journal.of("result")}
        self.sampler = self._bayes(figures) if experiment.method == "bayes" else Listed(experiment)
        maximizes = experiment.metric.goal == "maximize"
        self.halving = Halving(experiment.early_terminate, maximizes, journal)
        for number in self._combinations:
            if figures.get(number) is None:
                self._tell_if_ended(number)
        if known:
            done = sum(run.is_done for run in self.runs.values())
            begun = counted(len(self.runs), "run")
            log(f"Going on in {folder}: {done} of the {begun} begun are done")

    def _bayes(self, figures):
        planned = self.journal.of("combination")
        tried = [(each["values"], figures.get(each["number"])) for each in planned]
        return Bayes(self.experiment, tried, self.folder / OPTUNA)

    def run(self):
        """Makes every run, or as many as there is time for until Control asks to stop."""
        try:
            while self._turn():
                time.sleep(POLL_SECONDS)
        finally:
            for run in self._active:
                run.child.ask_to_stop()
            while self._active:
                self._take_note()
                time.sleep(POLL_SECONDS)

    def _turn(self):
        """One turn of the loop. Returns whether there is more to do."""
        self._take_note()
        if self.control.stopped_by is not None:
            return False
        for run in self._active:
            if self._is_at_rung(run):
                run.child.ask_to_stop()
        self._end_at_rungs()
        while len(self._active) < self.experiment.max_parallel:
            run = self._next()
            if run is None or run.not_before > time.monotonic():
                return run is not None or bool(self._active)
            self._start(run)
        return True

    # ---- Runs and combinations -------------------------------------------------------------------

    @property
    def _active(self):
        return [run for run in self.runs.values() if run.child is not None]

    @property
    def _combinations(self):
        """{number: its Runs}."""
        found = {}
        for run in self.runs.values():
            found.setdefault(run.combination, []).append(run)
        return found

    def _plan(self, number, values):
        """Adds the runs of a combination."""
        seeds = self.experiment.seeds
        for place, seed in enumerate(seeds):
            run_id = self.experiment.run_id(number * len(seeds) + place)
            overrides = overrides_of(self.experiment, values, self.flags)
            overrides |= {"runconfig.tf_random_seed": seed}
            self.runs[run_id] = Run(run_id, number, overrides, self.folder / run_id)

    def _next(self):
        """Returns the next Run to start, of a new combination where no other waits; or None."""
        for run in self.runs.values():
            is_open = run.child is None and not run.is_done and not run.has_failed
            is_dropped = run.combination in self.halving.dropped
            if is_open and not is_dropped and not self._is_at_rung(run):
                return run
        number = len(self._combinations)
        if not self.sampler.has(number):
            return None
        values = self.sampler.values(number)
        self._plan(number, values)
        runs = self._combinations[number]
        ids = [run.id for run in runs]
        self.journal.add("combination", number=number, values=values, runs=ids)
        return runs[0]

    # ---- Processes -------------------------------------------------------------------------------

    def _start(self, run):
        is_begun = bool(store.list_checkpoints(run.folder))
        command = self.make_command(self.experiment.base, run.folder, run.overrides)
        run.child = Child(command, self.folder / "logs" / f"{run.id}.log")
        log(f"{run.id} {'goes on' if is_begun else 'starts'}")

    def _take_note(self):
        """Takes note of the processes that have ended."""
        for run in self._active:
            code = run.child.exit_code()
            if code is not None:
                child, run.child = run.child, None
                if not (child.is_asked_to_stop and code > 128):
                    self._end(run, code, child.last_line())

    def _end(self, run, code, line):
        """Takes note of a process that ended by itself. line: str, the last of its log."""
        if code == BUSY:  # such as a process of a controller that was killed, and still saves
            run.not_before = time.monotonic() + BUSY_SECONDS
            log(f"{run.id} waits: {line}")
            return
        step = last_step_of(run.folder)
        if code == REFUSED:
            run.num_failures = MAX_FAILURES
        elif code == 1 or (code > 128 and step == run.last_step):
            run.num_failures += 1
        run.is_done, run.last_step = code == 0, step
        self.journal.add("end", run=run.id, exit_code=code)
        if code == 0:
            with contextlib.suppress(UserError):
                write_hparams(run.folder, self.experiment.parameters)
        figure = self._figure(run) if code == 0 else None
        shown = "" if figure is None else f", {self.experiment.metric.name} {figure:.4f}"
        log(f"{run.id} ended with exit code {code}{shown}{f': {line}' if code else ''}")
        self._tell_if_ended(run.combination)

    def _tell_if_ended(self, number):
        """Records the mean over seeds where all runs of a combination have ended."""
        runs = self._combinations[number]
        if not all(run.is_done or run.has_failed for run in runs):
            return
        figures = [self._figure(run) if run.is_done else None for run in runs]
        mean = None if None in figures else statistics.fmean(figures)
        self.journal.add("result", combination=number, figure=mean)
        self.sampler.tell(number, mean)

    def _figure(self, run):
        """Returns the figure of the checkpoint that a run chose: float, or None."""
        with contextlib.suppress(UserError):
            return read_run(run.folder).figures.get(self.experiment.metric.name)
        return None

    # ---- Rungs -----------------------------------------------------------------------------------

    def _is_at_rung(self, run):
        number = len(self._combinations)
        if number - len(self.halving.dropped) == 1 and not self.sampler.has(number):
            return False  # the last one that goes on is compared with none
        step = self.halving.next_step(run.combination)
        return step is not None and self._figure_at(run, step) is not None

    def _figure_at(self, run, step):
        """As `figure_at` of halving.py."""
        metric = self.experiment.metric
        curve = read_curves(run.folder).get(("eval", metric.name), {})
        return figure_at(curve, step, run.is_done, metric.goal == "maximize")

    def _end_at_rungs(self):
        """Ends the combinations that are not among the best of their rung, once all are there."""
        combinations = self._combinations
        if self.experiment.early_terminate is None or self.sampler.has(len(combinations)):
            return
        while True:  # an evaluation may lie beyond several rungs
            going_on = {n: r for n, r in combinations.items() if n not in self.halving.dropped}
            if all(run.is_done or run.has_failed for runs in going_on.values() for run in runs):
                return
            figure_at = {n: self._mean_at_rung(n, runs) for n, runs in going_on.items()}
            passed = dict(self.halving.passed)
            for number, place, of in self.halving.decide(figure_at):
                name, figure = self.experiment.metric.name, figure_at[number]
                log(f"combination {number} ends early: {name} {figure:.4f}, place {place} of {of}")
            if self.halving.passed == passed:
                return

    def _mean_at_rung(self, number, runs):
        """Returns the mean over seeds at the next rung; None while a run is on its way there."""
        if any(run.child is not None for run in runs):
            return None
        if any(run.has_failed for run in runs):
            return float("nan")
        figures = [self._figure_at(run, self.halving.next_step(number)) for run in runs]
        return None if None in figures else statistics.fmean(figures)

    # ---- After the last run ----------------------------------------------------------------------

    def result(self, started):
        """Returns the Result, and the ids of the runs that failed; raises as `run_experiment`."""
        runs, metric = list(self.runs.values()), self.experiment.metric
        values = values_of_runs(self.folder)
        done = [read_run(run.folder, values.get(run.id)) for run in runs if run.is_done]
        if self.control.stopped_by is not None:
            total = num_combinations(self.experiment) * len(self.experiment.seeds)
            log(f"{len(done)} of {counted(total, 'run')} are done; the same command goes on")
            raise Stopped(self.control.stopped_by)
        failed = [run.id for run in runs if run.has_failed]
        if not done:
            raise RunError(f"no run ended well; their logs are in {self.folder / 'logs'}")
        stopped = sum(run.combination in self.halving.dropped for run in runs)
        outcome = f"{counted(len(done), 'run')} done"
        outcome += f", {stopped} ended early" if stopped else ""
        outcome += f", {len(failed)} failed" if failed else ""
        varied = list(self.experiment.parameters)
        lines = comparison_lines(done, metric.name, metric.goal == "minimize", varied)
        result = Result(
            mode="experiment",
            outcome=outcome,
            model_dir=str(self.folder),
            seconds=time.monotonic() - started,
            output=tuple(lines),
            lines=(("Done", outcome), ("Runs", str(self.folder))),
        )
        return result, failed


def last_step_of(folder):
    """Returns the last step that a run has told of: int, or None."""
    steps = [step for curve in read_curves(folder).values() for step in curve]
    return max(steps, default=None)
