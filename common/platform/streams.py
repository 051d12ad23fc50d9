# SPDX-License-Identifier: Apache-2.0
"""How a CPU's cores share the work: `runconfig.num_streams`.

TensorFlow puts all cores on one product after another, or computes several at the same time, which
suits the small products of short rows better: in training those of several parts of a batch, in
evaluation those of several batches. Each part has its own operations in the training programs,
which take twice as long to trace: worth it in long runs only, so 1 is the default (figures in
benchmarks/NOTES.md).
"""

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import tensorflow as tf

from common.platform.machine import gpus_of, num_cores


def take_streams(run):
    """Deals the cores to the streams. To be called before TensorFlow computes anything.

    Whoever sets TF_NUM_INTRAOP_THREADS has dealt the cores already.

    Args:
        run: RunParams.
    Returns:
        int, `run.num_streams` or less: 1 where the work is not the CPU's or is shared by several
        devices, and no more than there are cores.
    """
    is_shared = run.enable_distributed or run.multiple_workers
    if run.num_streams == 1 or is_shared or gpus_of(run.device):
        return 1
    cores = num_cores()
    streams = min(run.num_streams, cores)
    if streams > 1 and "TF_NUM_INTRAOP_THREADS" not in os.environ:
        tf.config.threading.set_intra_op_parallelism_threads(cores // streams)
    return streams


def in_streams(function, elements, num_streams):
    """Yields function(*element) of each element, in their order, so many computed at a time."""
    if num_streams == 1:
        yield from (function(*element) for element in elements)
        return
    # Of `with tf.device`, which other threads are not in.
    device = tf.distribute.get_replica_context().devices[0]

    def on_device(*element):
        with tf.device(device or None):
            return function(*element)

    with ThreadPoolExecutor(num_streams) as threads:
        begun = deque()
        for element in elements:
            begun.append(threads.submit(on_device, *element))
            if len(begun) > num_streams:  # one waits for the next thread that is free
                yield begun.popleft().result()
        yield from (each.result() for each in begun)
