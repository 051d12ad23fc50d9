# SPDX-License-Identifier: Apache-2.0
"""The exceptions whose text `run.py` prints without a traceback.

Their texts quote files, which may come from anybody. Characters that move the cursor of a terminal,
or that cannot be printed, become Python's escapes (`printable`).
"""


class UserError(ValueError):
    """Wrong usage, configuration or data. The text says what is wrong, where, and what to change.

    `run.py` exits with code 2.
    """

    def __init__(self, text):
        super().__init__(printable(text))


class BusyError(UserError):
    """Another run is at work on the same folder: the same command may succeed later.

    `run.py` exits with code 75, EX_TEMPFAIL of sysexits.h.
    """


class RunError(RuntimeError):
    """A run that failed although the user made no mistake. `run.py` exits with code 1."""

    def __init__(self, text):
        super().__init__(printable(text))


def printable(text):
    """Returns a text with control characters and lone surrogates as escapes; line ends stay."""
    if text.replace("\n", "").isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
