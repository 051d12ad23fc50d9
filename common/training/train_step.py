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

    One call takes one batch. With `grad_accum_steps` N, every Nth call makes an update from the
    mean loss of N batches and returns figures; the others return None. The sums between are not
    saved, because checkpoints are written between updates only.

    Figures are {name: <float32>[]}, "train/cost_cls" among them. At steps with a summary they hold
    those of `gradient_summaries`, if the params ask for them, with its histograms as "histograms".

    Args:
        model_fn: as in `model.py`.
        params: complete Params.
        optimizer: Optimizer over the model's trainable weights, in their order.
        distribution: Distribution. Batches are this worker's share.
        build: () -> another (model, optimizer), with any values, for a worker's further devices.
        programs: ProgramLibrary, of programs for one device, or None.
    """
    num_batches = optimizer.cfg.grad_accum_steps
    replicas = []
    for device, pair in zip(
        distribution.devices, distribution.replicate(model, optimizer, build), strict=True
    ):
        with tf.device(device):
            replicas.append(Replica(model_fn, params, *pair, distribution.mean))

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
        kind = "train" if num_batches == 1 else "add"
        make = programs.maker(kind, variables_of(model, optimizer, replicas[0].sums))
    compiled = functools.partial(one_program_per_shape, after_compiling=after_compiling, make=make)

    @compiled
    def update_from(features, targets):
        """One optimizer update from one batch. targets: {name: tensor [B, ...]}."""
        return distribution.run(Replica.update_from, replicas, (features, targets))

    if num_batches == 1:

        def update(features, targets):
            set_rates()
            return with_summaries(update_from(features, targets))

        return update

    @compiled
    def add(features, targets, batch):
        """Adds one batch's share of the update. batch: <int32>[], from 0."""
        distribution.run(Replica.add, replicas, (features, targets), batch)

    @tf.function(autograph=False)
    def update_from_sums():
        return distribution.run(Replica.update_from_sums, replicas)

    num_added = 0

    def accumulate(features, targets):
        nonlocal num_added
        add(features, targets, tf.constant(num_added))
        num_added = (num_added + 1) % num_batches
        if num_added:
            return None
        set_rates()
        return with_summaries(update_from_sums())

    return accumulate


class Replica:
    """One device's part of a step, with a network and an optimizer of its own.

    mean: list of tensors -> their means over all devices.
    """

    def __init__(self, model_fn, params, model, optimizer, mean):
        self.model_fn, self.params, self.mean = model_fn, params, mean
        self.model, self.optimizer = model, optimizer
        cfg = optimizer.cfg
        self.num_batches = cfg.grad_accum_steps
        self.has_summaries = cfg.log_grads or cfg.log_hists or cfg.ws_summary
        self.sums = {}  # over the batches of an update: "loss", and each gradient by its name
        if self.num_batches > 1:
            self.sums = {
                name: tf.Variable(tf.zeros_like(w), trainable=False)
                for name, w in {"loss": tf.constant(0.0), **optimizer.weights}.items()
            }

    def update_from(self, features, targets):
        return self._update(*self._loss_and_gradients(features, targets, 0))

    def add(self, features, targets, batch):
        loss, gradients = self._loss_and_gradients(features, targets, batch)
        loss_sum, *sums = self.sums.values()
        loss_sum.assign_add(loss / self.num_batches)
        for total, gradient in zip(sums, gradients, strict=True):
            if isinstance(gradient, tf.IndexedSlices):
                total.scatter_add(gradient)
            else:
                total.assign_add(tf.cast(gradient, total.dtype))

    def update_from_sums(self):
        loss, *gradients = [tf.identity(total) for total in self.sums.values()]
        figures = self._update(loss, gradients)
        for total in self.sums.values():
            total.assign(tf.zeros_like(total))
        return figures

    def _loss_and_gradients(self, features, targets, batch):
        """batch: <int32>[], its number in the update. Returns <float32>[], list of gradients."""
        # The clock counts batches, so that each has a dropout mask of its own.
        clock = tf.cast(self.optimizer.step, tf.int32) * self.num_batches + batch
        self.model.clock.step.assign(clock)
        with tf.GradientTape() as tape:
            spec = self.model_fn(features, targets, TRAIN, self.params, self.model)
            scaled_loss = self.optimizer.scale_loss(spec.loss / self.num_batches)
        variables = [variable.value for variable in spec.trainable_variables]
        return spec.loss, tape.gradient(scaled_loss, variables)

    def _update(self, loss, gradients):
        """One update from the all-reduced means, so that every replica makes the same."""
        loss, *gradients = self.mean([loss, *gradients])
        figures = {"train/cost_cls": loss}
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
