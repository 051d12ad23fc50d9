# SPDX-License-Identifier: Apache-2.0
"""experiment.jsonl: what the controller of an experiment has decided and seen, a line each.

{"event": "combination", "number": n, "values": {...}, "runs": [id, ...]}   before they start
{"event": "end", "run": id, "exit_code": 0}              of a process of a run
{"event": "rung", "combination": n, "rung": k, "figure": 0.9}
{"event": "dropped", "combination": n, "rung": k}        it ends there
{"event": "result", "combination": n, "figure": 0.9}     the mean over seeds; null: it has none

It is the truth at the next start. A torn last line, after a kill, is cut off; what it said happens
again.
"""

import contextlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path

from common.errors import RunError
from common.reports.metrics_file import to_json

FILE = "experiment.jsonl"
FACTS = {  # of each kind of event
    "combination": {"number", "values", "runs"},
    "end": {"run", "exit_code"},
    "rung": {"combination", "rung", "figure"},
    "dropped": {"combination", "rung"},
    "result": {"combination", "figure"},
}


def values_of_runs(folder):
    """Returns {run id: {dotted key: value}} of the experiment in a folder, if it has one."""
    values = {}
    with contextlib.suppress(OSError):
        for line in (Path(folder) / FILE).read_text("utf-8", "replace").splitlines():
            with contextlib.suppress(ValueError, LookupError, TypeError):
                event = json.loads(line)
                if event["event"] == "combination":
                    values |= dict.fromkeys(event["runs"], event["values"])
    return values


def is_event(value):
    """Whether a value of the file is an event with its facts."""
    if not isinstance(value, dict):
        return False
    return FACTS.get(str(value.get("event")), {"event"}) <= value.keys()


class Journal:
    """Appends events, each on disk before the call returns.

    Attributes:
        events: list of dict, those of former starts first.
    """

    def __init__(self, folder):
        self.path = Path(folder) / FILE
        self.events = []
        if self.path.exists():
            content = self.path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            if whole != content:
                os.truncate(self.path, len(whole))
            for number, line in enumerate(whole.decode("utf-8", "replace").splitlines(), 1):
                try:
                    event = json.loads(line)
                except ValueError:
                    event = None
                if not is_event(event):
                    raise RunError(
                        f"{self.path}: line {number} is no event of an experiment, so what was "
                        "done is not known; put the file back, or choose another --model_dir"
                    )
                self.events.append(event)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115

    def add(self, event, **facts):
        facts = {"event": event, **facts, "time": datetime.now(UTC).isoformat(timespec="seconds")}
        self._file.write(to_json(facts) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.events.append(facts)

    def of(self, event, **wanted):
        """Returns the events of a kind that have the wanted values: list of dict."""
        wanted = {"event": event, **wanted}
        return [each for each in self.events if wanted.items() <= each.items()]

    def close(self):
        self._file.close()
