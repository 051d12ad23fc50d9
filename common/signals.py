# SPDX-License-Identifier: Apache-2.0
"""What SIGTERM, SIGINT, SIGHUP and SIGUSR1 do: a request that the work polls where it can stop.

    with listening() as control:
        for batch in batches:
            poll()                      # raises Stopped once a signal has asked to stop
            ...

The first SIGTERM, SIGINT or SIGHUP (a closed terminal) is such a request. Where nothing obeys it
within GRACE_SECONDS, as while a network is built or compiled, it ends the process, unless training
has made steps that are not saved. A second one ends the process at once. SIGUSR1 asks the training
loop to save and to go on.
"""

import contextlib
import os
import select
import signal
import threading

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAVING = signal.SIGUSR1
GRACE_SECONDS = 5


class Stopped(Exception):
    """Raised by `poll`. `signal_number`: the signal that asked to stop."""

    def __init__(self, signal_number):
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


class Control:
    """Asks running work to save or to stop. Signals speak through one, and so can other threads.

    Attributes:
        stopped_by: number of the signal that asked to stop, or None.
        has_unsaved: bool. Whether training has made steps that are not on disk yet: it is waited
            for until they are.
    """

    def __init__(self):
        self.stopped_by = None
        self.has_unsaved = False
        self._save = False
        self._is_shared = False  # with other processes: see `share`
        self._unshared = []

    def take_save(self):
        """Whether a save was asked for since the last call."""
        asked, self._save = self._save, False
        return asked

    def request_save(self):
        """Asks the training loop to save after the step, and to go on."""
        self._request(SAVING)

    def request_stop(self, number=signal.SIGTERM):
        """Asks the work to save and to end, as signal `number` would."""
        self._request(number)

    def _request(self, number):
        if self._is_shared:
            self._unshared.append(number)
        else:
            self._accept(number)

    def on_signal(self, number, frame=None):
        """The handler: runs in the main thread, between two operations of Python."""
        del frame
        is_second = self.stopped_by is not None or not set(STOPPING).isdisjoint(self._unshared)
        if number in STOPPING and is_second:
            exit_at_once(number)
        self._request(number)

    def _accept(self, number):
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
                self._accept(number)


_current = None  # the Control of the outermost `listening`: signals belong to the process


@contextlib.contextmanager
def listening(control=None):
    """While open, signals become requests of a Control, which it gives, and `poll` obeys it.

    Within another `listening`, it gives the Control of that one. Outside the main thread, where
    Python cannot catch signals, only the Control's own methods make requests.

    Args:
        control: Control, or None for a new one.
    """
    global _current
    if _current is not None:
        yield _current
        return
    _current = control = control or Control()
    try:
        with _handling(control):
            yield control
    finally:
        _current = None


@contextlib.contextmanager
def _handling(control):
    """While open, signals become requests of a Control, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    stderr = os.dup(2)  # descriptor 2 leads nowhere while TensorFlow is imported
    watcher = threading.Thread(target=_watch, args=(readable, control, stderr), daemon=True)
    watcher.start()
    former_fd = signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    handled = [*STOPPING, SAVING]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # under nohup
        handled.remove(signal.SIGHUP)
    former = {number: signal.signal(number, control.on_signal) for number in handled}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(former_fd)
        os.close(writable)  # ends the watcher
        watcher.join()
        os.close(readable)
        os.close(stderr)


def _watch(readable, control, stderr):
    """Ends the process as the head of this file says, also while the main thread is in a long
    library call. readable, stderr: descriptors."""
    first = None
    while True:
        is_readable, *_ = select.select(
            [readable], [], [], None if first is None else GRACE_SECONDS
        )
        if not is_readable:
            if not control.has_unsaved:
                with contextlib.suppress(OSError):
                    os.write(stderr, f"\nThe run was {Stopped(first)}\n".encode())
                exit_at_once(first)
            continue
        data = os.read(readable, 1)
        if not data:
            return
        if data[0] in STOPPING:
            if first is not None:
                exit_at_once(data[0])
            first = data[0]


def exit_at_once(number):
    """Ends the process at once. No file is lost: in `model_dir` all are complete at any moment."""
    os._exit(128 + number)


def poll():
    """Raises Stopped where a signal has asked to stop."""
    if _current is not None and _current.stopped_by is not None:
        raise Stopped(_current.stopped_by)
