# SPDX-License-Identifier: Apache-2.0
"""Training on several devices or machines.

A run has workers (processes, see `cluster.py`), and a worker has replicas (devices). Every replica
holds a network and an optimizer as plain variables, and computes the gradients of its rows of the
batch. An all-reduce takes their mean, with which every replica makes the same update. Weights are
therefore never exchanged, and a single device is the case of one replica.
"""

import contextlib
import dataclasses
import os
import re
import signal
import threading

import numpy as np
import tensorflow as tf

from common.console import log
from common.errors import RunError, UserError
from common.training.cluster import ALONE


class Distribution:
    """The processes and devices of a run; by default one process and one device.

    strategy: tf.distribute.Strategy, or None where there is one replica in all.
    """

    def __init__(self, strategy=None, cluster=ALONE):
        self.strategy, self.cluster = strategy, cluster
        self.worker, self.num_workers = cluster.worker, cluster.num_workers
        self.is_chief = cluster.is_chief
        # Names of this worker's devices, one for each replica; None is the default device.
        self.devices = [None] if strategy is None else list(strategy.extended.worker_devices)
        self.num_replicas = self.num_workers * len(self.devices)
        self._sum_of_workers = tf.function(self._sum_of_workers, autograph=False)

    @property
    def description(self):
        """A clause on the devices that share a batch; empty for one device."""
        if self.num_replicas == 1:
            return ""
        kind = self.devices[0].split(":")[-2]  # a name ends in its type and number
        devices = f"{len(self.devices)} x {kind}"
        if self.num_workers == 1:
            return f"; shared by {devices}"
        return f"; shared by {self.num_workers} workers with {devices} each"

    def check_batch_size(self, batch_size):
        """Raises UserError unless all replicas get the same number of rows."""
        if batch_size % self.num_replicas:
            workers = f"{self.num_workers} workers of " if self.num_workers > 1 else ""
            raise UserError(
                f"train_input.batch_size is {batch_size}, the rows of a batch over all devices; "
                f"{workers}{len(self.devices)} devices cannot share them equally. Write a multiple "
                f"of {self.num_replicas}"
            )

    # ---- a training step -------------------------------------------------------------------------

    def shard(self, batches):
        """Returns Batches with this worker's rows of every batch, in the order of the replicas."""
        if self.num_workers == 1:
            return batches
        size = batches.batch_size // self.num_workers
        first = self.worker * size

        def take(*batch):
            return tf.nest.map_structure(lambda tensor: tensor[first : first + size], batch)

        with tf.device("/cpu:0"):
            dataset = batches.dataset.map(take).prefetch(tf.data.AUTOTUNE)
        return dataclasses.replace(batches, dataset=dataset)

    def replicate(self, model, optimizer, build):
        """Copies the network and its training state to every device of this worker.

        build: () -> another (model, optimizer) of the same shapes, with any values. Returns
        [(model, optimizer)] of this worker's replicas.
        """
        replicas = [(model, optimizer)]
        for device in self.devices[1:]:
            with tf.device(device):
                copy, copied_optimizer = build()
            for copies, variables in (
                (copy.weights_by_name(), model.weights_by_name()),
                (copied_optimizer.state, optimizer.state),
                (copied_optimizer.averages, optimizer.averages),
            ):
                for name, variable in copies.items():
                    variable.assign(variables[name])
            copied_optimizer.learning_rate = optimizer.learning_rate
            replicas.append((copy, copied_optimizer))
        if self.num_replicas > 1:
            for number, (model, _) in enumerate(replicas, self.worker * len(self.devices)):
                model.clock.share = number
        return replicas

    def run(self, step, parts, batch=(), *rest):
        """Calls step(part, *batch, *rest) for each replica of this worker. Within a tf.function.

        parts: list, the first argument of each replica. batch: tuple of tensors or of dicts of
        them, whose rows are split among the replicas. Returns the result for the first replica.
        """
        if self.strategy is None:
            return step(parts[0], *batch, *rest)

        def on_replica():
            number = self._replica()
            shares = tf.nest.map_structure(lambda x: tf.split(x, len(parts))[number], batch)
            return step(parts[number], *shares, *rest)

        return tf.nest.map_structure(self._first, self.strategy.run(on_replica))

    def mean(self, tensors):
        """All-reduces tensors to their means, the same bits on each replica. Within `run`'s `step`.

        tensors: list of tensors or IndexedSlices. Returns list of <float32> tensors.
        """
        if self.num_replicas == 1:
            return tensors
        tensors = [tf.cast(tf.convert_to_tensor(tensor), tf.float32) for tensor in tensors]
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.MEAN, tensors)

    def _first(self, result):
        """Returns the part of this worker's first replica, of a result of all its replicas."""
        return self.strategy.experimental_local_results(result)[0]

    def _replica(self):
        """Returns the number of the replica of this worker that runs, within `run`: int."""
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        return int(tf.get_static_value(number)) - self.worker * len(self.devices)

    # ---- between the workers ---------------------------------------------------------------------

    def sum(self, array):
        """All-reduces a NumPy array to the sum over the workers, each of which must call it."""
        if self.num_workers == 1:
            return array
        with self.lost_workers_explained():
            return self._sum_of_workers(tf.constant(array)).numpy()

    def _sum_of_workers(self, tensor):
        def on_replica():
            # A copy, as the tensor from outside has no device, which all_reduce refuses.
            addend = tf.identity(tensor) if self._replica() == 0 else tf.zeros_like(tensor)
            return tf.distribute.get_replica_context().all_reduce("sum", addend)

        return self._first(self.strategy.run(on_replica))

    def _of_each_worker(self, number):
        numbers = np.zeros(self.num_workers, np.int64)
        numbers[self.worker] = number
        return self.sum(numbers)

    def broadcast(self, number):
        """Returns the chief's int or bool on every worker, each of which must call it."""
        return type(number)(self.sum(np.int64(number if self.is_chief else 0)))

    def require_same(self, what, number):
        """Raises UserError on every worker unless all give the same int, which `what` names."""
        numbers = self._of_each_worker(number)
        for worker in np.flatnonzero(numbers != numbers[0]):
            raise UserError(
                f"{what} is {numbers[worker]} for worker {worker} "
                f"({self.cluster.addresses[worker]}), and {numbers[0]} for the chief "
                f"({self.cluster.addresses[0]}); start every worker with the same command, the "
                "same params and data, and a model_dir that all of them see"
            )

    def share_requests(self, control):
        """Lets every worker obey what any of them was asked for. All have to call it."""
        if self.num_workers > 1:
            control.share(lambda counts: self.sum(np.array(counts, np.int64)))

    def barrier(self):
        """Returns once every worker has called it."""
        self.sum(np.int64(0))

    @contextlib.contextmanager
    def chief_first(self):
        """The chief finishes the block before the other workers begin it."""
        if not self.is_chief:
            self.barrier()
        yield
        if self.is_chief:
            self.barrier()

    def gather(self, array):
        """The rows that the workers give, the chief's first, on each of them. All have to call it.

        array: NumPy array [n, ...]; n may differ between workers, the rest may not.
        """
        ends = np.cumsum(self._of_each_worker(len(array)))
        gathered = np.zeros((ends[-1], *array.shape[1:]), array.dtype)
        end = ends[self.worker]
        gathered[end - len(array) : end] = array
        return self.sum(gathered)  # of each row one worker's numbers, and zeros: exact

    @contextlib.contextmanager
    def chief_only_logging(self):
        """While open, only the chief prints; what the other workers raise is printed by run.py."""
        if self.is_chief:
            yield
            return
        addresses = self.cluster.addresses
        log(
            f"Worker {self.worker} of {self.num_workers} ({addresses[self.worker]}) takes part; "
            f"worker 0 ({addresses[0]}) prints the progress"
        )
        with (
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stderr(nowhere),
            contextlib.redirect_stdout(nowhere),
        ):
            yield

    @contextlib.contextmanager
    def lost_workers_explained(self):
        """Turns TensorFlow's errors about a lost worker into a RunError."""
        try:
            yield
        except _LOST as error:
            if self.num_workers == 1:
                raise
            name = _LOST_NAME.search(error.message)
            raise RunError(
                f"another of the {self.num_workers} workers has ended or cannot be reached"
                f"{f' ({name[1]} of TF_CONFIG)' if name else ''}. Its last lines say why. "
                "Saved checkpoints are complete: start every worker again to continue from there"
            ) from error


# In "tasks are unhealthy: <name>" of the coordination service, and in an error of gRPC.
_LOST_NAME = re.compile(r"(?:unhealthy[^/]*|remote target )(/job:\w+(?:/replica:\d+)?/task:\d+)")
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
)

ONE_DEVICE = Distribution()


def make_distribution(run, cluster=ALONE):
    """Returns the Distribution that the params ask for. Call it before TensorFlow's first use.

    Raises UserError where devices are missing, or this process cannot be reached at its address.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if cluster.num_workers > 1:
        return _many_workers(run, cluster, gpus)
    if not run.enable_distributed or run.mode in ("export", "inspect"):
        return ONE_DEVICE
    if gpus:
        kind, available = "gpu", len(gpus)
    else:
        kind, available = "cpu", run.num_devices or 1
        cpu = tf.config.list_physical_devices("CPU")[0]
        parts = [tf.config.LogicalDeviceConfiguration()] * available
        tf.config.set_logical_device_configuration(cpu, parts)
    count = run.num_devices or available
    if count > available:
        raise UserError(
            f"runconfig.num_devices is {count}, and this machine has {available} GPUs; write "
            f"{available} or less, or omit it to use all"
        )
    if count == 1:
        return ONE_DEVICE
    return Distribution(tf.distribute.MirroredStrategy([f"/{kind}:{i}" for i in range(count)]))


def _many_workers(run, cluster, gpus):
    wanted = run.num_devices
    if wanted is not None and wanted > max(len(gpus), 1):
        raise UserError(
            f"runconfig.num_devices is {wanted}, and this worker has {len(gpus)} GPUs; with "
            "multiple_workers a machine without GPUs is one device: start one process for each "
            "device, or omit num_devices"
        )
    if gpus:
        tf.config.set_visible_devices(gpus[:wanted], "GPU")
    try:
        # TensorFlow reads TF_CONFIG itself, and waits here until every worker has started.
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, RuntimeError) as error:
        text = (getattr(error, "message", None) or str(error)).splitlines()[0]
        raise UserError(
            f"worker {cluster.worker} cannot join the others as {cluster.addresses[cluster.worker]}"
            f" ({text}); make sure that this is an address of this machine, that the port is free, "
            "and that every worker has the same list in its TF_CONFIG"
        ) from error
    if threading.current_thread() is threading.main_thread():
        # TensorFlow has installed a handler of SIGTERM, as a notice of preemption.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    return Distribution(strategy, cluster)
