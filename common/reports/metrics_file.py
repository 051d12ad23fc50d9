# SPDX-License-Identifier: Apache-2.0
"""metrics.jsonl: one JSON object per line, {"time", "split", "step", names: values}.

Lines of evaluations have the keys of EVALUATION_FACTS, too; those of older versions lack them.
"""

import contextlib
import json
import math
import os
from datetime import UTC, datetime
from pathlib import Path

from common.errors import RunError
from common.files import write_whole
from common.reports.listener import Listener

METRICS_FILE = "metrics.jsonl"
SPLITS = ("eval", "train")
EVALUATION_FACTS = ("mode", "checkpoint", "source", "num_examples", "is_whole")


class MetricsFile(Listener):
    """Appends and flushes a line per call. The first line creates the file."""

    def __init__(self, model_dir):
        self.path = Path(model_dir) / METRICS_FILE
        self.has_dropped = False  # whether the last resume removed lines from the file
        self._file = None

    def on_figures(self, split, step, values, histograms=None, facts=None):
        """Values that are not finite become strings: see `to_json`."""
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; available: {', '.join(SPLITS)}")
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        values = {name: float(value) for name, value in values.items()}
        line = {"time": now, "split": split, "step": int(step), **(facts or {}), **values}
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():  # a torn line, after a kill, is cut off
                content = self.path.read_bytes()
                os.truncate(self.path, content.rfind(b"\n") + 1)
            self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
        try:
            self._file.write(to_json(line) + "\n")
            self._file.flush()
        except OSError as error:
            with contextlib.suppress(OSError):  # closing writes again, and fails again
                self._file.close()
            self._file = None
            raise not_written(self.path, error.strerror) from error

    def on_resume(self, step, evaluated_step):
        """Removes the lines of later steps, but for evaluations of other runs' checkpoints."""
        last = {"train": step, "eval": evaluated_step}
        self.close()
        self.has_dropped = False
        if not self.path.exists():
            return
        content = "".join(
            line
            for line, figures in _lines(self.path)
            if figures["step"] <= last.get(figures["split"], step) or not is_own(figures)
        ).encode()
        if content != self.path.read_bytes():
            write_whole(self.path, content)
            self.has_dropped = True

    def close(self):
        if self._file is not None:
            self._file.close()
            self._file = None


def is_own(facts):
    """Whether an evaluation is of a step of model_dir's own run: its checkpoint lies there."""
    return "/" not in facts.get("checkpoint", "")


def is_of_curves(facts):
    """Whether an evaluation belongs to the curves of its model_dir.

    One of a few rows does in training alone, where all are of the same rows.
    """
    is_comparable = facts.get("is_whole", True) or facts["mode"] == "train_and_eval"
    return is_own(facts) and is_comparable


def has_evaluation(model_dir, step):
    """Whether training has evaluated a step, as the file says; --mode eval does not count."""
    return any(
        (figures["split"], figures["step"]) == ("eval", step)
        and figures.get("mode", "train_and_eval") == "train_and_eval"
        for _, figures in _lines(Path(model_dir) / METRICS_FILE)
    )


def read_evaluation(model_dir, step):
    """Returns the figures, {name: float}, and the facts of the evaluation of a step of the run.

    Of several the last one that scored every row counts; without one both are {}.
    """
    values, facts = {}, {}
    for _, line in _lines(Path(model_dir) / METRICS_FILE):
        if (line["split"], line["step"]) != ("eval", step):
            continue
        if is_own(line) and line.get("is_whole", True):
            facts = {name: line[name] for name in EVALUATION_FACTS if name in line}
            values = {
                name: float(line[name])
                for name in line.keys() - facts.keys() - {"time", "split", "step"}
            }
    return dict(sorted(values.items())), facts


def read_lines_of_curves(model_dir):
    """Returns the lines that curves are made of, in the order of the file: list of dict.

    Evaluations are those of the rows that were evaluated first.
    """
    lines, source = [], None
    for _, figures in _lines(Path(model_dir) / METRICS_FILE):
        source = source or figures.get("source")
        if is_of_curves(figures) and figures.get("source", source) == source:
            lines.append(figures)
    return lines


def read_curves(model_dir):
    """Returns {(split, name): {step: float}} with rising steps; {} without a file.

    Of a step that occurs twice, after a resume, the later figure counts. A torn line, after a kill,
    is skipped. Evaluations are those of the rows that were evaluated first.
    """
    curves = {}
    for figures in read_lines_of_curves(model_dir):
        for name in figures.keys() - {"time", "split", "step", *EVALUATION_FACTS}:
            curve = curves.setdefault((figures["split"], name), {})
            curve[figures["step"]] = float(figures[name])
    return {key: dict(sorted(curve.items())) for key, curve in sorted(curves.items())}


def _lines(path):
    """Yields (line, its dict) of the complete lines of a file, which may be missing."""
    if not path.exists():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                figures = json.loads(line)
            except ValueError:
                continue
            is_whole = line.endswith("\n") and isinstance(figures, dict)
            if is_whole and {"split", "step"} <= figures.keys():
                yield line, figures


def not_written(path, reason):
    """Returns the RunError of a report that cannot be written."""
    return RunError(
        f"{path} could not be written: {reason}. Checkpoints are whole; make room or choose "
        "another --model_dir, and run again"
    )


def to_json(values, indent=None):
    """Returns valid JSON of any figures.

    JSON has no number for NaN and infinity: they become the strings "NaN", "Infinity" and
    "-Infinity", which `float()` reads back.
    """
    return json.dumps(_finite(values), allow_nan=False, ensure_ascii=False, indent=indent)


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
