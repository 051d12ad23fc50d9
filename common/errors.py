# SPDX-License-Identifier: Apache-2.0
"""The two exceptions whose text `run.py` prints alone: the user's mistake, and a failed run."""


class UserError(ValueError):
    """Wrong usage, configuration or data: the text says what was found, where, what to change.

    `run.py` exits with code 2.
    """


class RunError(RuntimeError):
    """A run that was rightly asked for and failed. `run.py` prints the text and exits with 1."""
