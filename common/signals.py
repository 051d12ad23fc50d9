# SPDX-License-Identifier: Apache-2.0
"""What SIGTERM, SIGINT and SIGUSR1 do: a request that the work polls where it can stop.

    with listening() as requests:
        for batch in batches:
            poll()                      # raises Stopped once a signal has asked to stop
            ...

The first SIGTERM or SIGINT is such a request. A second one ends the process at once, also within a
library call of minutes, such as compiling. SIGUSR1 asks the training loop to save and to go on.
"""

import contextlib
import os
import signal
import threading

STOPPING = (signal.SIGINT, signal.SIGTERM)
SAVING = signal.SIGUSR1


class Stopped(Exception):
    """Raised by `poll`. `signal_number`: the signal that asked to stop."""

    def __init__(self, signal_number):
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


class Requests:
    """What signals have asked for so far.

    Attributes:
        stopped_by: number of the signal that asked to stop, or None.
    """

    def __init__(self):
        self.stopped_by = None
        self._save = False
        self._is_shared = False  # with other processes: see `share`
        self._unshared = []

    def take_save(self):
        """Whether a save was asked for since the last call."""
        asked, self._save = self._save, False
        return asked

    def on_signal(self, number, frame=None):
        """The handler: runs in the main thread, between two operations of Python."""
        del frame
        is_second = self.stopped_by is not None or not set(STOPPING).isdisjoint(self._unshared)
        if number in STOPPING and is_second:
            exit_at_once(number)
        if self._is_shared:
            self._unshared.append(number)
        else:
            self._hear(number)

    def _hear(self, number):
        if number == SAVING:
            self._save = True
        elif self.stopped_by is None:
            self.stopped_by = number

    def share(self, total):
        """Accepts the requests that signals have made to any of several processes.

        Processes that wait for each other have to stop and save at the same step. From the first
        call on, signals become requests only here.

        Args:
            total: list of int -> their sums over the processes, which all call this.
        """
        self._is_shared = True
        waiting, self._unshared = self._unshared, []
        numbers = (SAVING, *STOPPING)
        for number, count in zip(numbers, total([waiting.count(n) for n in numbers]), strict=True):
            if count:
                self._hear(number)


_current = None  # the Requests of the outermost `listening`: signals belong to the process


@contextlib.contextmanager
def listening():
    """While open, signals become Requests, which it gives. One inside another shares them.

    Outside the main thread, where Python cannot catch signals, nothing is ever asked for.
    """
    global _current
    if _current is not None or threading.current_thread() is not threading.main_thread():
        yield _current or Requests()
        return
    _current = requests = Requests()
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    watcher = threading.Thread(target=_watch, args=(readable,), daemon=True)
    watcher.start()
    former_fd = signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    former = {number: signal.signal(number, requests.on_signal) for number in (*STOPPING, SAVING)}
    try:
        yield requests
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(former_fd)
        os.close(writable)  # ends the watcher
        watcher.join()
        os.close(readable)
        _current = None


def _watch(readable):
    """Counts signals as they arrive, also while the main thread is in a long library call."""
    num_stops = 0
    while data := os.read(readable, 1):
        num_stops += data[0] in STOPPING
        if num_stops > 1:
            exit_at_once(data[0])


def exit_at_once(number):
    """Ends the process at once. No file is lost: in `model_dir` all are complete at any moment."""
    os._exit(128 + number)


def poll():
    """Raises Stopped where a signal has asked to stop."""
    if _current is not None and _current.stopped_by is not None:
        raise Stopped(_current.stopped_by)
