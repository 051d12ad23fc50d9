# SPDX-License-Identifier: Apache-2.0
"""The first and the last step of run.py for the CS target; `prepare.py` runs between them."""

import os
import sys

from common.cs import target


def check(params):
    """Checks what needs no data. Returns the Path of the SDK's interpreter.

    Args:
        params: Params, with model_dir.
    Raises:
        UserError: a rule of the system is broken, or the SDK is not installed.
        RunError: no cluster answers.
    """
    target.check_rules(params)
    python = target.find_python()
    if target.needs_cluster(params):
        target.check_reachable(params)
    return python


def hand_over(python, folder):
    """Replaces this process with `common.cs.worker`. Does not return.

    Args:
        python: path-like, from `check`.
        folder: path-like, from `prepare`.
    """
    path = [str(target.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
    sys.stdout.flush()
    sys.stderr.flush()
    arguments = [str(python), "-m", "common.cs.worker", str(folder)]
    os.execve(python, arguments, environment)
