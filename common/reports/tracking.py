# SPDX-License-Identifier: Apache-2.0
"""`runconfig.tracking`: shows a training in MLflow, Trackio or W&B.

Each tracker is fed by a process of its own, feed_tracker.py, which reads what the training writes
anyway. So no tracker slows a training or ends it.
"""

import subprocess
import sys
from pathlib import Path

from common.errors import UserError
from common.reports.listener import Listener
from common.reports.trackers import FOLDER, lacking

PROGRAM = "common.reports.feed_tracker"
ROOT = Path(__file__).resolve().parents[len(__package__.split("."))]  # of the modules' names


def check_trackers(run):
    """Raises UserError where RunParams name a tracker whose packages are missing."""
    for name in run.tracking or ():
        if lacks := lacking(name):
            raise UserError(
                f"runconfig.tracking names {name}, and {lacks}, or take it out of the list"
            )


def trackers_of(run):
    """Returns the Listeners of the trackers that RunParams name, where they train."""
    names = dict.fromkeys(run.tracking or ()) if run.is_training else ()
    return [Tracking(run.model_dir, name) for name in names]


class Tracking(Listener):
    """Starts the process that feeds a tracker, and lets it end with the training.

    name: a key of PACKAGES.
    """

    def __init__(self, model_dir, name):
        self.model_dir, self.name, self.process = Path(model_dir).absolute(), name, None

    def on_start(self, first_step, last_step, rate):
        del first_step, last_step, rate
        if self.process is not None:
            return
        (self.model_dir / FOLDER).mkdir(exist_ok=True)
        with open(self.model_dir / FOLDER / f"{self.name}.log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", PROGRAM, self.name, str(self.model_dir)],
                cwd=ROOT,
                stdin=subprocess.PIPE,  # at whose end it knows that the training is over
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def close(self):
        """Does not wait: the process has its own time to send the last figures."""
        if self.process is not None:
            self.process.stdin.close()
            self.process = None
