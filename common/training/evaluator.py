# SPDX-License-Identifier: Apache-2.0
"""Evaluation: the figures of every row of the evaluation splits, and what is kept of them."""

import functools
import hashlib
import time
from pathlib import Path

from common.checkpoints import store
from common.checkpoints.load import open_checkpoint
from common.console import counted
from common.errors import RunError, UserError
from common.metrics.row_metrics import RowMetrics, figure_name, figures_of
from common.reports.evaluation_report import read_report
from common.reports.prediction_files import rows_of
from common.training.checks import check_metric
from common.training.inference import records_of
from common.training.lock import check_still_there
from common.training.result import result_of
from common.training.run_state import BestMetric, RunState, best_metric_of


def facts_of(session, batches_of_split, step, path):
    """Returns what an evaluation scores: those of EVALUATION_FACTS that are known before it.

    step, path: of the checkpoint; one of model_dir goes by its name, as the run's own.
    """
    path = Path(path).absolute()
    is_own = session.model_dir.absolute() in (path, path.parent)
    return {
        "mode": session.mode,
        "checkpoint": f"checkpoint-{step}" if is_own else str(path),
        "source": session.data.describe(session.params.eval_input),
        "is_whole": all(batches.is_whole for batches in batches_of_split.values()),
    }


def folder_beside(model_dir, facts):
    """Returns where the files of an evaluation go, see `Listener.on_evaluation`: "" is the run's.

    Those are of the checkpoint that `best_metric` chose, or else of the newest, on every row. What
    is scored besides, of another checkpoint or of fewer rows, replaces none of them.

    facts: of `facts_of`, and num_examples.
    """
    steps = [step for step, _ in store.list_checkpoints(model_dir)]
    if not steps:  # there is no run
        return ""
    best = store.read_best(model_dir)
    chosen = f"checkpoint-{steps[-1] if best is None else best['step']}"
    name = Path(facts["checkpoint"]).name
    if Path(facts["checkpoint"]).is_absolute():  # of elsewhere, where others have the same name
        name += "-" + hashlib.sha256(facts["checkpoint"].encode()).hexdigest()[:8]
    if not facts["is_whole"] and read_report(model_dir).get("is_whole"):
        return f"{name}-{facts['num_examples']}-rows"
    return "" if facts["checkpoint"] == chosen else name


class Evaluator:
    """Scores the weights of an Inference as they are, or those of checkpoints."""

    def __init__(self, inference):
        self.session, self.inference = inference.session, inference
        self.model, self.listeners = inference.model, inference.listeners
        self.started = time.monotonic()

    def score(self, batches_of_split, engine=None, description="eval"):
        """Returns {name: float}, and the Metrics of all splits together.

        batches_of_split: {split: Batches} with weights. engine: Engine, of batches of
        `sorted_by_length`; None is the network.
        """
        figures, total, _ = self._score(batches_of_split, engine, description)
        return figures, total

    def _score(self, batches_of_split, engine=None, description="eval"):
        """As `score`, and {split: Metrics}."""
        make_metrics = self.model.build_eval_metric_ops
        scores = self.inference.collect(
            batches_of_split, make_metrics, description, engine, is_scored=True
        )
        total = make_metrics()
        return figures_of(total, scores), total, scores

    def evaluate(
        self,
        batches_of_split,
        step,
        path=None,
        is_chosen=lambda figures: True,
        folder_of=lambda facts: "",
    ):
        """Scores every split and tells the listeners, with what was scored.

        path: of the weights' checkpoint; None: they are this run's at that step. is_chosen:
        callable on the figures, folder_of on the facts; see `Listener.on_evaluation`.

        Returns {name: float}, and the Metrics.
        """
        figures, total, scores = self._score(batches_of_split)
        check_still_there(self.session.model_dir)
        facts = facts_of(self.session, batches_of_split, step, path or self.session.model_dir)
        facts["num_examples"] = len(total)
        self.listeners.on_figures("eval", step, figures, facts=facts)
        rows = functools.partial(self._rows, batches_of_split, scores)
        report = {**facts, **total.report()}
        self.listeners.on_evaluation(step, report, is_chosen(figures), rows, folder_of(facts))
        return figures, total

    def _rows(self, batches_of_split, scores):
        """Returns {split: (columns, rows, mistakes)}; see `Listener.on_evaluation`."""
        rows = {}
        for split, metrics in scores.items():
            if not isinstance(metrics, RowMetrics):
                continue
            origins, texts, columns = None, [()] * len(metrics), {}
            try:
                if batches_of_split[split].origins is not None:
                    origins = batches_of_split[split].origins()
                    texts, columns = origins.texts, origins.columns
            except UserError as error:  # such as a file that was changed: training goes on
                self.listeners.on_message(f"eval/rows_{split}.tsv is without texts: {error}")
            records, mistakes = records_of(self.model, metrics, origins)
            rows[split] = *rows_of(records, texts, columns), mistakes
        return rows

    def evaluate_checkpoint(self):
        """Scores the session's checkpoint. Returns Result."""
        session, checkpoint = self.session, self.session.checkpoint
        self.inference.load(checkpoint)
        step = checkpoint.config.get("step", 0)
        batches = session.data.eval_input_fn(session.params)
        folders = []

        def folder_of(facts):
            folders.append(folder_beside(session.model_dir, facts))
            return folders[0]

        figures, total = self.evaluate(batches, step, checkpoint.path, folder_of=folder_of)
        lines = total.describe(figures)
        if folders[0]:
            lines = [*lines, ("Files", f"{session.model_dir / 'eval' / folders[0]}, of its own")]
        return self._end(
            f"Evaluated {checkpoint.path}",
            step=step,
            checkpoint=str(checkpoint.path),
            figures=figures,
            num_examples=len(total),
            lines=lines,
        )

    def evaluate_all(self):
        """Scores every checkpoint of model_dir, oldest first. Returns Result."""
        session = self.session
        batches, scored = session.data.eval_input_fn(session.params), {}
        metrics, state = self.model.build_eval_metric_ops(), RunState()
        metric = best_metric_of(session.run) or BestMetric(metrics.main, metrics.main_mode)
        check_metric(metric, self.model, batches)

        def is_best(figures):
            return state.is_best(metric.value_in(figures), metric)

        paths = dict(store.list_checkpoints(session.model_dir))
        for step, path in paths.items():
            fault = store.fault_in(path)
            if fault is None:
                try:
                    self.inference.load(open_checkpoint(path))
                except (UserError, OSError) as error:
                    if path.exists():
                        raise
                    fault = error
            if fault is not None:
                if not path.exists():
                    fault = "it was deleted meanwhile, by a run that trains"
                self.listeners.on_message(f"skipped {path}: {fault}")
                continue
            figures, _ = self.evaluate(batches, step, path, is_best)
            state.count_evaluation(step, metric.value_in(figures), metric)
            scored[step] = figures
        if not scored:
            raise RunError(f"no checkpoint of {session.model_dir} stayed until it was scored")
        names = metric.name, metrics.main, "loss"
        shown = {figure_name(name): BestMetric(name) for name in names}  # each once
        output = [
            "  ".join(
                [f"step {step:>8}"]
                + [f"{name} {each.value_in(figures):.4f}" for name, each in shown.items()]
                + ["best"] * (step == state.best_step)
            )
            for step, figures in scored.items()
        ]
        values = {}
        if state.best_step in scored:
            best = {"step": state.best_step, "figures": scored[state.best_step]}
            values = {**best, "checkpoint": str(paths[state.best_step])}
        outcome = f"Evaluated {counted(len(scored), 'checkpoint')}, the best by {metric}"
        return self._end(outcome, output=output, **values)

    def _end(self, outcome, **values):
        result = result_of(self.session, self.model, outcome, self.started, **values)
        self.listeners.on_end(result)
        self.listeners.close()
        return result.model_copy(update={"not_written": tuple(self.listeners.not_written)})
