# SPDX-License-Identifier: Apache-2.0
"""Feeds a tracker from a model_dir, while a training writes it or later.

    python -m common.reports.feed_tracker mlflow|trackio|wandb MODEL_DIR < /dev/null

A training is over at the end of the standard input. What was sent stands in model_dir/tracking/:
a step that is there is not sent again, so that a training which resumes continues its curves. Exit
code 2: wrong usage.
"""

import contextlib
import fcntl
import json
import os
import select
import sys
import time
from pathlib import Path

import yaml

from common.console import log
from common.files import write_whole
from common.params.yaml_file import flattened
from common.reports.metrics_file import read_lines_of_curves
from common.reports.run_json import last_training
from common.reports.trackers import FOLDER, TRACKERS, lacking

POLL_SECONDS = 2.0
END_SECONDS = 60  # after the end of the input, for run.json to say how the training ended
MAX_FAILURES = 5  # of a tracker in a row, such as a server that does not answer


class Feed:
    """What one tracker is told of one model_dir. folder: Path. name: a key of TRACKERS."""

    def __init__(self, folder, name):
        self.folder, self.state_file = folder, folder / FOLDER / f"{name}.json"
        self.state = {"run": None, "sent": {}}
        with contextlib.suppress(OSError, ValueError):
            self.state = json.loads(self.state_file.read_text("utf-8"))
        self.tracker, self.make = None, TRACKERS[name]

    def send(self):
        """Sends the lines of the training that are new."""
        if self.tracker is None:
            self.tracker = self.make(self.folder, self.params(), last_training(self.folder))
            self.state["run"] = self.tracker.begin(self.state["run"])
            self.keep()
        sent = self.state["sent"]
        lines = [
            line
            for line in read_lines_of_curves(self.folder)
            if line["step"] > sent.get(line["split"], -1)
        ]
        if lines:
            self.tracker.log(lines)
            for line in lines:
                sent[line["split"]] = max(line["step"], sent.get(line["split"], -1))
            self.keep()

    def params(self):
        """Returns {dotted key: value} of params.yaml."""
        return flattened(yaml.safe_load((self.folder / "params.yaml").read_text("utf-8")))

    def keep(self):
        write_whole(self.state_file, json.dumps(self.state) + "\n")


def exit_code_of(folder):
    """Returns the exit code of the last training; None where it ended without a word."""
    until = time.monotonic() + END_SECONDS
    while time.monotonic() < until:
        is_over = not is_there(last_training(folder).get("process"))
        code = last_training(folder).get("exit_code")  # read after the process was looked for
        if code is not None or is_over:
            return code
        time.sleep(0.2)
    return None


def is_there(process):
    return process is not None and Path(f"/proc/{process}").exists()


def is_input_over(seconds):
    """Waits for the end of the standard input. Returns whether it is there."""
    readable, *_ = select.select([0], [], [], seconds)
    return bool(readable) and not os.read(0, 512)


def main(name, model_dir):
    """Returns the exit code: 1 where the tracker could not be told everything."""
    folder, num_failures = Path(model_dir), 0
    (folder / FOLDER).mkdir(exist_ok=True)
    with open(folder / FOLDER / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the process of an earlier start has sent all
        feed, is_over = Feed(folder, name), False
        while True:
            is_over = is_over or is_input_over(POLL_SECONDS)
            try:
                feed.send()
                num_failures = 0
            except Exception as error:  # whatever a tracker raises, the next turn tries again
                print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                num_failures += 1
                if is_over and num_failures >= MAX_FAILURES:
                    return 1
                time.sleep(POLL_SECONDS)
                continue
            if is_over:
                break
        feed.tracker.end(exit_code_of(folder))
        feed.send()
    return 0


def fault_in(words):
    """Returns what is wrong with the words of the command line: str, or None."""
    if len(words) != 2 or words[0] not in TRACKERS:
        usage = f"python -m {__spec__.name} {'|'.join(TRACKERS)} MODEL_DIR"
        return f"usage: {usage} < /dev/null; given: {' '.join(words) or 'nothing'}"
    name, folder = words
    if not (Path(folder) / "params.yaml").is_file():
        return f"{folder} holds no params.yaml; name the model_dir of a training"
    return lacking(name) or None


if __name__ == "__main__":
    if fault := fault_in(sys.argv[1:]):
        log(fault)
        sys.exit(2)
    sys.exit(main(*sys.argv[1:]))
