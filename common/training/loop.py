# SPDX-License-Identifier: Apache-2.0
"""The training loop: next batch, step, then log, save and evaluate, each on its stated interval."""

import contextlib
import math

from common.errors import RunError
from common.reports.progress import Console
from common.reports.rate import StepRate, TimedInput
from common.signals import Stopped, listening
from common.training.steps_ahead import StepsAhead


class NotFiniteError(RunError):
    """A loss or gradient that is infinite or not a number. `step` says of which step."""

    def __init__(self, what, step, value):
        super().__init__(
            f"the {what} of step {step} is {value}; what was saved before is whole. A lower "
            "learning rate, a longer warm-up or max_gradient_norm helps; with mixed_float16, "
            "loss_scaling_factor: dynamic; runconfig.recover_from_nan goes back and lowers the rate"
        )
        self.step = step


def train(
    train_step,
    batches,
    first_step,
    last_step,
    run,
    reports,
    save,
    evaluate=None,
    losses=None,
    check_gradients=True,
    num_workers=1,
    is_ahead=False,
):
    """Trains from first_step to last_step, or until a signal or `evaluate` ends it, and saves.

    Args:
        train_step: of make_train_step.
        batches: iterable of (features, targets), as many for each step as train_step takes.
        first_step, last_step: int. Global steps done before and after.
        run: RunParams: the intervals.
        reports: Reports.
        save: called with the global step.
        evaluate: called with the global step where `is_evaluated`, or None; what it returns says
            whether to end here.
        losses: list of float. Those since the last line of figures, continued and kept up to date.
        check_gradients: bool. False where the optimizer skips an update that is not finite.
        num_workers: int. Processes that each take a batch like the one given here.
        is_ahead: bool. Each step is handed over while the one before is computed (`StepsAhead`).
    Returns:
        (global step reached, signal number or None).
    Raises:
        NotFiniteError: a loss or gradient is not finite; found before anything is saved.
    """
    losses = [] if losses is None else losses
    unchecked, saved = [], first_step
    step, rows = first_step, 0
    timed = TimedInput(batches)
    # The first is computed when its call ends, and the second handed over at once.
    rate = StepRate(num_untimed=2 if is_ahead else 1)
    ahead = StepsAhead(train_step) if is_ahead else None
    with (
        ahead or contextlib.nullcontext(train_step) as train_step,
        listening() as requests,
        contextlib.closing(Console(run.log_steps)) as console,
    ):
        console.on_start(first_step, last_step, rate)
        for features, labels in timed:
            try:
                figures = train_step(features, labels)
            except Stopped:  # polled once the step is compiled: nothing of it has been done
                break
            if ahead is not None and ahead.was_busy:
                timed.take_off_last()
            rows += num_rows(labels) * num_workers
            if figures is None:  # the update needs more batches
                continue
            step += 1
            unchecked.append(figures)
            is_last = step == last_step
            shown = {"loss": figures["train/cost_cls"]}
            if "train/lr" in figures:
                shown["learning_rate"] = figures["train/lr"]
            rate.update(step, waited=timed.seconds)
            console.on_step(step, shown)

            if step % run.save_summary_steps == 0 or is_last:
                losses += _finite_losses(unchecked, step, check_gradients)
                # The mean since the last line: one batch of a small loss says little.
                histograms = figures.pop("histograms", {})
                values = {name: float(value) for name, value in figures.items()}
                values["train/cost_cls"] = sum(losses) / len(losses)
                per_second = rate.per_second()
                if per_second is not None:
                    values["train/examples_per_second"] = per_second * rows
                    values["train/input_wait"] = rate.input_wait()
                reports.scalars("train", step, values)
                if histograms:
                    reports.histograms("train", step, histograms)
                losses.clear()
            rows = 0
            is_due = step % run.save_checkpoints_steps == 0 or is_last
            is_asked_for = requests.take_save() or requests.stopped_by is not None
            if is_due or is_asked_for:
                losses += _finite_losses(unchecked, step, check_gradients)
                save(step)
                saved = step
            if requests.stopped_by is not None:
                break
            if evaluate is not None and is_evaluated(step, last_step, run):
                losses += _finite_losses(unchecked, step, check_gradients)
                try:
                    is_last = evaluate(step) or is_last
                except Stopped:
                    break
            if is_last:
                break
        if saved != step:
            losses += _finite_losses(unchecked, step, check_gradients)
            save(step)
        return step, requests.stopped_by


def is_evaluated(step, last_step, run):
    """Whether train_and_eval evaluates after a step; `last_step` is where training is to end."""
    every = run.eval_every_steps or run.save_checkpoints_steps
    return step > 0 and (step % every == 0 or step == last_step)


def _finite_losses(unchecked, step, check_gradients):
    """Empties a list of figures of the steps up to `step`; returns their losses: list of float."""
    losses = []
    for n, figures in enumerate(unchecked, start=step - len(unchecked) + 1):
        loss = float(figures["train/cost_cls"])
        norm = float(figures.get("train/unclipped_grad_norm", 0.0))
        if not math.isfinite(loss):
            raise NotFiniteError("loss", n, loss)
        if check_gradients and not math.isfinite(norm):
            raise NotFiniteError("norm of the gradients", n, norm)
        losses.append(loss)
    unchecked.clear()
    return losses


def num_rows(targets):
    """How many rows a batch has. targets: {name: tensor [B, ...]}, or one such tensor."""
    return (next(iter(targets.values())) if isinstance(targets, dict) else targets).shape[0]
