# SPDX-License-Identifier: Apache-2.0
"""The beginning and the end of what run.py does for the CS target; `prepare.py` is between."""

import os
import sys

from common.cs import target


def check(params):
    """Checks what can be checked before anything is read. Returns the SDK's interpreter: Path.

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
    """Lets `common.cs.worker` take the place of this process. Does not return.

    Args:
        python: path-like, of `check`.
        folder: path-like, of `prepare`.
    """
    path = [str(target.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
    sys.stdout.flush()
    sys.stderr.flush()
    arguments = [str(python), "-m", "common.cs.worker", str(folder)]
    os.execve(python, arguments, environment)
