# SPDX-License-Identifier: Apache-2.0
"""The training loop: next batch, step, then log, save and evaluate, each on its stated interval."""

import contextlib
import functools
import math
import time
from dataclasses import dataclass

from common.errors import RunError
from common.reports.rate import StepRate, TimedInput
from common.signals import Stopped
from common.tasks.targets import named, num_rows
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


@dataclass(frozen=True)
class Reached:
    """Where the loop ended."""

    step: int  # the global step
    stopped_by: int | None = None  # signal number, or None where training is over
    examples_per_second: float | None = None  # of the last steps, unless too few to say


def train(
    train_step,
    batches,
    first_step,
    last_step,
    run,
    listeners,
    control,
    save,
    evaluate=None,
    losses=None,
    check_gradients=True,
    num_workers=1,
    loss_figures=("train/cost_cls",),
    baselines=None,
    is_ahead=False,
    clock=time.monotonic,
):
    """Trains from first_step to last_step, or until a request or `evaluate` ends it, and saves.

    Args:
        batches: iterable of (features, targets), as many for each step as train_step takes.
        first_step, last_step: int. Global steps done before and after.
        run: RunParams, the intervals.
        save: called with the global step.
        evaluate: called with the global step where `is_evaluated`, or None; it returns whether to
            end here.
        losses: list of float, or of a list for several loss_figures. Those since the last line of
            figures, continued and kept up to date.
        check_gradients: bool. False where the optimizer skips an update that is not finite.
        num_workers: int. Processes that each take a batch like the one given here.
        loss_figures: names of the losses among the figures of a step, the total first.
        baselines: {short name: float}, shown beside the loss.
        is_ahead: bool. Each step is handed over while the one before is computed (`StepsAhead`).
    Returns:
        Reached.
    Raises:
        NotFiniteError: a loss or gradient is not finite; found before anything is saved.
    """
    losses, baselines = [] if losses is None else losses, baselines or {}
    finite_losses = functools.partial(_finite_losses, loss_figures, check_gradients)
    unchecked, saved = [], first_step
    step, rows, per_second = first_step, 0, None
    timed = TimedInput(batches, clock)
    # The first step is computed when its call ends, and the second is handed over at once.
    rate = StepRate(2 if is_ahead else 1, clock)
    ahead = StepsAhead(train_step) if is_ahead else None
    listeners.on_start(first_step, last_step, rate)
    with (
        contextlib.ExitStack() as stack,
        ahead or contextlib.nullcontext(train_step) as train_step,
    ):
        stack.callback(listeners.on_stop)
        for features, targets in timed:
            try:
                figures = train_step(features, targets)
            except Stopped:  # polled once the step is compiled: nothing of it has been done
                break
            if ahead is not None and ahead.was_busy:
                timed.take_off_last()
            rows += num_rows(named(targets)) * num_workers
            if figures is None:  # the update needs more batches
                continue
            step += 1
            control.has_unsaved = True
            unchecked.append(figures)
            is_last = step == last_step
            # The parts of the loss under the last word of their names.
            shown = {"loss": figures[loss_figures[0]], **baselines}
            shown |= {name.rpartition("cost_")[2]: figures[name] for name in loss_figures[1:]}
            if "train/lr" in figures:
                shown["learning_rate"] = figures["train/lr"]
            rate.update(step, waited=timed.seconds)
            listeners.on_step(step, shown)

            if step % run.save_summary_steps == 0 or is_last:
                losses += finite_losses(unchecked, step)
                # The mean since the last line: one batch of a small loss says little.
                histograms = figures.pop("histograms", None)
                values = {name: float(value) for name, value in figures.items()}
                columns = [losses] if len(loss_figures) == 1 else zip(*losses, strict=True)
                means = (sum(column) / len(losses) for column in columns)
                values |= dict(zip(loss_figures, means, strict=True))
                values |= {f"train/{name}": value for name, value in baselines.items()}
                if rate.per_second() is not None:
                    per_second = rate.per_second() * rows
                    values["train/examples_per_second"] = per_second
                    values["train/input_wait"] = rate.input_wait()
                listeners.on_figures("train", step, values, histograms)
                losses.clear()
            rows = 0
            is_due = step % run.save_checkpoints_steps == 0 or is_last
            is_asked_for = control.take_save() or control.stopped_by is not None
            if is_due or is_asked_for:
                losses += finite_losses(unchecked, step)
                save(step)
                saved = step
            if control.stopped_by is not None:
                break
            if evaluate is not None and is_evaluated(step, last_step, run):
                losses += finite_losses(unchecked, step)
                try:
                    is_last = evaluate(step) or is_last
                except Stopped:
                    break
            if is_last:
                break
        if saved != step:
            losses += finite_losses(unchecked, step)
            save(step)
        return Reached(step, control.stopped_by, per_second)


def is_evaluated(step, last_step, run):
    """Whether train_and_eval evaluates after a step; `last_step` is where training is to end."""
    every = run.eval_every_steps or run.save_checkpoints_steps
    return step > 0 and (step % every == 0 or step == last_step)


def _finite_losses(loss_figures, check_gradients, unchecked, step):
    """Empties a list of figures of the steps up to `step`; returns their losses: list of float, or
    of lists with one for each of several loss_figures."""
    losses = []
    for n, figures in enumerate(unchecked, start=step - len(unchecked) + 1):
        loss, *parts = (float(figures[name]) for name in loss_figures)
        norm = float(figures.get("train/unclipped_grad_norm", 0.0))
        if not math.isfinite(loss):
            raise NotFiniteError("loss", n, loss)
        if check_gradients and not math.isfinite(norm):
            raise NotFiniteError("norm of the gradients", n, norm)
        losses.append([loss, *parts] if parts else loss)
    unchecked.clear()
    return losses
