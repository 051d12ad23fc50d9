# SPDX-License-Identifier: Apache-2.0
"""How far a run is: a bar on a terminal, plain lines where the output goes to a file or a pipe.

The loop calls `update` once per step and `write` for whatever else it has to say meanwhile;
`TimedInput` between it and its batches measures what it waits for them.
"""

import os
import sys
import time
from collections import deque

from tqdm import tqdm

WINDOW_UPDATES = 200  # the rate is taken over these many updates,
WINDOW_SECONDS = 60.0  # or over this time where they take longer,
WINDOW_MIN_UPDATES = 10  # but never over fewer than these
REFRESH_SECONDS = 0.25  # a bar that is drawn more often only flickers

_SINGULAR = {"batches": "batch", "examples": "example", "steps": "step"}
_SHORT_NAMES = {"learning_rate": "lr"}


def format_duration(seconds):
    """Returns a rounded duration in words: "42 s", "14 min", "2 h 05 min"."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def format_rate(rate, unit):
    """Returns "212 examples/s"; rates below 10 with two decimals."""
    return f"{rate:.0f} {unit}/s" if rate >= 9.995 else f"{rate:.2f} {unit}/s"


def _size(stream):
    """tqdm's arguments on the size of a terminal: that of the moment, 80 x 24 where it tells none.

    A container's terminal may say 0 x 0, where tqdm would draw nothing.
    """
    try:
        has_size = os.get_terminal_size(stream.fileno()).columns > 0
    except OSError:
        has_size = False
    return {"dynamic_ncols": True} if has_size else {"ncols": 80, "nrows": 24}


class _Bar(tqdm):
    monitor_interval = 0  # no thread that redraws: `Progress` decides when to


class TimedInput:
    """Hands on what an iterable gives, and adds up how long it took to give it.

    Steps that were handed over before may be computed in that time: on a CPU the loop tells of it,
    on a GPU nobody does.

    Attributes:
        seconds: float, waited so far.
    """

    def __init__(self, batches):
        self.batches, self.seconds = batches, 0.0
        self._last = 0.0

    def __iter__(self):
        asked = time.monotonic()
        for batch in self.batches:
            self._last = time.monotonic() - asked
            self.seconds += self._last
            yield batch
            asked = time.monotonic()

    def take_off_last(self):
        """Tells that computing went on until the last batch was there: it was not waited for."""
        self.seconds -= self._last


class Progress:
    """Shows steps done, the latest figures, the recent rate and the time left. A context manager.

    The rate is that of the last updates and leaves out the first ones, so that compiling does not
    distort it; the time left follows from it.

    Args:
        total: int, steps at which the work is done, or None where that is not known.
        unit: str, plural of what is counted.
        initial: int, steps done by an earlier process.
        description: str, first word of every line.
        log_every: int, steps between two plain lines; the first and the last step always get one.
        stream: text file; None is the standard error stream.
        num_untimed: int, first updates that the rate leaves out.
    """

    def __init__(
        self,
        total,
        unit="steps",
        initial=0,
        description="train",
        log_every=100,
        stream=None,
        num_untimed=1,
    ):
        self.total, self.unit, self.description = total, unit, description
        self.log_every = max(1, log_every)
        self.stream = stream or sys.stderr
        self.done = self.shown = initial
        self.figures, self.figures_before = {}, {}  # of the last update, and of the one before it
        self.times = deque(maxlen=WINDOW_UPDATES)  # (seconds, steps done, waited) at each update
        self.num_untimed = num_untimed
        self.refreshed = float("-inf")
        self.bar = None
        if self.stream.isatty():
            counted = "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}"
            self.bar = _Bar(
                total=total,
                initial=initial,
                desc=description,
                file=self.stream,
                bar_format=counted if total is not None else "{desc} {n_fmt}{postfix}",
                **_size(self.stream),
            )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def update(self, n=1, waited=None, **figures):
        """Counts n more steps; figures (loss=0.31, examples_per_second=210) stay until replaced.

        waited: seconds, all in all, for which there was no input to work on; None: not known.

        Costs a few microseconds, except where something is drawn; a figure that is a tensor is
        read only then. On the way a bar has those of the update before, as those of the last may
        still be computed.
        """
        is_first = not self.times
        crosses = (self.done + n) // self.log_every > self.done // self.log_every
        self.done += n
        self.figures_before, self.figures = self.figures, {**self.figures, **figures}
        now = time.monotonic()
        if self.num_untimed > 0:
            self.num_untimed -= 1
            self.times.clear()
        self.times.append((now, self.done, waited))
        if self.bar is not None:
            if now - self.refreshed >= REFRESH_SECONDS or self.done == self.total:
                self.refreshed = now
                self._show(self.figures if self.done == self.total else self.figures_before)
        elif is_first or crosses or self.done == self.total:
            self._show(self.figures)

    def write(self, text):
        """Prints lines of text without disturbing the bar."""
        if self.bar is not None:
            self.bar.write(text, file=self.stream)
        else:
            print(text, file=self.stream, flush=True)

    def close(self):
        """Shows the last step and ends the bar. Further calls do nothing."""
        if self.shown != self.done:
            self._show(self.figures)
        if self.bar is not None:
            self.bar.close()

    def rate(self):
        """Returns recent steps per second, or None before the second update."""
        seconds, steps, _ = self._recent()
        return steps / seconds if seconds > 0 else None

    def input_wait(self):
        """Returns the share of recent time spent waiting for input, or None where not known.

        It leaves out the first updates, as `rate` does: with them the input begins from nothing.
        """
        seconds, _, waited = self._recent()
        return waited / seconds if seconds > 0 and waited is not None else None

    def _recent(self):
        """Returns seconds, steps, and seconds waited (or None) of the window's updates."""
        while (
            len(self.times) > WINDOW_MIN_UPDATES + 1
            and self.times[-1][0] - self.times[0][0] > WINDOW_SECONDS
        ):
            self.times.popleft()
        if len(self.times) < 2:
            return 0.0, 0, None
        first, last = self.times[0], self.times[-1]
        waited = None if None in (first[2], last[2]) else last[2] - first[2]
        return last[0] - first[0], last[1] - first[1], waited

    def _parts(self, figures):
        """The figures, the rate and the time left as a list of short texts."""
        figures = dict(figures)
        examples_per_second = figures.pop("examples_per_second", None)
        parts = []
        for name, value in figures.items():
            value = float(value)
            digits = ".2g" if name == "learning_rate" else ".4f" if abs(value) < 1000 else ".6g"
            parts.append(f"{_SHORT_NAMES.get(name, name)} {value:{digits}}")
        rate = self.rate()
        if examples_per_second is not None:
            parts.append(format_rate(float(examples_per_second), "examples"))
        elif rate is not None:
            parts.append(format_rate(rate, self.unit))
        input_wait = self.input_wait()
        if input_wait is not None:
            parts.append(f"input wait {input_wait:.1%}")
        if rate and self.total is not None and self.done < self.total:
            parts.append(f"{format_duration((self.total - self.done) / rate)} left")
        return parts

    def _show(self, figures):
        self.shown = self.done
        if self.bar is not None:
            self.bar.n = self.done
            self.bar.set_postfix_str(", ".join(self._parts(figures)), refresh=False)
            self.bar.refresh()
            return
        counted = f"{self.done}/{self.total}" if self.total is not None else f"{self.done}"
        head = f"{self.description} {_SINGULAR.get(self.unit, self.unit)} {counted}"
        print(" · ".join([head, *self._parts(figures)]), file=self.stream, flush=True)
