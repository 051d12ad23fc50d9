# SPDX-License-Identifier: Apache-2.0
"""How a CPU's cores share the work: `runconfig.num_streams`.

With one stream all cores compute one matrix product after another. With several, products run at
the same time on fewer cores each, which is faster for the small products of short rows: in training
those of several parts of a batch, in evaluation those of several batches. Each part of a batch has
its own operations in the training programs, which then take twice as long to trace. That pays in
long runs only, so the default is 1 (figures in benchmarks/NOTES.md).
"""

import contextlib
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import tensorflow as tf

from common.platform.machine import gpus_of, num_cores


def take_streams(run):
    """Divides the cores among the streams. Call it before TensorFlow computes anything.

    If the user has set TF_NUM_INTRAOP_THREADS, that number of threads stays. Returns the number of
    streams: that of RunParams, but no more than there are cores, and 1 on a GPU or several devices.
    """
    if run.num_streams == 1 or run.is_distributed or gpus_of(run.device):
        return 1
    cores = num_cores()
    streams = min(run.num_streams, cores)
    if streams > 1 and "TF_NUM_INTRAOP_THREADS" not in os.environ:
        with contextlib.suppress(RuntimeError):  # it has computed before, and keeps its threads
            tf.config.threading.set_intra_op_parallelism_threads(cores // streams)
    return streams


def in_streams(function, elements, num_streams):
    """Yields function(*element) for each element, in order, computing `num_streams` at a time."""
    if num_streams == 1:
        yield from (function(*element) for element in elements)
        return
    # What `with tf.device` has set, which holds for this thread only.
    device = tf.zeros([]).device

    def on_device(*element):
        with tf.device(device):
            return function(*element)

    with ThreadPoolExecutor(num_streams) as threads:
        results = deque()
        for element in elements:
            results.append(threads.submit(on_device, *element))
            if len(results) > num_streams:  # one element waits for the next free thread
                yield results.popleft().result()
        yield from (each.result() for each in results)
