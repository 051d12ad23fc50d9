# SPDX-License-Identifier: Apache-2.0
"""The plain lines of a run, letter by letter, and the bar of a terminal."""

import io

import pytest

from common.reports.progress import Console, format_rate
from common.reports.rate import StepRate


class Terminal(io.StringIO):
    """A terminal without a size."""

    def isatty(self):
        return True

    def lines(self):
        """What is drawn, without the moves between the lines of two bars."""
        return self.getvalue().replace("\x1b[A", "").replace("\r", "\n").split("\n")


class Training:
    """A Console of a training loop, on a clock that only the test moves."""

    def __init__(self, last_step, first_step=0, log_steps=100, stream=None):
        self.seconds = 1000.0
        self.stream = stream or io.StringIO()
        self.console = Console(log_steps, self.stream, clock=lambda: self.seconds)
        self.rate = StepRate(clock=lambda: self.seconds)
        self.console.on_start(first_step, last_step, self.rate)
        self.step = first_step

    def steps(self, count=1, seconds=1.0, waited=None, **figures):
        for _ in range(count):
            self.seconds += seconds
            self.step += 1
            self.rate.update(self.step, waited)
            self.console.on_step(self.step, figures)

    def lines(self):
        return self.stream.getvalue().splitlines()


class Unread:
    def __float__(self):
        raise AssertionError("reading a value waits for the device")


def test_lines_off_a_terminal_are_the_first_every_interval_and_the_last():
    training = Training(7, log_steps=3)
    training.steps(seconds=40, loss=0.7, learning_rate=1e-5)  # compiling; not part of any rate
    training.steps(4, seconds=0.5, loss=0.5, learning_rate=2e-5)
    training.steps(2, seconds=0.5, loss=0.31211, learning_rate=4.2e-5, scale=32768.0)
    training.console.on_stop()
    assert training.lines() == [
        "train step 1/7 · loss 0.7000 · lr 1e-05",
        "train step 3/7 · loss 0.5000 · lr 2e-05 · 2.00 steps/s · 2 s left",
        "train step 6/7 · loss 0.3121 · lr 4.2e-05 · scale 32768 · 2.00 steps/s · 0 s left",
        "train step 7/7 · loss 0.3121 · lr 4.2e-05 · scale 32768 · 2.00 steps/s",
    ]


def test_batches_of_each_evaluation_are_counted_from_one():
    seconds, stream = [0.0], io.StringIO()
    console = Console(stream=stream, clock=lambda: seconds[0])
    for description, total in (("eval matched", 3), ("eval mismatched", 128)):
        for done in range(total + 1):
            console.on_batch(description, done, total)
            seconds[0] += 0.05
    assert stream.getvalue().splitlines() == [
        "eval matched batch 1/3",
        "eval matched batch 3/3 · 20 batches/s",
        "eval mismatched batch 1/128",
        "eval mismatched batch 100/128 · 20 batches/s · 1 s left",
        "eval mismatched batch 128/128 · 20 batches/s",
    ]


def test_the_wait_for_input_is_shown_where_it_is_known():
    training = Training(3, log_steps=1)
    training.steps(seconds=30.0, waited=29.0)
    training.steps(seconds=2.0, waited=30.0)
    training.steps(seconds=2.0, waited=30.5)
    assert training.lines() == [
        "train step 1/3",
        "train step 2/3 · 0.50 steps/s · input wait 50.0% · 2 s left",
        "train step 3/3 · 0.50 steps/s · input wait 37.5%",
    ]


def test_resumed_run_continues_its_count():
    training = Training(2000, first_step=1000)
    training.steps(100)
    lines = training.lines()
    assert [line.split(" · ")[0] for line in lines] == [
        "train step 1001/2000",
        "train step 1100/2000",
    ]
    assert lines[-1].endswith("15 min left")  # 900 steps of 1 s


def test_a_run_that_stops_early_shows_its_last_step_once():
    training = Training(100)
    training.steps(5)
    training.console.on_stop()
    training.console.close()
    assert [line.split(" · ")[0] for line in training.lines()] == [
        "train step 1/100",
        "train step 5/100",
    ]


def test_an_interrupted_evaluation_shows_its_last_batch_once():
    stream = io.StringIO()
    console = Console(stream=stream)
    for done in range(3):
        console.on_batch("eval", done, 10)
    console.on_batch("predict", 0, 2)  # another one
    console.close()
    assert [line.split(" · ")[0] for line in stream.getvalue().splitlines()] == [
        "eval batch 1/10",
        "eval batch 2/10",
    ]


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_nothing_done_prints_no_line(stream):
    training = Training(10, stream=stream)
    training.console.on_stop()
    assert "10/10" not in stream.getvalue() and "step" not in stream.getvalue()


def test_figures_that_are_not_shown_are_never_read():
    training = Training(100, log_steps=50)
    training.steps(1, loss=0.5)
    training.steps(48, loss=Unread())
    training.steps(1, loss=0.25)
    assert "loss 0.2500" in training.lines()[-1]


def test_a_bar_that_is_not_due_reads_nothing():
    training = Training(10**6, stream=Terminal())
    training.steps(1, loss=0.5)
    training.steps(200, seconds=0.001, loss=Unread())  # within 0.25 s of the first


def test_a_bar_does_not_wait_for_the_figures_of_the_last_step():
    training = Training(100, stream=Terminal())
    for loss in (0.5, 0.25, Unread()):
        training.steps(loss=loss)
    assert "3/100, loss 0.2500" in training.stream.lines()[-1]


def test_figure_that_is_not_finite_is_shown():
    training = Training(10)
    training.steps(loss=float("nan"))
    assert training.lines() == ["train step 1/10 · loss nan"]


def test_terminal_gets_a_bar_with_the_same_figures_and_text_between():
    training = Training(3, stream=Terminal())
    training.steps(2, loss=0.3)
    training.console.on_batch("eval", 0, 2)
    training.console.on_batch("eval", 1, 2)
    training.console.on_message("within an evaluation")
    training.console.on_batch("eval", 2, 2)
    training.console.on_evaluation(2, {"num_examples": 8, "pearson": 0.5})
    training.steps(1, loss=0.2)
    training.console.on_stop()
    training.console.on_message("after the end")
    lines = training.stream.lines()
    assert "within an evaluation" in lines
    assert "validation at step 2: pearson 0.5000, 8 examples" in lines
    assert any(line.endswith("| 2/3, loss 0.3000, 1.00 steps/s, 1 s left") for line in lines)
    assert lines[-3].startswith("train 100% |") and "3/3, loss 0.2000" in lines[-3]
    assert lines[-2:] == ["after the end", ""]


def test_a_line_of_80_columns_keeps_a_bar_and_leaves_out_what_matters_least():
    training = Training(123_456, first_step=100_000, stream=Terminal())  # 80 columns
    training.steps(12, seconds=3.0, waited=0.5, loss=0.69, learning_rate=1.9e-5)
    *_, line = training.stream.lines()
    assert len(line) <= 80 and line.endswith("19 h 32 min left")
    assert len(line.split("|")[1]) >= 10 and "loss 0.6900" in line
    assert "input wait" not in line and "lr" not in line
    one = Training(1, stream=(stream := io.StringIO()))
    one.console.on_evaluation(1, {"num_examples": 1, "pearson": 0.5})
    assert stream.getvalue().endswith("1 example\n")


def test_text_off_a_terminal_is_a_line(capsys):
    console = Console()
    console.on_message("before")
    console.on_start(0, 10, StepRate())
    console.on_message("two\nlines")
    assert capsys.readouterr() == ("", "before\ntwo\nlines\n")


@pytest.mark.parametrize(
    ("rate", "text"), [(0.123, "0.12 x/s"), (9.999, "10 x/s"), (212.4, "212 x/s")]
)
def test_rates_have_three_digits_or_so(rate, text):
    assert format_rate(rate, "x") == text
