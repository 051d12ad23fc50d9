# SPDX-License-Identifier: Apache-2.0
"""`runconfig.max_seconds`: as many steps as fit into so many seconds of training.

The speed is measured once, on steps of a network that is then thrown away, so that a run with
max_seconds is in every bit the run with the max_steps that come out. The number is kept in every
checkpoint, and a resumed run takes it from there.
"""

import contextlib
import dataclasses
import gc
import time

import numpy as np

from common.checkpoints.load import load_weights
from common.console import counted
from common.errors import UserError
from common.optimizers.factory import optimizer_of
from common.platform.machine import gpus_of
from common.signals import poll
from common.training.checks import check_plan_size, set_up
from common.training.length import budget_of, resolve_length
from common.training.steps_ahead import StepsAhead
from common.training.train_step import make_train_step

MAX_SECONDS = 30.0  # to measure
SHARE = 0.02  # of the budget, to measure; less where MAX_SECONDS are reached first
MIN_UPDATES = 10  # measured, unless they take FEW_SHARE of the budget; then MIN_SLOW_UPDATES
FEW_SHARE, MIN_SLOW_UPDATES = 0.1, 3
MAX_UPDATES = 2000  # batches are planned for so many
NUM_PARTS = 5  # of the updates; their median rate counts, so that two slow parts change nothing


def within_budget(session, new_model, listeners, programs=None, make_step=make_train_step):
    """The Session with max_steps and schedules in the place of max_seconds; told to listeners.

    The same Session where the length is known.

    new_model: () -> a network as the training begins with. programs, make_step: as of Trainer.
    """
    seconds = session.run.max_seconds
    if seconds is None:
        return session
    per_update, num_updates = measure(session, new_model(), programs, make_step)
    gc.collect()  # the measured network: the one to train takes its memory
    set_up(session.run)  # fresh weights are drawn as if nothing had been drawn before
    accumulation = session.params.optimizer.accumulation
    num_batches = seconds / per_update * accumulation.at(0)
    steps = session.distribution.broadcast(max(1, accumulation.whole_steps(0, num_batches)))
    of_first = "" if accumulation.is_constant else ", the first"
    listeners.on_message(
        f"max_seconds {seconds:g}: {counted(steps, 'step')}{of_first} of {per_update:.3g} s, "
        "measured on "
        f"{counted(num_updates, 'step')} that are not part of the training"
    )
    update = {"optimizer": session.before_length.optimizer}
    params = session.params.model_copy(update=update)
    params = resolve_length(params.with_runconfig(max_seconds=None, max_steps=steps), None)
    check_plan_size(params)
    return dataclasses.replace(session, params=params, budget=budget_of(seconds, steps))


def measure(session, model, programs=None, make_step=make_train_step, clock=time.monotonic):
    """Trains a network for a while. Returns the seconds of an update; how many were measured.

    The first update of each shape of batches, in which its program is compiled, and the one after
    it do not count. Waiting for input does.
    """
    params, run, distribution = session.params, session.run, session.distribution
    if session.pretrained is not None:
        load_weights(model, session.pretrained, model.ignores_head)
    optimizer = optimizer_of(model, params)
    batches = session.data.train_input_fn(params, 0, MAX_UPDATES)
    model.prepare_training(batches.targets, batches.token_counts)

    def build():
        another = session.new_model()
        another.prepare_training(batches.targets)
        return another, optimizer_of(another, params)

    of_one = session.model_fn, params, model, optimizer
    step = make_step(*of_one, distribution, build, programs)
    is_ahead = distribution.num_replicas == 1 and not gpus_of(run.device)
    ahead = StepsAhead(step) if is_ahead else contextlib.nullcontext(step)
    times, shapes, num_left_out = [], set(), 0
    with ahead as train_step:
        last, is_new, was_new = clock(), False, False
        for features, targets in distribution.shard(batches):
            poll()
            shape = tuple(tuple(each.shape) for each in features.values())
            is_new |= shape not in shapes
            shapes.add(shape)
            figures = train_step(features, targets)
            if figures is None:  # the update needs more batches
                continue
            if not is_ahead:
                float(figures[model.loss_figures[0]])  # waits for the update
            now = clock()
            if is_new or was_new:
                num_left_out += 1
            else:
                times.append(now - last)
            last, is_new, was_new = now, False, is_new
            if distribution.broadcast(is_enough(times, run.max_seconds)):
                break
    if not times:
        raise UserError(
            f"runconfig.max_seconds is {run.max_seconds:g}, and none of {num_left_out} updates "
            "could be measured, as each had a shape of its own; give max_steps"
        )
    return median_of_parts(times), len(times)


def is_enough(times, max_seconds):
    """Whether the seconds of so many updates say how long one takes. times: list of float."""
    total = sum(times)
    if len(times) >= MIN_SLOW_UPDATES and total >= FEW_SHARE * max_seconds:
        return True
    return len(times) >= MIN_UPDATES and total >= min(MAX_SECONDS, SHARE * max_seconds)


def median_of_parts(times):
    """Returns the seconds of an update: the median over NUM_PARTS parts, in order, of their means.

    So lengths of batches are averaged within a part, and a pause of the machine does not count.
    """
    parts = np.array_split(np.array(times), min(NUM_PARTS, len(times)))
    return float(np.median([part.mean() for part in parts]))
