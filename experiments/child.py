# SPDX-License-Identifier: Apache-2.0
"""A run as a process of its own: started under `launcher.py`, asked to stop, waited for."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAUNCHER = ROOT / "experiments" / "launcher.py"
GRACE_SECONDS = 600  # a trainer saves and leaves within seconds; then SIGKILL


def command_of(base, model_dir, overrides):
    """Returns the command of a run: list of str.

    base: path of the params file. overrides: {dotted key: value}.
    """
    words = [sys.executable, str(ROOT / "run.py"), "--params", str(base)]
    words += ["--model_dir", str(model_dir)]
    for key, value in overrides.items():  # JSON is YAML, and its floats are read back to the bit
        words += ["--override", f"{key}={json.dumps(value, ensure_ascii=False)}"]
    return words


class Child:
    """A command that runs, with both its streams in a log.

    command: list of str. log: Path, appended to. folder: path of its working directory; None: the
    one of this process.
    """

    def __init__(self, command, log, folder=None):
        self.log = log
        with open(log, "ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(LAUNCHER), str(GRACE_SECONDS), *command],
                stdin=subprocess.PIPE,
                cwd=folder,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is the controller's, which asks once
            )
        self.is_asked_to_stop = False

    def ask_to_stop(self):
        """Lets the command save and end: closes the pipe at whose end it gets SIGTERM."""
        if not self.is_asked_to_stop:
            self.is_asked_to_stop = True
            self.process.stdin.close()

    def exit_code(self):
        """Returns the command's exit code, or None while it runs."""
        code = self.process.poll()
        if code is not None:
            self.process.stdin.close()
        return 128 - code if code is not None and code < 0 else code  # the launcher was killed

    def last_line(self):
        """Returns the last line of the log that says something: str."""
        lines = self.log.read_text("utf-8", errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
