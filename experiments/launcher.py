# SPDX-License-Identifier: Apache-2.0
"""Runs a command until it ends, or until the process that started this one is gone.

    python -m experiments.launcher GRACE COMMAND...     its standard input: a pipe from the starter

At the end of the pipe, as where the starter was killed, or at a SIGTERM of its own, the command
gets one SIGTERM, and SIGKILL after GRACE seconds. A trainer saves at the first SIGTERM and gives up
at a second one, so the kernel's own signal at a parent's death will not do: a parent with several
threads sends it several times. This process has one thread, and imports nothing that starts others.
The exit code is the command's: 128 + n where signal n ended it.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time

PR_SET_PDEATHSIG = 1
POLL_SECONDS = 0.5  # the end of the command wakes the launcher at once; this is for lost signals


def end_with_parent():
    """In the command's process: SIGTERM where this launcher itself is killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def main(grace, command):
    """Returns the exit code."""
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    stops = []
    signal.signal(signal.SIGTERM, lambda number, frame: stops.append(number))
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=end_with_parent)
    waiting, deadline = [0, wake], None
    while child.poll() is None:
        readable, *_ = select.select(waiting, [], [], POLL_SECONDS)
        if wake in readable:
            os.read(wake, 512)
        if 0 in readable and not os.read(0, 512):
            waiting = [wake]
            stops.append(signal.SIGTERM)
        if stops and deadline is None:
            child.terminate()
            deadline = time.monotonic() + grace
        if deadline is not None and time.monotonic() > deadline:
            child.kill()
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
