# SPDX-License-Identifier: Apache-2.0
"""How fast a loop is, and what share of its time it waits for input."""

import time
from collections import deque

WINDOW_UPDATES = 200  # the rate is taken over these many updates,
WINDOW_SECONDS = 60.0  # or over this time where they take longer,
WINDOW_MIN_UPDATES = 10  # but never over fewer than these


class StepRate:
    """The rate of the last updates, without the first ones, so that compiling does not distort it.

    Args:
        num_untimed: int, first updates that the rate leaves out.
        clock: () -> seconds.
    """

    def __init__(self, num_untimed=1, clock=time.monotonic):
        self.num_untimed, self.clock = num_untimed, clock
        self.times = deque(maxlen=WINDOW_UPDATES)  # (seconds, steps done, waited) at each update

    def update(self, done, waited=None):
        """Notes that so many steps are done. Costs a microsecond.

        Args:
            done: int, steps done so far.
            waited: seconds, all in all, for which there was no input to work on; None: not known.
        """
        if self.num_untimed > 0:
            self.num_untimed -= 1
            self.times.clear()
        self.times.append((self.clock(), done, waited))

    def per_second(self):
        """Returns recent steps per second, or None before the second timed update."""
        seconds, steps, _ = self._recent()
        return steps / seconds if seconds > 0 else None

    def input_wait(self):
        """Returns the share of recent time spent waiting for input, or None where not known.

        It leaves out the first updates, as `per_second` does: the input starts up with them.
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


class TimedInput:
    """Passes on the batches of an iterable, and adds up the time spent waiting for them.

    Steps that were handed over before may be computed in that time: on a CPU the loop tells of it,
    on a GPU nobody does.

    Args:
        batches: iterable.
        clock: () -> seconds.
    Attributes:
        seconds: float, waited so far.
    """

    def __init__(self, batches, clock=time.monotonic):
        self.batches, self.clock, self.seconds = batches, clock, 0.0
        self._last = 0.0

    def __iter__(self):
        asked = self.clock()
        for batch in self.batches:
            self._last = self.clock() - asked
            self.seconds += self._last
            yield batch
            asked = self.clock()

    def take_off_last(self):
        """Does not count the last wait: the device was computing until that batch was there."""
        self.seconds -= self._last
