# SPDX-License-Identifier: Apache-2.0
"""Kills the real command, fails its writes and takes its disk away; then resumes and compares.

    python tests/faults/harness.py --kills 200
    python tests/faults/harness.py --configuration plain --kills 0 --failures 20 --disks

Of each configuration one run goes through undisturbed and keeps every checkpoint. Others are killed
with SIGKILL, at random times and at chosen points, resumed, killed again, and at last left alone.
After every kill each checkpoint that is listed has to verify, and to have the bits that the
undisturbed run had at its step; at the end the last checkpoint (weights, optimizer, what the run
remembers), the figures and best.json have to be the same. The first difference ends the kills of a
configuration, and the harness exits with 1.

Importing TensorFlow costs seconds, so this process imports it once, computes nothing with it, and
forks a child for each run, which calls `run.main` with the flags of the command line. In the child
the functions that write, save, evaluate and train are wrapped (`Child`): they note in a log that
they begin and end, which tells what a kill has hit, and strike at the chosen point.
"""

import argparse
import atexit
import contextlib
import ctypes
import dataclasses
import errno
import functools
import hashlib
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.faults.forked import end_with  # noqa: E402 - after the path
from tests.reference.toy_words import make_task_data  # noqa: E402

LAST_STEP, SAVE_EVERY, EVALUATE_EVERY = 12, 2, 5
KILLS_IN_A_ROW = 8  # then a run is left alone
TIMEOUT_SECONDS = 1200  # of one run of some seconds, on a busy machine
OTHER_WORKER_SECONDS = 3  # what is left of two workers is killed too after that
SMALL_DISK = "12m"  # the smallest that `store.check_space` lets a tiny run begin on, and more
CLOCK = ("time", "train/examples_per_second", "train/input_wait")
CONFIGURATIONS = {
    "plain": {"train_input.packing": "none"},
    "accumulated": {
        "train_input.packing": "packed",
        "train_input.num_buckets": 2,
        "model.mixed_precision": "mixed_bfloat16",
        "optimizer.grad_accum_steps": 2,
        "optimizer.moving_average_decay": 0.9,
    },
    "workers": {"runconfig.multiple_workers": True},
    "words": {"train_input.packing": "packed", "train_input.num_buckets": 2},
    "questions": {"train_input.packing": "packed", "train_input.num_buckets": 2},
}
TASK_OF = {"words": "token_classification", "questions": "question_answering"}
OVERRIDES = {
    "*_input.max_sequence_length": 12,
    # One layer, and few different shapes of weights: XLA compiles the update of each.
    "model.num_hidden_layers": 1,
    **dict.fromkeys(("model.filter_size", "model.max_position_embeddings"), 32),
    "train_input.batch_size": 4,
    "optimizer.learning_rate": 1e-2,  # every update moves many bits
    "runconfig.save_checkpoints_steps": SAVE_EVERY,
    "runconfig.eval_every_steps": EVALUATE_EVERY,
    "runconfig.throttle_secs": 0,
    "runconfig.keep_checkpoint_max": 2,
    "runconfig.save_summary_steps": 2,
    "runconfig.best_metric": "eval/loss",
    "runconfig.max_steps": LAST_STEP,
}


class Broken(AssertionError):
    """A promise that was not kept, with what the run printed."""


@dataclasses.dataclass
class Fault:
    """What is done to a run, and where.

    Attributes:
        kind: "kill" at a time; "before", "after", "torn" (the file half written) or "within" (some
            time after it began): a kill at an event; "fail", "delay", "fill" (the disk), "vanish"
            (model_dir), "swap" (for an empty one) or "read-only": something else that happens
            before it.
        event: str, as `Child` names them; with `number` which of them, from 1 on.
        seconds: float, after which `kill` and `within` strike.
        victims: which workers are struck, of a run that has several.
        signal: with which `kill` and `within` strike.
    """

    kind: str
    event: str | None = None
    number: int = 1
    seconds: float = 0.0
    victims: tuple[int, ...] = (0,)
    signal: int = signal.SIGKILL

    def __str__(self):
        place = f"after {self.seconds:.2f} s" if self.event is None else f"{self.event!r}"
        return f"{self.kind} {place} number {self.number} of {self.victims}"


# ---- in the child --------------------------------------------------------------------------------


class Child:
    """Wraps what a run calls, so that it is noted and can be struck.

    Args:
        folder: Path. Files elsewhere are of no interest.
        log: descriptor, for a JSON line per event.
        fault: Fault or None.
        bell: descriptor, to which a byte is written where a fault "within" begins.
    """

    def __init__(self, folder, log, fault, bell):
        self.folder, self.log, self.fault, self.bell = folder, log, fault, bell
        self.counts = Counter()
        self.lock = threading.Lock()
        self.step = 0

    def note(self, **facts):
        facts |= {"time": time.monotonic(), "thread": threading.get_ident()}
        os.write(self.log, f"{json.dumps(facts)}\n".encode())

    def wrap(self, owner, name, event):
        """event: str, or a function of the arguments that gives (str, Path) or None."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            called, file = (event, None) if isinstance(event, str) else event(*args) or (None, None)
            if called is None:
                return function(*args, **kwargs)
            return self.happen(called, file, functools.partial(function, *args, **kwargs))

        setattr(owner, name, wrapped)

    def happen(self, event, file, function):
        with self.lock:
            self.counts[event] += 1
            fault = self.fault
            is_hit = fault is not None and (event, self.counts[event]) == (
                fault.event,
                fault.number,
            )
        self.note(begins=event)
        if is_hit:
            self.strike(file)
        result = function()
        if is_hit and fault.kind == "torn":
            os.truncate(file, file.stat().st_size // 2)
        if is_hit and fault.kind in ("after", "torn"):
            os.kill(os.getpid(), signal.SIGKILL)
        self.note(ends=event, result=None if result is None else str(result)[:500])
        return result

    def strike(self, file):
        kind = self.fault.kind
        model_dir = self.folder / "model_dir"
        if kind == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "within":
            os.write(self.bell, b"!")
        elif kind == "fail":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))
        elif kind == "delay":
            time.sleep(0.5)
        elif kind == "fill":
            with contextlib.suppress(OSError), open(self.folder / "filler", "wb", 0) as filler:
                while filler.write(bytes(1000)):
                    pass
        elif kind in ("vanish", "swap"):
            os.rename(model_dir, self.folder / "elsewhere")
            if kind == "swap":
                os.mkdir(model_dir)
        elif kind == "read-only":
            model_dir.chmod(0o555)

    def file_event(self, verb, place=0):
        """Names what is done to the file that argument number `place` is."""

        def event(*args):
            path = args[place]
            path = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else path
            path = Path(os.path.abspath(path))
            if not path.is_relative_to(self.folder):
                return None
            short = "/".join(path.relative_to(self.folder).parts[-2:])
            return f"{verb} {re.sub(r'[0-9a-f]{16}|[0-9]+', '#', short)}", path

        return event

    def install(self):
        from common.checkpoints.formats import ours
        from common.reports import plots
        from common.training import evaluator, saver, trainer
        from input import token_cache

        plots.draw_confusion = plots.draw_curves = lambda *_: Blank()
        self.wrap(os, "replace", self.file_event("rename to", 1))
        self.wrap(os, "fsync", self.file_event("flush"))
        self.wrap(shutil, "rmtree", self.file_event("delete"))
        self.wrap(Path, "unlink", self.file_event("delete"))
        self.wrap(Path, "mkdir", self.file_event("make"))
        self.wrap(Path, "write_text", self.file_event("write"))
        self.wrap(Path, "write_bytes", self.file_event("write"))
        self.wrap(ours, "save_file", self.file_event("write", 1))
        self.wrap(ours, "save_checkpoint", "save")
        self.wrap(token_cache, "tokenize_rows", "tokenise")
        self.wrap(evaluator.Evaluator, "evaluate", "evaluate")
        self.wrap(trainer, "result_of", "close")
        restore, train = saver.Saver.restore, trainer.train

        def restore_and_note(self_, path):
            fault = fault_in(Path(path))  # not the project's own opinion
            self.step = restore(self_, path)
            self.note(resumed=self.step, fault=fault)
            return self.step

        def train_wrapped(train_step, *args, **keywords):
            def step(*batch):
                name = "step" if self.counts["first step: trace, compile"] else None
                name = name or "first step: trace, compile"
                figures = self.happen(name, None, lambda: train_step(*batch))
                self.step += figures is not None
                self.note(step=self.step)
                return figures

            return train(step, *args, **keywords)

        saver.Saver.restore = restore_and_note
        trainer.train = train_wrapped


class Blank:
    """In the place of matplotlib's figures, whose drawing is a third of such a short run."""

    def savefig(self, file, **_):
        file.write(b"no picture")


def drop_power_over_permissions():
    """Lets root be refused what a directory's mode does not allow: without CAP_DAC_OVERRIDE."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capget(header, data) == 0:
        for kind in (0, 1):  # effective, permitted
            data[kind] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.capset(header, data)


def be_the_run(flags, folder, log, said, fault, bell, environ):
    """Runs the command in this forked process, which does not return."""

    def command():
        for number in (1, 2):
            os.dup2(said, number)
        os.environ.update(environ)
        os.chdir(ROOT)
        import run

        if fault is not None and fault.kind == "read-only":
            drop_power_over_permissions()
        Child(folder, log, fault, bell).install()
        try:
            code = run.main(flags)
            sys.stdout.flush()
            sys.stderr.flush()
            atexit._run_exitfuncs()
        except SystemExit as exit_:
            return exit_.code
        return code

    end_with(command, code_of_exception=70)


# ---- one run -------------------------------------------------------------------------------------


@dataclasses.dataclass
class Outcome:
    """Attributes:
    codes: exit code of each worker; -9 where it was killed.
    said: str, what all of them printed.
    lines: list of dict, what the chief noted.
    was_struck: bool. Whether a worker was killed, or the fault of another kind was reached.
    seconds: float.
    seconds_after: float or None. From the strike of `kill` or `within` to the end.
    """

    codes: list[int]
    said: str
    lines: list[dict]
    was_struck: bool
    seconds: float
    seconds_after: float | None

    @property
    def phase(self):
        """What was under way last, the innermost part of it."""
        last, threads = "start", {}
        for line in self.lines:
            stack = threads.setdefault(line["thread"], [])
            if "begins" in line:
                stack.append(line["begins"])
            elif "ends" in line:
                stack.pop()
            elif "step" in line:
                last = "between steps"
            elif "resumed" in line:
                last = "start, after loading"
        # A save runs in a thread of its own; what it does says more than that a step is computed.
        open_ = [stack for stack in threads.values() if stack]
        saving = [stack for stack in open_ if stack[0] == "save"]
        return " > ".join((saving or open_ or [[last]])[0])

    def numbers_of(self, key):
        return [line[key] for line in self.lines if key in line]


class Runs:
    """Runs of one configuration in one folder.

    Args:
        name: of CONFIGURATIONS.
        folder: Path, empty.
        changes: {key: value} of the params besides.
        notes: Path of a folder for what is noted of a run, on a disk that does not fill up.
    """

    def __init__(self, name, folder, changes=None, notes=None):
        self.name, self.folder = name, folder
        self.model_dir = folder / "model_dir"
        self.notes = notes or folder
        folder.mkdir(parents=True, exist_ok=True)
        overrides = OVERRIDES | CONFIGURATIONS[name] | (changes or {})
        keys = make_task_data(folder, TASK_OF.get(name, "classification"))
        overrides |= {f"*_input.{key}": value for key, value in keys.items()}
        overrides["*_input.cache_dir"] = folder / "cache"
        overrides["runconfig.compile_cache_dir"] = "false"  # every child compiles
        (folder / "params.yaml").write_text(params_text(), "utf-8")
        self.flags = ["--mode=train_and_eval", f"--params={folder / 'params.yaml'}"]
        self.flags += [f"--override={key}={value}" for key, value in overrides.items()]
        self.num_workers = 2 if name == "workers" else 1
        self._struck_at = None

    def run(self, fault=None, flags=()):
        """Runs the command until it ends, or is killed. Returns Outcome."""
        began = time.monotonic()
        ring, bell = os.pipe()
        log_path, said_path = self.notes / "log", self.notes / "said"
        for path in (log_path, said_path):
            path.write_bytes(b"")
        pids = []
        addresses = free_addresses(self.num_workers)
        for worker in range(self.num_workers):
            is_victim = fault is not None and worker in fault.victims
            task = {"type": "worker", "index": worker}
            environ = {}
            if self.num_workers > 1:
                config = {"cluster": {"worker": addresses}, "task": task}
                environ["TF_CONFIG"] = json.dumps(config)
            pid = os.fork()
            if pid == 0:
                os.close(ring)
                append = os.O_WRONLY | os.O_APPEND
                log = os.open(log_path if worker == 0 else os.devnull, append)
                said = os.open(said_path, append)
                flags = [*self.flags, f"--model_dir={self.model_dir}", *flags]
                given = fault if is_victim else None
                be_the_run(flags, self.folder, log, said, given, bell, environ)
            pids.append(pid)
        os.close(bell)
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, ring)
            for pid in pids:
                stack.callback(kill, pid)
            codes = self._wait(pids, fault, ring, began)
        lines = [json.loads(line) for line in log_path.read_text("utf-8").splitlines()]
        said = said_path.read_text("utf-8", "replace")
        struck = -signal.SIGKILL in codes.values()
        if fault is not None and fault.event is not None and not struck:
            counts = Counter(line["begins"] for line in lines if "begins" in line)
            struck = counts[fault.event] >= fault.number
        codes = [codes[pid] for pid in pids]
        ended = time.monotonic()
        after = None if self._struck_at is None else ended - self._struck_at
        return Outcome(codes, said, lines, struck, ended - began, after)

    def _wait(self, pids, fault, ring, began):
        """Returns {pid: exit code}, killing whom and when the fault says."""
        self._struck_at = None
        codes, deadline = {}, began + TIMEOUT_SECONDS
        strike_at = began + fault.seconds if fault is not None and fault.kind == "kill" else None
        is_heard = fault is None or fault.kind != "within"
        while len(codes) < len(pids):
            now = time.monotonic()
            if now > deadline:
                raise Broken(f"no end after {TIMEOUT_SECONDS} s:\n{self._said()}")
            if not is_heard and select.select([ring], [], [], 0)[0]:
                is_heard = True
                if os.read(ring, 1):
                    strike_at = now + fault.seconds
            if strike_at is not None and now >= strike_at:
                for worker in fault.victims:
                    if worker < len(pids) and pids[worker] not in codes:
                        os.kill(pids[worker], fault.signal)
                self._struck_at = self._struck_at or now
                strike_at = None
            for pid in pids:
                if pid not in codes:
                    ended, status = os.waitpid(pid, os.WNOHANG)
                    if ended:
                        codes[pid] = os.waitstatus_to_exitcode(status)
                        if codes[pid] == -signal.SIGKILL:
                            deadline = min(deadline, now + OTHER_WORKER_SECONDS)
                            if len(pids) > len(codes):
                                strike_at, fault = deadline, Fault("kill", victims=(0, 1))
                                deadline += TIMEOUT_SECONDS
            time.sleep(0.002)
        return codes

    def _said(self):
        return (self.notes / "said").read_text("utf-8", "replace")

    def clear(self, with_cache=True):
        """Leaves nothing of earlier runs but the data, and its tokens unless told otherwise."""
        for name in ("model_dir", "elsewhere", *(["cache"] if with_cache else [])):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / "filler").unlink(missing_ok=True)


def kill(pid):
    """Ends a child that is still there."""
    with contextlib.suppress(ChildProcessError, ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def free_addresses(count):
    with contextlib.ExitStack() as stack:
        servers = (socket.create_server(("localhost", 0)) for _ in range(count))
        sockets = [stack.enter_context(server) for server in servers]
        return [f"localhost:{each.getsockname()[1]}" for each in sockets]


def params_text():
    """configs/params_bert_tiny.yaml without what belongs to its data set."""
    lines = (ROOT / "configs" / "params_bert_tiny.yaml").read_text("utf-8").splitlines()
    dropped = ("data_dir:", "dataset:", "data_processor:")
    kept = [line for line in lines if not line.strip().startswith(dropped)]
    return "\n".join(kept) + "\n"


# ---- what has to hold ----------------------------------------------------------------------------


def fault_in(path):
    """What is wrong with a checkpoint, or None. Written anew here, not taken from the project."""
    try:
        files = json.loads((path / "manifest.json").read_bytes())["files"]
    except (OSError, ValueError) as error:
        return f"no manifest: {error}"
    if set(files) | {"manifest.json"} != {file.name for file in path.iterdir()}:
        return f"other files than {sorted(files)}"
    for name, expected in files.items():
        content = (path / name).read_bytes()
        found = {"size": len(content), "blake2b": hashlib.blake2b(content).hexdigest()}
        if found != expected:
            return f"{name} does not verify"
    return None


def steps_of(model_dir):
    """{step: Path} of what a run could find there."""
    found = {}
    for path in sorted(model_dir.glob("checkpoint-*")):
        found.setdefault(int(re.match(r"checkpoint-(\d+)", path.name)[1]), path)
    return found


def bits_of(checkpoint):
    """Digest of each file of a checkpoint but for its manifest."""
    return {
        file.name: hashlib.blake2b(file.read_bytes()).hexdigest()
        for file in checkpoint.iterdir()
        if file.name != "manifest.json"
    }


def figures_of(model_dir):
    """The lines of metrics.jsonl but for what the clock says."""
    lines = map(json.loads, (model_dir / "metrics.jsonl").read_text("utf-8").splitlines())
    return [{key: value for key, value in line.items() if key not in CLOCK} for line in lines]


class Reference:
    """What a run that went through has, and what happened in it."""

    def __init__(self, runs):
        runs.clear()
        outcome = runs.run(flags=["--override=runconfig.keep_checkpoint_max=0"])
        if any(outcome.codes):
            raise Broken(f"the undisturbed run failed:\n{outcome.said}")
        self.seconds = outcome.seconds
        self.bits = {step: bits_of(path) for step, path in steps_of(runs.model_dir).items()}
        self.figures = figures_of(runs.model_dir)
        self.best = json.loads((runs.model_dir / "best.json").read_bytes())
        self.events, self.durations = Counter(), {}
        begun = {}
        for line in outcome.lines:
            if "begins" in line:
                begun[line["begins"], line["thread"]] = line["time"]
                self.events[line["begins"]] += 1
            elif "ends" in line:
                seconds = line["time"] - begun[line["ends"], line["thread"]]
                self.durations[line["ends"]] = max(seconds, self.durations.get(line["ends"], 0))
        # What only a run does that keeps few checkpoints.
        self.events["delete model_dir/.checkpoint-#.#.tmp"] = 3

    def check_after_fault(self, runs, outcome, saved_before):
        """Returns (steps that have to be trained again, steps whose save is finished)."""
        listed = steps_of(runs.model_dir)
        for step, path in listed.items():
            fault = fault_in(path)
            if fault is not None:
                raise Broken(f"{path} is listed and does not verify: {fault}\n{outcome.said}")
            if bits_of(path) != self.bits.get(step, bits_of(path)):
                raise Broken(f"{path} has other bits than the undisturbed run\n{outcome.said}")
        if "Traceback" in outcome.said:
            raise Broken(f"a traceback:\n{outcome.said}")
        saved = set(saved_before)
        for line in outcome.lines:
            if line.get("ends") == "save":
                saved.add(int(re.search(r"checkpoint-(\d+)", line["result"] or "")[1]))
            if line.get("resumed") is not None and line["fault"] is not None:
                raise Broken(f"a checkpoint was loaded that does not verify: {line['fault']}")
        newest = max(listed, default=0)
        if saved and newest < max(saved):
            raise Broken(f"checkpoint-{max(saved)} was saved, and {newest} is the newest left")
        reached = max(outcome.numbers_of("step"), default=newest)
        return max(0, reached - newest), saved

    def check_end(self, runs, outcome):
        path = runs.model_dir / f"checkpoint-{LAST_STEP}"
        if bits_of(path) != self.bits[LAST_STEP]:
            ours, theirs = bits_of(path), self.bits[LAST_STEP]
            names = sorted(name for name in ours if ours[name] != theirs.get(name))
            raise Broken(f"{path}: {names} have other bits at the end\n{outcome.said}")
        if figures_of(runs.model_dir) != self.figures:
            ours = figures_of(runs.model_dir)
            differing = [
                pair for pair in zip(ours, self.figures, strict=False) if pair[0] != pair[1]
            ]
            raise Broken(
                f"metrics.jsonl: {len(ours)} lines, {len(self.figures)} undisturbed; "
                f"{differing[:2]}\n{outcome.said}"
            )
        if json.loads((runs.model_dir / "best.json").read_bytes()) != self.best:
            raise Broken("best.json names another checkpoint")
        left = [path.name for path in runs.model_dir.glob(".*")]
        if left:
            raise Broken(f"left behind: {left}")


# ---- the three kinds of trial --------------------------------------------------------------------


def random_kill(generator, reference, num_workers):
    victims = generator.choice([(0,), (1,), (0, 1), (0, 1)]) if num_workers > 1 else (0,)
    if generator.random() < 0.35:
        return Fault("kill", seconds=generator.uniform(0, reference.seconds), victims=victims)
    event = generator.choice(sorted(reference.events))
    kinds = ["before", "after", "within"]
    if event.startswith("write"):
        kinds.append("torn")
    number = generator.randrange(1, min(reference.events[event], 4) + 1)
    seconds = generator.uniform(0, reference.durations.get(event, 0))
    # The chief alone saves and is noted; a worker that is killed with it, is so a moment later.
    return Fault(generator.choice(kinds), event, number, seconds, victims=(0,))


def try_kills(runs, reference, num_kills, deadline, generator, tell):
    """Kills `num_kills` times. Returns Counter of what was under way."""
    phases, ends, again = Counter(), 0, 0
    while phases.total() < num_kills and time.monotonic() < deadline:
        runs.clear(with_cache=generator.random() < 0.3)
        saved, in_a_row = set(), 0
        while True:
            fault = None
            is_due = phases.total() < num_kills and time.monotonic() < deadline
            if is_due and in_a_row < KILLS_IN_A_ROW:
                fault = random_kill(generator, reference, runs.num_workers)
            tell(fault)
            outcome = runs.run(fault)
            lost, saved = reference.check_after_fault(runs, outcome, saved)
            again = max(again, lost)
            if -signal.SIGKILL in outcome.codes:
                phases[outcome.phase] += 1
                in_a_row += 1
            elif not any(outcome.codes):
                reference.check_end(runs, outcome)
                ends += 1
                break
            else:
                raise Broken(f"exit code {outcome.codes}:\n{outcome.said}")
        # A save is under way while the steps up to the next one are computed.
        if again > 2 * SAVE_EVERY:
            raise Broken(f"{again} steps to be trained again, with a save every {SAVE_EVERY}")
    print(
        f"{runs.name}: {phases.total()} kills, {ends} runs brought to their end with the same "
        f"bits; at most {again} steps trained again, saved every {SAVE_EVERY}"
    )
    for phase, count in sorted(phases.items()):
        print(f"  {count:4d}  {phase}")
    return phases


def check_told(outcome, what):
    """A failed run has said so in a sentence, and ended with code 1 or 2."""
    if outcome.codes[0] not in (1, 2) or "Traceback" in outcome.said:
        raise Broken(f"{what}: exit code {outcome.codes}:\n{outcome.said}")
    lines = [line for line in outcome.said.splitlines() if line.strip()]
    return lines[-1]


def try_failures(runs, reference, num_failures, generator, tell):
    """Lets single writes fail or take long: the run goes on without, or ends with a sentence."""
    events = [e for e in sorted(reference.events) if e.partition(" ")[0] in VERBS]
    results = Counter()
    while results.total() < num_failures:
        event = events[results.total() % len(events)]
        number = generator.randrange(1, min(reference.events[event], 3) + 1)
        fault = Fault(generator.choice(["fail", "fail", "fail", "delay"]), event, number)
        tell(fault)
        runs.clear()
        outcome = runs.run(fault)
        _, saved = reference.check_after_fault(runs, outcome, ())
        if any(outcome.codes):
            check_told(outcome, fault)
            results[f"{fault.kind}: ended with a sentence, resumed"] += 1
            outcome = runs.run()
            reference.check_after_fault(runs, outcome, saved)
        else:
            results[f"{fault.kind}: went on"] += 1
        if any(outcome.codes):
            raise Broken(f"{fault}: not resumed, exit code {outcome.codes}:\n{outcome.said}")
        reference.check_end(runs, outcome)
    print(f"{runs.name}: {results.total()} writes that failed or took long, same bits at the end")
    for result, count in sorted(results.items()):
        print(f"  {count:4d}  {result}")


VERBS = ("rename", "flush", "write", "make")


@contextlib.contextmanager
def small_disk(folder):
    """A file system of SMALL_DISK, mounted at a folder. Gives None, or why there is none."""
    folder.mkdir(parents=True)
    options = ["-t", "tmpfs", "-o", f"size={SMALL_DISK}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
        fault = done.stderr.strip() if done.returncode else None
    except OSError as error:
        fault = str(error)
    try:
        yield fault
    finally:
        if fault is None:
            subprocess.run(["umount", "-l", str(folder)], check=True)


DISK_TRIALS = [
    ("full before a save", Fault("fill", "step", 3)),
    ("full during a save", Fault("fill", "write .checkpoint-#.#.tmp/weights.safetensors", 2)),
    ("full during the notes on the best", Fault("fill", "flush model_dir/.best.json.#.tmp", 1)),
    ("full from the start", Fault("fill", "make model_dir", 1)),
    ("read-only during the run", Fault("read-only", "step", 3)),
    ("gone during the run", Fault("vanish", "step", 3)),
    ("gone during an evaluation", Fault("vanish", "evaluate", 1)),
    ("another folder in its place", Fault("swap", "step", 3)),
]


def try_disks(name, folder, reference, tell, broken):
    """Takes the disk or the folder away in ways that people and machines do."""
    with small_disk(folder / "disk") as excuse:
        disk = folder / "disk" if excuse is None else folder / "plain"
        runs = Runs(name, disk, notes=folder)
        for what, fault in DISK_TRIALS:
            if fault.kind == "fill" and excuse is not None:
                print(f"{name}: {what}: skipped, no small file system can be mounted: {excuse}")
                continue
            tell(fault)
            with noted(broken, f"{name}: {what}"):
                try_disk(runs, reference, what, fault)


def try_disk(runs, reference, what, fault):
    runs.clear()
    outcome = runs.run(fault)
    elsewhere = runs.folder / "elsewhere"
    if elsewhere.exists():
        if runs.model_dir.exists() and (fault.kind == "vanish" or any(runs.model_dir.iterdir())):
            raise Broken(f"model_dir was made anew\n{outcome.said}")
        shutil.rmtree(runs.model_dir, ignore_errors=True)
        os.rename(elsewhere, runs.model_dir)
    try:
        _, saved = reference.check_after_fault(runs, outcome, ())
        sentence = check_told(outcome, what)
        steps = sorted(steps_of(runs.model_dir))
        print(f"{runs.name}: {what}: exit code {outcome.codes[0]}, earlier checkpoints "
              f"{steps} whole: {sentence[:300]}", flush=True)  # fmt: skip
        if fault.kind == "read-only":
            again = runs.run(Fault("read-only"))
            print(f"{runs.name}: read-only at the start: exit code {again.codes[0]}: "
                  f"{check_told(again, what)[:300]}", flush=True)  # fmt: skip
    finally:
        if runs.model_dir.exists():
            runs.model_dir.chmod(0o755)
        (runs.folder / "filler").unlink(missing_ok=True)
    outcome = runs.run()
    if any(outcome.codes):
        raise Broken(f"not resumed, {outcome.codes}:\n{outcome.said}")
    reference.check_after_fault(runs, outcome, saved)
    reference.check_end(runs, outcome)


@contextlib.contextmanager
def noted(broken, what):
    """Prints a Broken and appends it to a list: what comes next is tried all the same."""
    try:
        yield
    except Broken as error:
        broken.append(error)
        print(f"BROKEN: {what}: {error}", flush=True)


@contextlib.contextmanager
def scratch_folder():
    """Not a TemporaryDirectory: that deletes itself at the end of every child too."""
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def import_everything():
    """Imports what runs need, and computes nothing: threads do not survive a fork."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # NumPy's starts its threads when it is imported
    import common.checkpoints.load
    import common.training.distribution
    import common.training.trainer
    import data
    import model
    import run

    del common, data, model, run
    assert len(os.listdir("/proc/self/task")) == 1, "a thread was started by an import"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configuration", action="append", choices=CONFIGURATIONS)
    parser.add_argument("--kills", type=int, default=200, help="of all configurations together")
    parser.add_argument("--failures", type=int, default=0, help="writes to fail, of each")
    parser.add_argument("--disks", action="store_true", help="full, read-only, vanished")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no kill after that")
    parser.add_argument("--verbose", action="store_true", help="tell each fault before it")
    args = parser.parse_args()
    names = args.configuration or list(CONFIGURATIONS)
    broken = []
    import_everything()
    for i, name in enumerate(names):
        generator = random.Random(f"{args.seed} {name}")
        with scratch_folder() as folder:
            began = time.monotonic()
            runs = Runs(name, folder / "runs")
            reference = Reference(runs)
            print(
                f"{name}: the undisturbed run took {reference.seconds:.1f} s, "
                f"{reference.events.total()} events of {len(reference.events)} kinds"
            )

            def tell(fault, name=name, began=began):
                if args.verbose:
                    print(f"{time.monotonic() - began:7.1f} s  {name}: {fault}", flush=True)

            if args.disks:
                try_disks(name, folder, reference, tell, broken)
            if args.failures:
                with noted(broken, f"{name}, failing writes"):
                    try_failures(runs, reference, args.failures, generator, tell)
            num_kills = args.kills // len(names) + (i < args.kills % len(names))
            if num_kills:
                deadline = time.monotonic() + 60 * args.minutes
                with noted(broken, f"{name}, kills"):
                    try_kills(runs, reference, num_kills, deadline, generator, tell)
            sys.stdout.flush()
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
