# SPDX-License-Identifier: Apache-2.0
"""What a model_dir says of its run, read from its files: no data set, no network, no TensorFlow."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

import yaml

from common.checkpoints import store
from common.errors import UserError
from common.reports.evaluation_report import read_report
from common.reports.kept_rows import read_kept_rows
from common.reports.metrics_file import EVALUATION_FACTS, METRICS_FILE, read_curves, read_evaluation

PARAMS = "params.yaml"
DATA_REPORT = "data_report.json"


@dataclass(frozen=True)
class RunFacts:
    """A run, as its model_dir has it."""

    model_dir: Path
    params: dict  # of params.yaml; {} without it
    curves: dict  # of `read_curves`
    report: dict  # of the evaluation that counts: `read_report`; {} without one
    figures: dict  # {name: float} of the same evaluation, as metrics.jsonl has them
    rows: list  # of KeptRows
    starts: list  # of dict: run.json, and `result`, what result-<mode>.json has; oldest first
    checkpoint: dict  # name, and of each file size and digest; {} without one
    data_report: dict  # {} without one

    @property
    def name(self):
        return self.model_dir.resolve().name

    @property
    def task(self):
        section = self.params.get("predict_input") or self.params.get("eval_input") or {}
        return section.get("task", "classification")


def read_run_facts(model_dir):
    """Returns the RunFacts of a model_dir.

    Raises UserError where it has neither figures nor an evaluation, or a file cannot be read.
    """
    model_dir = Path(model_dir)
    if not model_dir.is_dir():
        raise UserError(f"{model_dir} is not there; give the --model_dir of a training")
    report, curves = read_report(model_dir), read_curves(model_dir)
    if not (report or curves):
        raise UserError(
            f"{model_dir} has no {METRICS_FILE} and no evaluation: nothing to report on; train, "
            "or evaluate with --mode eval"
        )
    return RunFacts(
        model_dir,
        _yaml(model_dir / PARAMS),
        curves,
        report,
        _figures(model_dir, report, curves),
        read_kept_rows(model_dir / "eval") if report else [],
        _starts(model_dir),
        _checkpoint(model_dir, report),
        _json(model_dir / DATA_REPORT),
    )


def _figures(model_dir, report, curves):
    """Returns the figures of the evaluation of a report; of the last one without any."""
    if report:
        figures, facts = read_evaluation(model_dir, report.get("step"))
        is_same = facts.get("num_examples", report["num_examples"]) == report["num_examples"]
        if figures and is_same:
            return figures
    steps = {step for (split, _), curve in curves.items() if split == "eval" for step in curve}
    last = max(steps, default=None)
    return {
        name: curve[last]
        for (split, name), curve in curves.items()
        if split == "eval" and last in curve and name not in EVALUATION_FACTS
    }


def _starts(model_dir):
    starts = []
    for path in sorted(model_dir.glob("runs/*/run.json")):
        start = _json(path)
        results = [_json(each) for each in sorted(path.parent.glob("result-*.json"))]
        if start:
            starts.append(start | {"result": results[0] if results else {}})
    return starts


def _checkpoint(model_dir, report):
    """Returns the name and the files of the checkpoint that was evaluated, or of the newest."""
    folders = dict(store.list_checkpoints(model_dir))
    folder = folders.get(report.get("step")) or (folders[max(folders)] if folders else None)
    if folder is None:
        return {}
    manifest = _json(folder / store.MANIFEST)
    return {"name": folder.name, "files": manifest.get("files", {})}


def _json(path):
    """Returns the dict of a file; {} where it is absent or is no JSON object."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(path.read_text("utf-8"))
        return content if isinstance(content, dict) else {}
    return {}


def _yaml(path):
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
        content = yaml.safe_load(path.read_text("utf-8"))
        return content if isinstance(content, dict) else {}
    return {}
