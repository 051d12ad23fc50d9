# SPDX-License-Identifier: Apache-2.0
"""How a CPU's cores share a batch: `runconfig.num_streams`.

TensorFlow puts all cores on one product after another, or computes the products of several parts of
a batch at the same time, which suits the small products of short rows better. Each part has its own
operations in the programs, which take twice as long to trace: worth it in long runs only, so 1 is
the default (figures in benchmarks/NOTES.md).
"""

import os

import tensorflow as tf


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


def gpus_of(device):
    """The GPUs that a run on `device` (None: the default) may take: tf.config.PhysicalDevices."""
    if device is not None and "cpu" in device.lower():
        return []
    return tf.config.list_physical_devices("GPU")


def num_cores():
    """Of those that this process may run on: as many as TensorFlow runs operations at once."""
    given = int(os.environ.get("TF_NUM_INTEROP_THREADS") or 0)
    return given or len(os.sched_getaffinity(0))
