# SPDX-License-Identifier: Apache-2.0
"""The rate of a loop and its wait for input, on a clock that only the test moves."""

import pytest

from common.reports.rate import StepRate, TimedInput


class Clock:
    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


def _run(rate, clock, first, last, seconds):
    for step in range(first, last + 1):
        clock.seconds += seconds
        rate.update(step)


def test_compile_time_and_older_steps_do_not_count(clock):
    rate = StepRate(clock=clock)
    assert rate.per_second() is None
    _run(rate, clock, 1, 1, seconds=60.0)
    assert rate.per_second() is None
    _run(rate, clock, 2, 101, seconds=30.0)
    assert rate.per_second() == pytest.approx(1 / 30)
    _run(rate, clock, 102, 201, seconds=1.0)  # 100 s: the last 60 hold none of the slow ones
    assert rate.per_second() == pytest.approx(1.0)


def test_the_rate_is_of_the_last_updates(clock):
    rate = StepRate(clock=clock)
    _run(rate, clock, 1, 500, seconds=0.01)
    _run(rate, clock, 501, 699, seconds=0.1)
    assert rate.per_second() == pytest.approx(10.0)


def test_the_rate_leaves_out_as_many_first_updates_as_asked_for(clock):
    rate = StepRate(num_untimed=2, clock=clock)
    _run(rate, clock, 1, 1, seconds=60.0)
    _run(rate, clock, 2, 2, seconds=0.0)  # at once
    assert rate.per_second() is None
    _run(rate, clock, 3, 5, seconds=2.0)
    assert rate.per_second() == pytest.approx(1 / 2)


def test_rate_counts_steps_and_not_updates(clock):
    rate = StepRate(clock=clock)
    for done in (32, 64, 96):
        clock.seconds += 0.5
        rate.update(done)
    assert rate.per_second() == pytest.approx(64)


def _slow_batches(clock, delays):
    for delay in delays:
        clock.seconds += delay
        yield delay


def test_input_wait_is_a_share_of_the_recent_time_without_the_first_step(clock):
    timed = TimedInput(_slow_batches(clock, [30.0, 1.0, 1.0, 0.5, 0.5]), clock)
    rate = StepRate(clock=clock)
    for step, _ in enumerate(timed, start=1):
        clock.seconds += 1.0  # the step
        assert rate.input_wait() is None or step > 2
        rate.update(step, waited=timed.seconds)
    assert timed.seconds == 33.0
    assert rate.input_wait() == pytest.approx(3 / 7)
    assert rate.per_second() == pytest.approx(4 / 7)


def test_input_that_arrives_during_a_step_is_not_waited_for(clock):
    timed = TimedInput(_slow_batches(clock, [1.0, 0.5, 2.0]), clock)
    waited = []
    for delay in timed:
        if delay == 0.5:
            timed.take_off_last()
        waited.append(timed.seconds)
    assert waited == [1.0, 1.0, 3.0]
