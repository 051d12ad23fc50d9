# SPDX-License-Identifier: Apache-2.0
"""What a run prints: messages, evaluations, and progress.

Progress is a bar on a terminal, and plain lines in a file or a pipe.
"""

import os
import sys
import time

from tqdm import tqdm

from common.console import format_duration, log
from common.reports.evaluation_report import evaluation_text
from common.reports.listener import Listener
from common.reports.rate import StepRate

LOG_BATCHES = 100  # batches of an evaluation between two plain lines
REFRESH_SECONDS = 0.25  # between two drawings of a bar, which would flicker otherwise
MIN_BAR_COLUMNS = 10
# What a bar leaves out first where a terminal is narrow; other figures stay.
LEFT_OUT_FIRST = ("input_wait", "learning_rate", "rate", "left")

_SINGULAR = {"batches": "batch", "steps": "step"}


class Console(Listener):
    """Prints to a text file; None is the standard error stream of the moment.

    log_steps: int, training steps between two plain lines of progress. clock: () -> seconds.
    """

    def __init__(self, log_steps=100, stream=None, clock=time.monotonic):
        self.log_steps, self.stream, self.clock = log_steps, stream, clock
        self.training = self.scoring = None  # Progress of a loop that runs

    def on_message(self, text):
        shown = self.scoring or self.training
        if shown is not None and shown.bar is not None:
            shown.bar.write(text, file=shown.stream)  # above the bar
        else:
            log(text, self.stream)

    def on_evaluation(self, step, report, is_chosen=True, rows=None, folder=""):
        self.on_message(evaluation_text(step, report))

    def on_start(self, first_step, last_step, rate):
        self.training = self._begin("train", "steps", first_step, last_step, rate, self.log_steps)

    def on_step(self, step, figures):
        self.training.update(step, figures)

    def on_stop(self):
        self.training = self._end(self.training)

    def on_batch(self, description, done, total):
        if done == 0:
            self._end(self.scoring)  # after an interrupted evaluation
            rate = StepRate(clock=self.clock)
            self.scoring = self._begin(description, "batches", 0, total, rate, LOG_BATCHES)
        else:
            self.scoring.rate.update(done)
            self.scoring.update(done, {})
        if done == total:
            self.scoring = self._end(self.scoring)

    def close(self):
        self.scoring = self._end(self.scoring)
        self.on_stop()

    def _begin(self, *arguments):
        return Progress(*arguments, self.stream or sys.stderr, self.clock)

    def _end(self, progress):
        """Ends a loop, if there is one. Returns None, the Progress from now on."""
        if progress is not None:
            progress.close()


def format_rate(rate, unit):
    """Returns "212 steps/s"; rates below 10 with two decimals."""
    return f"{rate:.0f} {unit}/s" if rate >= 9.995 else f"{rate:.2f} {unit}/s"


def _size(stream):
    """Returns tqdm's arguments for the size of a terminal, or for 80 x 24 where it is not known.

    The terminal of a container may report 0 x 0, where tqdm would draw nothing.
    """
    try:
        has_size = os.get_terminal_size(stream.fileno()).columns > 0
    except OSError:
        has_size = False
    return {"dynamic_ncols": True} if has_size else {"ncols": 80, "nrows": 24}


class _Bar(tqdm):
    monitor_interval = 0  # no thread that redraws: `Progress` does


class Progress:
    """Shows steps done, the latest figures, the recent rate and the time left.

    Rate and time left are StepRate's and not tqdm's: metrics.jsonl and plain lines need the rate
    without a bar, and a second rate on the bar would differ from it.

    Args:
        description: str, first word of every line.
        unit: "steps" or "batches".
        initial, total: int, steps done before and at the end.
        rate: StepRate, updated by the caller.
        log_every: int, steps between two plain lines, besides those of the first and last step.
    """

    def __init__(self, description, unit, initial, total, rate, log_every, stream, clock):
        self.description, self.unit, self.rate, self.total = description, unit, rate, total
        self.log_every, self.stream, self.clock = max(1, log_every), stream, clock
        self.initial = self.done = self.shown = initial
        self.figures, self.figures_before = {}, {}  # of the last two updates
        self.refreshed = float("-inf")
        self.bar = None
        if stream.isatty():
            layout = "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}"
            options = {"desc": description, "bar_format": layout, "file": stream, **_size(stream)}
            self.bar = _Bar(initial=initial, total=total, **options)

    def update(self, done, figures):
        """Shows that `done` steps are done, where it is due, with {name: figure} of the last.

        A figure that is a tensor is read only when it is shown. A bar shows those of the update
        before until the end, as the device may still compute the last ones.
        """
        is_first = self.done == self.initial
        crosses = done // self.log_every > self.done // self.log_every
        self.done = done
        self.figures_before, self.figures = self.figures, figures
        if self.bar is not None:
            now = self.clock()
            if now - self.refreshed >= REFRESH_SECONDS or done == self.total:
                self.refreshed = now
                self._show(self.figures if done == self.total else self.figures_before)
        elif is_first or crosses or done == self.total:
            self._show(self.figures)

    def close(self):
        """Shows the last step and ends the bar. Further calls do nothing."""
        if self.shown != self.done:
            self._show(self.figures)
        if self.bar is not None:
            self.bar.close()

    def _parts(self, figures):
        """Returns the figures, the rate and the time left as short texts: {name: str}."""
        parts = {}
        for name, value in figures.items():
            value, is_rate = float(value), name == "learning_rate"
            digits = ".2g" if is_rate else ".4f" if abs(value) < 1000 else ".6g"
            parts[name] = f"{'lr' if is_rate else name} {value:{digits}}"
        rate = self.rate.per_second()
        if rate is not None:
            parts["rate"] = format_rate(rate, self.unit)
        input_wait = self.rate.input_wait()
        if input_wait is not None:
            parts["input_wait"] = f"input wait {input_wait:.1%}"
        if rate and self.done < self.total:
            parts["left"] = f"{format_duration((self.total - self.done) / rate)} left"
        return parts

    def _fitting(self, parts):
        """Returns the texts, joined, without those for which a bar has no room."""
        columns = self.bar.format_dict["ncols"]  # of the terminal at this moment
        head = f"{self.description} 100% || {self.done}/{self.total}"
        for name in ("", *LEFT_OUT_FIRST):
            parts.pop(name, None)
            text = ", ".join(parts.values())
            if len(head) + MIN_BAR_COLUMNS + len(f", {text}") <= columns:
                break
        return text

    def _show(self, figures):
        self.shown = self.done
        if self.bar is not None:
            self.bar.n = self.done
            self.bar.set_postfix_str(self._fitting(self._parts(figures)), refresh=False)
            self.bar.refresh()
            return
        head = f"{self.description} {_SINGULAR[self.unit]} {self.done}/{self.total}"
        log(" · ".join([head, *self._parts(figures).values()]), self.stream)
