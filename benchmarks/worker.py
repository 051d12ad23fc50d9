# SPDX-License-Identifier: Apache-2.0
"""The side of a measurement that `bench.py` starts: one process that works when it is asked to.

Standard library only, as every peer's environment imports it. Both sides speak in lines:

    worker   {"ready": ...}             imported, compiled, warmed up; waits
    bench    block                      and the worker measures one block of work
    worker   {"seconds": ..., "count": ..., ...}
    bench    (end of file)              and the worker ends
    worker   {"peak_mib": ..., ...}

So several workers can be ready at the same time and take their blocks in turn.
"""

import contextlib
import json
import os
import resource
import sys
import time


class Finished(Exception):
    """`bench.py` wants no more blocks."""


class Gate:
    """Lets a block begin when `bench.py` asks for one, and tells it how long the block took.

    Whatever else is printed goes to the standard error stream, which `bench.py` keeps as a log.

    Args:
        facts: dict of JSON values, told with the last line; may grow while the worker works.
    """

    def __init__(self, facts):
        self.facts = facts
        self.asked = sys.stdin
        self.told = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self.is_ready = False

    def begin(self):
        """Waits until a block is wanted. Raises Finished if none is."""
        if not self.is_ready:
            self._tell({"ready": True})
            self.is_ready = True
        if not self.asked.readline():
            raise Finished
        self.started = time.perf_counter(), machine_seconds(), own_seconds()

    def end(self, count, **figures):
        """Tells of the block that `begin` began.

        count: of examples or sentences, what the block got through. figures: of it, JSON values.
        """
        now = time.perf_counter(), machine_seconds(), own_seconds()
        seconds, machine, own = (b - a for a, b in zip(self.started, now, strict=True))
        block = {
            "seconds": seconds,
            "count": count,
            "processor_seconds": own,
            # Cores that others, the hypervisor among them, took meanwhile on the average.
            "others": max(0.0, machine - own) / seconds,
        }
        self._tell(block | figures)

    @contextlib.contextmanager
    def serving(self):
        """Work goes in here; at its end, or at `Finished`, the facts are told."""
        with contextlib.suppress(Finished):
            yield self
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux: KiB
        self._tell(self.facts | {"peak_mib": round(peak)})

    def _tell(self, values):
        print(json.dumps(values), file=self.told, flush=True)


class StepGate:
    """A Gate for training loops of others, which call back after every step.

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
        """To be called at the end of every step. Raises Finished after the last block."""
        self.done += 1
        within = self.done - self.warmup
        if within >= 0 and within % self.per_block == 0:
            if within:
                self.gate.end(self.per_block * self.batch_size)
            self.gate.begin()


def read_rows(path):
    """Reads the rows that `ours.py rows` wrote: (texts: list of tuples of str, labels: list)."""
    with open(path, encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    return [tuple(texts) for _, *texts in rows], [int(label) for label, *_ in rows]


def machine_seconds():
    """Processor seconds that the machine has spent on anything, with what the host took."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_seconds():
    return sum(os.times()[:4])
