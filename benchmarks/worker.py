# SPDX-License-Identifier: Apache-2.0
"""The worker's side of a measurement: a process that `bench.py` starts and asks for blocks.

Uses the standard library only, as every peer's environment imports it. The protocol, in lines:

    worker   {"ready": ...}             imported, compiled, warmed up; waits
    bench    block                      the worker measures one block of work
    worker   {"seconds": ..., "count": ..., ...}
    bench    (end of file)              the worker ends
    worker   {"peak_mib": ..., ...}

Several workers can thus be ready at the same time and run their blocks in turn.
"""

import contextlib
import json
import os
import resource
import sys
import time


class Finished(Exception):
    """`bench.py` asks for no more blocks."""


class Gate:
    """Starts a block when `bench.py` asks for one, and reports its time.

    All other output goes to the standard error stream, which `bench.py` writes into a log.

    Args:
        facts: dict of JSON values for the last line; entries may be added until then.
    """

    def __init__(self, facts):
        self.facts = facts
        self.requests = sys.stdin
        self.answers = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self.is_ready = False

    def begin(self):
        """Waits until `bench.py` asks for a block. Raises Finished if it asks for no more."""
        if not self.is_ready:
            self._report({"ready": True})
            self.is_ready = True
        if not self.requests.readline():
            raise Finished
        self.started = time.perf_counter(), machine_seconds(), process_seconds()

    def end(self, count, **figures):
        """Reports the block that `begin` started.

        count: int, examples or sentences of the block. figures: further JSON values.
        """
        now = time.perf_counter(), machine_seconds(), process_seconds()
        seconds, machine, process = (b - a for a, b in zip(self.started, now, strict=True))
        block = {
            "seconds": seconds,
            "count": count,
            "processor_seconds": process,
            # Mean number of cores used by other processes and by the hypervisor.
            "others": max(0.0, machine - process) / seconds,
        }
        self._report(block | figures)

    def repeat(self, work, count):
        """Does the work once a block, until `bench.py` asks for no more.

        work: () -> dict of further figures. count: int, examples or sentences of the work.
        """
        while True:
            self.begin()
            figures = work()
            self.end(count, **figures)

    @contextlib.contextmanager
    def serving(self):
        """A context for the work; at its end, or at `Finished`, the facts are reported."""
        with contextlib.suppress(Finished):
            yield self
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux: KiB
        self._report(self.facts | {"peak_mib": round(peak)})

    def _report(self, values):
        print(json.dumps(values), file=self.answers, flush=True)


class StepGate:
    """A Gate for the peers' training loops, which call back after every step.

    Args:
        gate: Gate.
        warmup: int > 0. Steps before the first block.
        per_block: int.
        batch_size: int.
    """

    def __init__(self, gate, warmup, per_block, batch_size):
        self.gate, self.warmup, self.per_block = gate, warmup, per_block
        self.batch_size = batch_size
        self.done = 0

    def after_step(self):
        """Is called at the end of every step. Raises Finished after the last block."""
        self.done += 1
        within = self.done - self.warmup
        if within >= 0 and within % self.per_block == 0:
            if within:
                self.gate.end(self.per_block * self.batch_size)
            self.gate.begin()


def read_rows(path):
    """Returns the rows of a file of `ours.py rows`: list of tuples of str, list of int labels."""
    with open(path, encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    return [tuple(texts) for _, *texts in rows], [int(label) for label, *_ in rows]


def machine_seconds():
    """Returns the machine's processor seconds so far, those of the hypervisor included."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def process_seconds():
    return sum(os.times()[:4])
