# SPDX-License-Identifier: Apache-2.0
"""The one exception for a user's mistake: `run.py` prints its text alone and exits with code 2."""


class UserError(ValueError):
    """Wrong usage, configuration or data. The text says what was found, where, and what to change."""


class RunError(RuntimeError):
    """A run that was rightly asked for and failed. `run.py` prints the text and exits with 1."""
