# SPDX-License-Identifier: Apache-2.0
"""The two exceptions whose text `run.py` prints alone: the user's mistake, and a failed run.

Their texts quote files, which may come from anybody: what could move the cursor of a terminal, or
not be printed at all, is written as Python would (`printable`).
"""


class UserError(ValueError):
    """Wrong usage, configuration or data: the text says what was found, where, what to change.

    `run.py` exits with code 2.
    """

    def __init__(self, text):
        super().__init__(printable(text))


class RunError(RuntimeError):
    """A run that was rightly asked for and failed. `run.py` prints the text and exits with 1."""

    def __init__(self, text):
        super().__init__(printable(text))


def printable(text):
    """A text with control characters and half pairs of UTF-16 as escapes; line ends stay."""
    if text.replace("\n", "").isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
