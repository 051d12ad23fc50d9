# SPDX-License-Identifier: Apache-2.0
"""The speed of a loop, and the share of its time that it waits for input."""

import time
from collections import deque

# The rate is that of the last 200 updates, or of the last 60 s where those take longer, but of at
# least 10 updates.
WINDOW_UPDATES = 200
WINDOW_SECONDS = 60.0
WINDOW_MIN_UPDATES = 10


class StepRate:
    """The rate of the last updates, without the first ones, whose time is that of compiling.

    num_untimed: int, how many first updates are left out. clock: () -> seconds.
    """

    def __init__(self, num_untimed=1, clock=time.monotonic):
        self.num_untimed, self.clock = num_untimed, clock
        self.times = deque(maxlen=WINDOW_UPDATES)  # (seconds, steps done, waited) at each update

    def update(self, done, waited=None):
        """Records the time at which `done` steps are done.

        waited: seconds spent waiting for input so far, or None where not known.
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
        """Returns the share of recent time spent waiting for input, or None where not known."""
        seconds, _, waited = self._recent()
        return waited / seconds if seconds > 0 and waited is not None else None

    def _recent(self):
        """Returns seconds, steps, and seconds waited or None, of the window."""
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
    """Yields the batches of an iterable, and adds up the time spent waiting for them.

    The device may compute queued steps in that time. On a CPU the loop sees that, and calls
    `take_off_last`; on a GPU that time counts as waiting.
    """

    def __init__(self, batches, clock=time.monotonic):
        self.batches, self.clock = batches, clock
        self.seconds = self._last = 0.0  # waited so far, and for the last batch

    def __iter__(self):
        start = self.clock()
        for batch in self.batches:
            self._last = self.clock() - start
            self.seconds += self._last
            yield batch
            start = self.clock()

    def take_off_last(self):
        """Takes the last wait out of `seconds`: the device was computing all through it."""
        self.seconds -= self._last
