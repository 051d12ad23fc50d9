# SPDX-License-Identifier: Apache-2.0
"""How long a training is: epochs to steps, and the schedule of its learning rate over them.

`open_session` resolves it once, so that training, `--validate_only`, `--compile_only` and the CS
target read steps and schedules alone, and a checkpoint is resumed with the same ones.
"""

import math

from common.console import counted
from common.errors import UserError
from common.optimizers.schedules import notes_on_schedule, with_end

EPOCH = "epoch"  # of eval_every_steps
# A training of more epochs than FEW_EPOCHS has at least MIN_STEPS between two evaluations: where a
# few rows are learned by heart, an epoch is a step, and an evaluation takes longer than that.
FEW_EPOCHS, MIN_STEPS = 20, 10


def depends_on_rows(params):
    """Whether `resolve_length` needs to know how many batches an epoch has."""
    run = params.runconfig
    has_epochs = run.num_epochs is not None or run.eval_every_steps == EPOCH
    return has_epochs or (params.optimizer.needs_end and not params.train_input.repeat)


def resolve_length(params, num_batches):
    """The same params with `max_steps` in place of `num_epochs`, schedules in place of
    `warmup_ratio` and `decay`, and steps in place of `eval_every_steps: epoch`.

    Where the length is not known (nothing is trained then, or `last_step_of` refuses, or the speed
    is still to be measured: `budget.py`), num_epochs and max_seconds stay, and the rate is the
    number.

    num_batches: int, whole batches of an epoch; None where `depends_on_rows` is false, or the rows
    could not be read.
    """
    run, accumulation = params.runconfig, params.optimizer.accumulation
    max_steps, most = run.max_steps, None
    if num_batches is not None:
        if not params.train_input.repeat:
            most = max(1, accumulation.whole_steps(0, num_batches))
        if run.num_epochs is not None:
            steps = round(accumulation.steps(run.num_epochs * num_batches))
            max_steps = max(1, steps if most is None else min(steps, most))
            params = params.with_runconfig(num_epochs=None, max_steps=max_steps)
        if run.eval_every_steps == EPOCH:
            every = _steps_of_epochs(accumulation, num_batches, max_steps)
            params = params.with_runconfig(eval_every_steps=every)
    end = max_steps if max_steps is None or most is None else min(max_steps, most)
    return params.model_copy(update={"optimizer": with_end(params.optimizer, end)})


def _steps_of_epochs(accumulation, num_batches, max_steps):
    """Returns the steps between evaluations for `eval_every_steps: epoch`: those of an epoch, or of
    as many whole ones as FEW_EPOCHS and MIN_STEPS ask for. max_steps: int, or None if not known."""
    is_short = max_steps is not None and accumulation.batches(max_steps) <= FEW_EPOCHS * num_batches
    least = 1 if is_short else MIN_STEPS
    epochs = max(1, math.ceil(accumulation.batches(least) / max(1, num_batches)))
    # Rounded up: otherwise the evaluation at the last step would follow another at once.
    return max(1, math.ceil(accumulation.steps(epochs * num_batches)))


def notes_on_evaluations(given, resolved, num_batches):
    """Returns a note where `eval_every_steps: epoch` leaves epochs out: list of str.

    given, resolved: Params before and after `resolve_length`. num_batches: as there.
    """
    if given.runconfig.eval_every_steps != EPOCH or num_batches is None:
        return []
    every, accumulation = resolved.runconfig.eval_every_steps, given.optimizer.accumulation
    of_epoch = max(1, math.ceil(accumulation.steps(num_batches)))
    if every <= of_epoch:
        return []
    return [
        f"An epoch has {counted(of_epoch, 'step')}: evaluations come {every} steps apart, not "
        "after each of many epochs; runconfig.eval_every_steps sets another number"
    ]


def budget_of(max_seconds, max_steps):
    """What a checkpoint keeps of a budget: dict."""
    return {"max_seconds": max_seconds, "max_steps": max_steps}


def with_former_budget(params, checkpoint):
    """The same params with the max_steps that a resumed run's max_seconds amounted to.

    With other max_seconds, in proportion: the speed is the one that was measured.

    Returns params; the budget to keep on, dict or None. checkpoint: Checkpoint that is resumed.
    """
    budget, seconds = checkpoint.config.get("budget"), params.runconfig.max_seconds
    if seconds is None:
        return params, budget
    if budget is None:
        raise UserError(
            f"runconfig.max_seconds is {seconds:g}, but {checkpoint.path} was begun without it, so "
            "how many steps that is was not measured; give --max_steps, as params.yaml beside it "
            "does, or choose another --model_dir"
        )
    accumulation = params.optimizer.accumulation
    batches = accumulation.batches(budget["max_steps"]) * (seconds / budget["max_seconds"])
    steps = max(1, round(accumulation.steps(batches)))
    return params.with_runconfig(max_seconds=None, max_steps=steps), budget_of(seconds, steps)


def check_end(params):
    """Raises UserError where the learning rate falls until an end that the params do not say."""
    run = params.runconfig
    if params.optimizer.needs_end and run.steps and not run.has_end:
        raise UserError(
            "the learning rate rises and falls over the whole training (optimizer.warmup_ratio and "
            "decay, which a file without an optimizer section has, too), and --steps says how many "
            "steps more, not where training ends; give --num_epochs, --max_steps or "
            "--max_seconds, or write "
            "optimizer.decay: constant without warmup_ratio"
        )


def last_step_of(run, first_step):
    """Returns the step to train to. Raises UserError where RunParams `run` do not say."""
    goals = []
    if run.steps is not None and run.mode != "train_and_eval":
        goals.append(first_step + run.steps)
    if run.max_steps is not None:
        goals.append(run.max_steps)
    if not goals:
        or_steps = "" if run.mode == "train_and_eval" else ", or --steps (how many more)"
        raise UserError(
            "the length of training is missing: give --num_epochs (passes over the rows) or "
            f"--max_steps (the step to reach) or --max_seconds{or_steps}, or the key of that name "
            "in runconfig"
        )
    return min(goals)


def notes_on_length(params, last_step):
    """`notes_on_schedule` of a training to last_step, or to max_steps if it goes there in parts."""
    is_part = params.runconfig.max_steps is not None and params.train_input.repeat
    end = params.runconfig.max_steps if is_part else last_step
    return notes_on_schedule(params.optimizer, end)


def describe_length(last_step, num_batches, accumulation):
    """Returns "3,156 steps = 3.0 epochs of 1,052 steps", of a training from step 0 to last_step.

    num_batches: int, whole batches of an epoch. accumulation: Accumulation.
    """
    epochs = accumulation.batches(last_step) / num_batches
    shown = f"{epochs:,.2f}".removesuffix("0") if epochs >= 0.1 else f"{epochs:.2g}"
    if not accumulation.is_constant:
        of_epoch = counted(num_batches, "batch", "batches")
        return f"{counted(last_step, 'step')} = {shown} epochs of {of_epoch}"
    of_epoch = num_batches / accumulation.at(0)
    of_epoch = int(of_epoch) if of_epoch.is_integer() else round(of_epoch, 2)
    return f"{counted(last_step, 'step')} = {shown} epochs of {counted(of_epoch, 'step')}"
