# SPDX-License-Identifier: Apache-2.0
"""One training step as TensorFlow programs: loss, gradients, update. `loop.py` calls it."""

import functools
import threading

import tensorflow as tf

from common.BaseModel import TRAIN
from common.optimizers.summaries import gradient_summaries
from common.platform.kept_programs import variables_of
from common.platform.program_bytes import trace
from common.platform.tf_private import optimizing_once
from common.signals import poll
from common.training.distribution import ONE_DEVICE


def one_program_per_shape(step, after_compiling=None, make=None):
    """Compiles a step into one TensorFlow program for every shape of its features.

    A single tf.function would warn at every new shape, and could relax to unknown lengths, which
    cannot be compiled ahead.

    Args:
        step: (features, ...) -> tensors.
        after_compiling: called before a new program runs for the first time; or None.
        make: of a ProgramLibrary; or None: nothing is loaded or kept.
    """
    programs = {}
    tracing = threading.Lock()

    @functools.wraps(step)
    def run(*arguments):
        shape = tuple(tuple(feature.shape) for feature in arguments[0].values())
        with tracing:  # the threads of an evaluation in streams ask at the same time
            if shape not in programs:
                program = trace(step, arguments) if make is None else make(step, *arguments)
                if after_compiling is not None:
                    after_compiling()
                programs[shape] = program
        with optimizing_once():
            return programs[shape](*arguments)

    return run


def make_train_step(
    model_fn, params, model, optimizer, distribution=ONE_DEVICE, build=None, programs=None
):
    """Returns train_step(features, targets) -> figures.

    One call takes one batch. Where an update is of N batches, every Nth call makes it from their
    mean loss and returns figures; the others return None. N may grow with the step (Accumulation);
    one program adds a batch, whatever N is. The sums between are not saved, because checkpoints are
    written between updates only. The step at the first call is where the training begins.

    Figures are {name: <float32>[]}, the model's `loss_figures` first. At steps with a summary they
    hold those of `gradient_summaries`, if the params ask for them, with its histograms as
    "histograms".

    Args:
        model_fn: as in `model.py`.
        params: complete Params.
        optimizer: Optimizer over the model's trainable weights, in their order.
        distribution: Distribution. Batches are this worker's share.
        build: () -> another (model, optimizer), with any values, for a worker's further devices.
        programs: ProgramLibrary, of programs for one device, or None.
    """
    accumulation = optimizer.cfg.accumulation
    replicas = []
    for device, pair in zip(
        distribution.devices, distribution.replicate(model, optimizer, build), strict=True
    ):
        with tf.device(device):
            mean = distribution.mean
            replicas.append(Replica(model_fn, params, *pair, mean, distribution.num_replicas == 1))

    def with_summaries(figures):
        if "summaries" in figures:
            scalars, histograms = figures.pop("summaries")
            if int(optimizer.step) % params.runconfig.save_summary_steps == 0:
                figures |= scalars | ({"histograms": histograms} if histograms else {})
        return figures

    @tf.function(autograph=False)
    def set_rates():
        for replica in replicas:
            replica.optimizer.set_rate()

    # With several workers, one that stops by itself would leave the others waiting.
    after_compiling = poll if distribution.num_workers == 1 else None
    make = None
    if programs is not None and distribution.num_replicas == 1:
        kind = "train" if accumulation.is_single else "add"
        make = programs.maker(kind, variables_of(model, optimizer, replicas[0].sums))
    compiled = functools.partial(one_program_per_shape, after_compiling=after_compiling, make=make)

    @compiled
    def update_from(features, targets):
        """One optimizer update from one batch. targets: {name: tensor [B, ...]}."""
        return distribution.run(Replica.update_from, replicas, (features, targets))

    if accumulation.is_single:

        def update(features, targets):
            set_rates()
            return with_summaries(update_from(features, targets))

        return update

    @compiled
    def add(features, targets, batch, num_batches):
        """Adds one batch's share of the update. Arguments: as of `Replica.add`."""
        distribution.run(Replica.add, replicas, (features, targets), batch, num_batches)

    @tf.function(autograph=False)
    def update_from_sums():
        return distribution.run(Replica.update_from_sums, replicas)

    step, num_added = None, 0

    def accumulate(features, targets):
        nonlocal step, num_added
        if step is None:  # counted here: to read it at each call would wait for the update
            step = int(optimizer.step)
        num_batches, batch = accumulation.at(step), accumulation.batches(step) + num_added
        # The clock of dropout is of 32 bits, and may begin again.
        add(features, targets, tf.constant(batch % 2**31), tf.constant(num_batches))
        num_added = (num_added + 1) % num_batches
        if num_added:
            return None
        step += 1
        set_rates()
        return with_summaries(update_from_sums())

    return accumulate


class Replica:
    """One device's part of a step, with a network and an optimizer of its own.

    mean: list of tensors -> their means over all devices. is_alone: bool, whether there is one.
    """

    def __init__(self, model_fn, params, model, optimizer, mean, is_alone=True):
        self.model_fn, self.params, self.mean = model_fn, params, mean
        self.is_alone = is_alone
        self.model, self.optimizer = model, optimizer
        cfg = optimizer.cfg
        self.has_summaries = cfg.log_grads or cfg.log_hists or cfg.ws_summary
        self.sums = {}  # over the batches of an update: losses and gradients by their names
        if not cfg.accumulation.is_single:
            losses = dict.fromkeys(model.loss_figures, tf.constant(0.0))
            self.sums = {
                name: tf.Variable(tf.zeros_like(w), trainable=False)
                for name, w in {**losses, **optimizer.weights}.items()
            }

    def update_from(self, features, targets):
        batch = tf.cast(self.optimizer.step, tf.int32)
        return self._update(*self._losses_and_gradients(features, targets, batch, 1.0))

    def add(self, features, targets, batch, num_batches):
        """Adds a batch to the sums. batch: <int32>[], its number in the training, from 0.
        num_batches: <int32>[], of the update."""
        num_batches = tf.cast(num_batches, tf.float32)
        losses, gradients = self._losses_and_gradients(features, targets, batch, num_batches)
        sums = list(self.sums.values())
        for total, loss in zip(sums, losses, strict=False):
            total.assign_add(loss / num_batches)
        sums = sums[len(losses) :]
        for total, gradient in zip(sums, gradients, strict=True):
            if isinstance(gradient, tf.IndexedSlices):
                total.scatter_add(gradient)
            else:
                total.assign_add(tf.cast(gradient, total.dtype))

    def update_from_sums(self):
        totals = [tf.identity(total) for total in self.sums.values()]
        num_losses = len(self.model.loss_figures)
        figures = self._update(totals[:num_losses], totals[num_losses:])
        for total in self.sums.values():
            total.assign(tf.zeros_like(total))
        return figures

    def _losses_and_gradients(self, features, targets, batch, num_batches):
        """batch: <int32>[], its number in the training. num_batches: <float32>[], of the update.
        Returns <float32>[] of each of the model's `loss_figures`, and list of gradients."""
        # The clock counts batches, so that each has a dropout mask of its own.
        self.model.clock.step.assign(batch)
        share = None if self.is_alone else self.model.loss_share(targets)
        with tf.GradientTape() as tape:
            spec = self.model_fn(features, targets, TRAIN, self.params, self.model)
            loss, losses = spec.loss, spec.losses
            if share is not None:  # so that the mean over devices is that over what they share
                factor = tf.math.divide_no_nan(share, self.mean([share])[0])
                loss, losses = loss * factor, [each * factor for each in losses]
            scaled_loss = self.optimizer.scale_loss(loss / num_batches)
        variables = [variable.value for variable in spec.trainable_variables]
        return losses, tape.gradient(scaled_loss, variables)

    def _update(self, losses, gradients):
        """One update from the all-reduced means, so that every replica makes the same."""
        means, names = self.mean([*losses, *gradients]), self.model.loss_figures
        figures, gradients = dict(zip(names, means, strict=False)), means[len(names) :]
        if self.has_summaries:
            gradients = [tf.cast(tf.convert_to_tensor(each), tf.float32) for each in gradients]
            figures["summaries"] = self._summaries(gradients)
        rate = self.optimizer.rate.read_value()
        return {**figures, **self.optimizer.apply(gradients, rate)}

    def _summaries(self, gradients):
        """Computed at steps with a summary only; zeros at the others."""
        optimizer, policy = self.optimizer, self.params.model.dtype_policy
        gradients = dict(zip(optimizer.weights, gradients, strict=True))
        computed = None

        def compute():
            nonlocal computed
            computed = gradient_summaries(gradients, optimizer.weights, optimizer.cfg, policy)
            return computed

        def leave_out():  # traced after `compute`
            return tf.nest.map_structure(lambda x: tf.zeros(x.shape, x.dtype), computed)

        every = self.params.runconfig.save_summary_steps
        return tf.cond((optimizer.step + 1) % every == 0, compute, leave_out)
