# SPDX-License-Identifier: Apache-2.0
"""runs/<id>/ of model_dir: what each start of a mode was, and what became of it.

run.json             written when the mode begins, completed when the process ends
result-<mode>.json   the Result, with the versions of what computed it
"""

import contextlib
import hashlib
import os
import resource
import secrets
import signal
import socket
import subprocess
import tomllib
from datetime import UTC, datetime
from pathlib import Path

from common.errors import BusyError, UserError
from common.export.model_card import versions
from common.files import write_whole
from common.reports.metrics_file import to_json
from common.signals import Stopped

ROOT = Path(__file__).resolve().parents[2]


class RunRecord:
    """One start of one mode on one model_dir.

    It is on disk at once where model_dir is there, as in training; a mistyped model_dir is not made
    by a start that is refused. A folder that cannot be written to costs the record, not the run.

    params: Params as read, with model_dir. command: list of str, the command line.
    """

    def __init__(self, params, command):
        started = datetime.now(UTC)
        self.id = f"{started:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"  # sorts by time
        self.folder = Path(params.runconfig.model_dir) / "runs" / self.id
        # Of what the user asked for: the same for every mode on every model_dir.
        asked = params.with_runconfig(mode=None, model_dir=None).to_yaml()
        self.facts = {
            "id": self.id,
            "mode": params.runconfig.mode,
            "command": command,
            "program": program_version(),
            "host": socket.gethostname(),
            "process": os.getpid(),
            "params_sha256": hashlib.sha256(asked.encode("utf-8", "surrogateescape")).hexdigest(),
            "started": started.isoformat(timespec="seconds"),
            "ended": None,
            "exit_code": None,
            "reason": None,
        }
        if self.folder.parents[1].is_dir():
            self.accept()

    def accept(self):
        """Puts the start on record, in a new model_dir too: it was not refused."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._write("run.json", self.facts)

    def keep(self, result):
        """Writes a Result."""
        content = {"run": self.id, **result.model_dump(mode="json"), "versions": versions()}
        self._write(f"result-{result.mode}.json", content)

    def end(self, exit_code, reason=None):
        """Completes run.json. reason: str, what a person read where it ended with an exception."""
        ended = datetime.now(UTC).isoformat(timespec="seconds")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
        self.facts |= {"ended": ended, "exit_code": exit_code, "reason": reason}
        self.facts["peak_memory_bytes"] = peak
        self._write("run.json", self.facts)

    def _write(self, name, content):
        if not self.folder.is_dir():  # a model_dir that was deleted or moved is not made anew
            return
        with contextlib.suppress(OSError):
            text = to_json(content, indent=2)
            # A path may hold bytes that are not UTF-8: JSON has an escape for them.
            write_whole(self.folder / name, f"{text}\n".encode("utf-8", "backslashreplace"))


@contextlib.contextmanager
def on_record(params, command):
    """While open, a start is on record; an exception completes the record. Yields the RunRecord,
    whose `end` tells of a start that ended otherwise. Arguments as of RunRecord."""
    record = RunRecord(params, command)
    try:
        yield record
    except BaseException as error:
        record.end(exit_code_of(error), sentence_of(error))
        raise


def exit_code_of(error):
    """Returns the exit code of a run that ended with an exception; see the head of run.py."""
    if isinstance(error, Stopped):
        return 128 + error.signal_number
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    if isinstance(error, BusyError):
        return os.EX_TEMPFAIL
    return 2 if isinstance(error, UserError) else 1


def sentence_of(error):
    """Returns the message of an exception for the user."""
    if isinstance(error, Stopped):  # with nothing new to save
        return f"The run was {error}"
    if isinstance(error, KeyboardInterrupt):  # before signals are handled
        return "Interrupted"
    # OSError: such as a full disk or a deleted folder.
    return str(error) if isinstance(error, UserError) else f"The run failed: {error}"


def program_version():
    """Returns the commit of this checkout, with `-dirty` where files differ; else the version."""
    # Git is not to find a repository that this project merely lies in.
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(ROOT.parent)}
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(
            git, env=environment, capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
