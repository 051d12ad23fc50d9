# SPDX-License-Identifier: Apache-2.0
"""Evaluation: the figures of every row of the evaluation splits, and what is kept of them."""

import time

from common.checkpoints import store
from common.checkpoints.load import open_checkpoint
from common.errors import RunError, UserError
from common.metrics.row_metrics import figures_of
from common.training.lock import check_still_there
from common.training.result import result_of


class Evaluator:
    """Scores the weights of an Inference as they are, or those of checkpoints."""

    def __init__(self, session, inference):
        self.session, self.inference = session, inference
        self.model, self.listeners = inference.model, inference.listeners
        self.started = time.monotonic()

    def score(self, batches_of_split, predict_step=None, description="eval"):
        """Returns {name: float}, and the Metrics of all splits together.

        batches_of_split: {split: Batches} with weights. predict_step: None is the network's own.
        """
        make_metrics, limit = self.model.build_eval_metric_ops, self.session.run.eval_steps
        scores = self.inference.collect(
            batches_of_split, make_metrics, description, predict_step, limit
        )
        total = make_metrics()
        return figures_of(total, scores), total

    def evaluate(self, batches_of_split, step):
        """Scores every split and tells the listeners. Returns {name: float}, and the Metrics."""
        figures, total = self.score(batches_of_split)
        check_still_there(self.session.model_dir)
        self.listeners.on_figures("eval", step, figures)
        self.listeners.on_evaluation(step, total.report())
        return figures, total

    def evaluate_checkpoint(self):
        """Scores the session's checkpoint. Returns Result."""
        session, checkpoint = self.session, self.session.checkpoint
        self.inference.load(checkpoint)
        step = checkpoint.config.get("step", 0)
        figures, total = self.evaluate(session.data.eval_input_fn(session.params), step)
        return self._end(
            f"Evaluated {checkpoint.path}",
            step=step,
            figures=figures,
            num_examples=len(total),
            lines=total.describe(figures),
        )

    def evaluate_all(self):
        """Scores every checkpoint of model_dir, oldest first. Returns Result."""
        session = self.session
        batches, scored = session.data.eval_input_fn(session.params), []
        for step, path in store.list_checkpoints(session.model_dir):
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
            scored.append((step, self.evaluate(batches, step)[0]))
        if not scored:
            raise RunError(f"no checkpoint of {session.model_dir} stayed until it was scored")
        metrics = self.model.build_eval_metric_ops()
        main, choose = metrics.main, {"max": max, "min": min}[metrics.main_mode]
        best_step, best = choose(scored, key=lambda each: each[1][main])
        name = main.removeprefix("eval/").removesuffix("_cls")
        output = [
            f"step {step:>8}  {name} {figures[main]:.4f}  loss {figures['loss']:.4f}"
            + ("  best" if step == best_step else "")
            for step, figures in scored
        ]
        return self._end(
            f"Evaluated {len(scored)} checkpoints", step=best_step, figures=best, output=output
        )

    def _end(self, outcome, **values):
        result = result_of(self.session, self.model, outcome, self.started, **values)
        self.listeners.on_end(result)
        self.listeners.close()
        return result.model_copy(update={"not_written": tuple(self.listeners.not_written)})
