# SPDX-License-Identifier: Apache-2.0
"""Standard streams that are closed, or close while a run goes on: with the terminal, or with the
program at the other end of a pipe. The run goes on without them."""

import errno
import os
import sys

READER_IS_GONE = (errno.EPIPE, errno.EIO)  # of a pipe, of a terminal


def outlast_readers():
    """Makes standard output and error streams to which writing does not fail with their readers.

    Descriptors that are closed at the start lead to the null device: else the next file that is
    opened would have their numbers, and what libraries log would be written into it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    sys.stdout = Outlasting(sys.stdout or os.fdopen(1, "w", closefd=False))
    # A log that cannot be written, as on a full disk, is no reason to end a training, either.
    sys.stderr = Outlasting(sys.stderr or os.fdopen(2, "w", closefd=False), any_error=True)


def end_at_once(code):
    """Ends the process with an exit code, whatever threads of libraries are doing."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Outlasting:
    """A text stream that goes on to the null device once its reader is gone.

    Args:
        stream: text file with a descriptor.
        any_error: bool. Whether it does so after every other error, too.
    """

    def __init__(self, stream, any_error=False):
        self._stream, self._any_error = stream, any_error

    def write(self, text):
        self._outlast(self._stream.write, text)
        return len(text)

    def flush(self):
        self._outlast(self._stream.flush)

    def _outlast(self, function, *arguments):
        try:
            function(*arguments)
        except OSError as error:
            if error.errno not in READER_IS_GONE and not self._any_error:
                raise
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def __getattr__(self, name):
        return getattr(self._stream, name)
