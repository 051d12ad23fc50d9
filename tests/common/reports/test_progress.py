# SPDX-License-Identifier: Apache-2.0
"""The plain lines of a run to the letter, and what reaches a terminal."""

import io
import time

import pytest

import common.reports.progress as progress_module
from common.reports.progress import Progress, TimedInput, format_duration, format_rate


class Terminal(io.StringIO):
    """Says that it is a terminal, and has no size."""

    def isatty(self):
        return True


class Clock:
    """A clock that only a test moves."""

    def __init__(self):
        self.seconds = 1000.0

    def monotonic(self):
        return self.seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress_module.time, "monotonic", clock.monotonic)
    return clock


def _run(progress, clock, steps, seconds=1.0):
    for _ in range(steps):
        clock.seconds += seconds
        progress.update(1)


def test_lines_off_a_terminal_are_the_first_every_interval_and_the_last(clock):
    stream = io.StringIO()
    with Progress(7, log_every=3, stream=stream) as progress:
        clock.seconds += 40  # compiling; not part of any rate
        progress.update(1, loss=0.7, learning_rate=1e-5, examples_per_second=3.21)
        _run(progress, clock, 2, seconds=0.5)
        _run(progress, clock, 2, seconds=0.5)
        clock.seconds += 0.5
        progress.update(1, loss=0.31211, learning_rate=4.2e-5, examples_per_second=212.4)
        _run(progress, clock, 1, seconds=0.5)
    assert stream.getvalue().splitlines() == [
        "train step 1/7 · loss 0.7000 · lr 1e-05 · 3.21 examples/s",
        "train step 3/7 · loss 0.7000 · lr 1e-05 · 3.21 examples/s · 2 s left",
        "train step 6/7 · loss 0.3121 · lr 4.2e-05 · 212 examples/s · 0 s left",
        "train step 7/7 · loss 0.3121 · lr 4.2e-05 · 212 examples/s",
    ]


def test_rate_without_given_figures_is_in_the_unit(clock):
    stream = io.StringIO()
    with Progress(28, "batches", description="evaluate", log_every=28, stream=stream) as progress:
        _run(progress, clock, 28, seconds=0.05)
    assert stream.getvalue().splitlines() == [
        "evaluate batch 1/28",
        "evaluate batch 28/28 · 20 batches/s",
    ]


def test_compile_time_and_a_slow_past_leave_the_rate(clock):
    progress = Progress(10_000, stream=io.StringIO())
    clock.seconds += 60
    progress.update(1)
    assert progress.rate() is None
    _run(progress, clock, 100, seconds=30.0)
    assert progress.rate() == pytest.approx(1 / 30)
    _run(progress, clock, 100, seconds=1.0)  # 100 s: the last 60 hold none of the slow ones
    assert progress.rate() == pytest.approx(1.0)


def test_as_many_first_updates_are_left_out_of_the_rate_as_asked_for(clock):
    stream = io.StringIO()
    progress = Progress(100, log_every=1, stream=stream, num_untimed=2)
    clock.seconds += 60
    progress.update(1)
    progress.update(1)  # at once
    assert progress.rate() is None
    _run(progress, clock, 3, seconds=2.0)
    assert progress.rate() == pytest.approx(1 / 2)
    assert stream.getvalue().count("\n") == 5


def test_rate_counts_steps_and_not_updates(clock):
    progress = Progress(1000, unit="examples", stream=io.StringIO())
    for _ in range(5):
        clock.seconds += 0.5
        progress.update(32)
    assert progress.rate() == pytest.approx(64)


def test_input_that_is_waited_for_is_a_share_of_the_recent_time_without_the_first_step(clock):
    stream = io.StringIO()
    timed = TimedInput(slow_batches(clock, [30.0, 1.0, 1.0, 0.5, 0.5]))
    with Progress(5, log_every=2, stream=stream) as progress:
        for _ in timed:
            clock.seconds += 1.0  # the step
            progress.update(waited=timed.seconds)
    assert timed.seconds == 33.0
    assert progress.input_wait() == pytest.approx(3 / 7)
    assert stream.getvalue().splitlines() == [
        "train step 1/5",
        "train step 2/5 · 0.50 steps/s · input wait 50.0% · 6 s left",
        "train step 4/5 · 0.55 steps/s · input wait 45.5% · 2 s left",
        "train step 5/5 · 0.57 steps/s · input wait 42.9%",
    ]


def test_input_that_came_while_a_step_was_computed_was_not_waited_for(clock):
    timed = TimedInput(slow_batches(clock, [1.0, 0.5, 2.0]))
    waited = []
    for delay in timed:
        if delay == 0.5:
            timed.take_off_last()
        waited.append(timed.seconds)
    assert waited == [1.0, 1.0, 3.0]


def slow_batches(clock, delays):
    for delay in delays:
        clock.seconds += delay
        yield delay


def test_resumed_run_continues_its_count(clock):
    stream = io.StringIO()
    with Progress(2000, initial=1000, log_every=100, stream=stream) as progress:
        _run(progress, clock, 100)
    assert [line.split(" · ")[0] for line in stream.getvalue().splitlines()] == [
        "train step 1001/2000",
        "train step 1100/2000",
    ]
    assert stream.getvalue().endswith("15 min left\n")  # 900 steps of 1 s


def test_updates_of_many_steps_get_a_line_where_they_cross_the_interval(clock):
    stream = io.StringIO()
    with Progress(100, unit="examples", log_every=50, stream=stream) as progress:
        for n in (32, 32, 32, 4):
            clock.seconds += 1
            progress.update(n)
    assert [line.split()[2] for line in stream.getvalue().splitlines()] == [
        "32/100",
        "64/100",
        "100/100",
    ]


def test_a_run_that_stops_early_says_where_once():
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt), Progress(100, stream=stream) as progress:
        for _ in range(5):
            progress.update(1)
        raise KeyboardInterrupt
    progress.close()
    assert [line.split(" · ")[0] for line in stream.getvalue().splitlines()] == [
        "train step 1/100",
        "train step 5/100",
    ]


def test_without_a_total_there_is_no_time_left(clock):
    stream = io.StringIO()
    with Progress(None, log_every=2, stream=stream) as progress:
        _run(progress, clock, 2)
    assert stream.getvalue().splitlines() == ["train step 1", "train step 2 · 1.00 steps/s"]


def test_nothing_done_prints_nothing():
    stream = io.StringIO()
    with Progress(10, stream=stream):
        pass
    assert stream.getvalue() == ""


def test_figures_that_are_not_shown_are_never_read():
    class Unread:
        def __float__(self):
            raise AssertionError("read a value, which would wait for the device")

    progress = Progress(100, log_every=50, stream=io.StringIO())
    progress.update(1, loss=0.5)
    for _ in range(40):
        progress.update(1, loss=Unread())
    progress.update(9, loss=0.25)
    assert "loss 0.2500" in progress.stream.getvalue().splitlines()[-1]


def test_a_bar_on_its_way_leaves_the_last_figures_to_be_computed(clock):
    class Unread:
        def __float__(self):
            raise AssertionError("waited for the last step")

    stream = Terminal()
    progress = Progress(100, stream=stream)
    for loss in (0.5, 0.25, Unread()):
        clock.seconds += 1
        progress.update(1, loss=loss)
    assert "3/100, loss 0.2500" in stream.getvalue().replace("\r", "\n").splitlines()[-1]


def test_figure_that_is_not_finite_is_shown():
    stream = io.StringIO()
    Progress(10, stream=stream).update(1, loss=float("nan"), scale=32768.0)
    assert stream.getvalue() == "train step 1/10 · loss nan · scale 32768\n"


def test_terminal_gets_a_bar_with_the_same_figures_and_text_between(clock):
    stream = Terminal()
    with Progress(60, stream=stream) as progress:
        clock.seconds += 1
        progress.update(30, loss=0.3)
        clock.seconds += 1
        progress.update(15)
        progress.write("validation: accuracy 0.9")
        clock.seconds += 1
        progress.update(15)
    shown = stream.getvalue().replace("\r", "\n").split("\n")
    assert "validation: accuracy 0.9" in shown
    assert any(line.endswith("| 45/60, loss 0.3000, 15 steps/s, 1 s left") for line in shown)
    assert shown[-2].startswith("train 100% |") and "60/60, loss 0.3000" in shown[-2]


def test_text_off_a_terminal_is_a_line():
    stream = io.StringIO()
    Progress(10, stream=stream).write("two\nlines")
    assert stream.getvalue() == "two\nlines\n"


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_update_costs_microseconds(stream):
    with Progress(10**9, log_every=10**9, stream=stream) as progress:
        best = float("inf")  # the least of five: what the work costs on a busy machine
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(2000):
                progress.update(1)
            best = min(best, (time.perf_counter() - start) / 2000)
    assert best < 20e-6  # 0.6 us measured on one core; a bar drawn every time costs 100 us


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (42.4, "42 s"),
        (59.4, "59 s"),
        (59.7, "1 min"),
        (14 * 60 + 10, "14 min"),
        (59.7 * 60, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (100 * 3600, "100 h 00 min"),
    ],
)
def test_durations_round_without_a_60(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("rate", "text"), [(0.123, "0.12 x/s"), (9.999, "10 x/s"), (212.4, "212 x/s")]
)
def test_rates_have_three_digits_or_so(rate, text):
    assert format_rate(rate, "x") == text
