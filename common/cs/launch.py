# SPDX-License-Identifier: Apache-2.0
"""A run on the CS target, as run.py starts it: check, prepare, hand over to the SDK."""

import os
import sys

from common.cs import target


def run_on_cs(params, args, choose_checkpoint, import_quietly, keep_params):
    """Does the run. Does not return: `common.cs.worker` takes the place of this process.

    Args:
        params: Params, with model_dir.
        args: of run.py.
        choose_checkpoint, import_quietly: of run.py.
        keep_params: as of `prepare`, with the checkpoint to resume as its last argument.
    Raises:
        UserError: a rule of the system is broken, or the SDK is not installed.
        RunError: no cluster answers.
    """
    target.check_rules(params)
    python = target.find_python()
    if target.needs_cluster(params):
        target.check_reachable(params)
    needs_weights = params.runconfig.mode == "train" or not params.runconfig.validate_only
    resumed, chosen = choose_checkpoint(params.runconfig) if needs_weights else (None, None)
    import_quietly()
    from common.cs.prepare import prepare

    folder = prepare(params, args, resumed, chosen, lambda *both: keep_params(*both, resumed))
    path = [str(target.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
    sys.stdout.flush()
    sys.stderr.flush()
    arguments = [str(python), "-m", "common.cs.worker", str(folder)]
    os.execve(python, arguments, environment)
