# SPDX-License-Identifier: Apache-2.0
"""The batches of a file of rows, which the SDK streams to the device.

The workers of a cluster import this module, so it only needs NumPy, safetensors and PyTorch.
"""

import cerebras.pytorch.distributed as distributed
import torch

from common.cs.job import read_rows


def make_loader(path):
    """Returns a torch DataLoader of the rows in a file: dicts of their `batch`, as tensors.

    The SDK calls this on every worker. If several systems share a batch, the worker of each system
    provides its part of the rows.
    """
    rows = read_rows(path)
    part = part_of_worker(rows)

    def batch_of(step):
        return {name: torch.from_numpy(array) for name, array in rows.batch(step, part).items()}

    return torch.utils.data.DataLoader(range(rows.num_steps), batch_size=None, collate_fn=batch_of)


def part_of_worker(rows):
    """Returns the slice of each batch that this worker streams; all of it where it compiles."""
    if not distributed.is_streamer():
        return slice(None)
    ordinals = sorted(distributed.service_resolver().streamer_ordinals())
    sizes = [distributed.get_streaming_batch_size(rows.batch_size, rank) for rank in ordinals]
    rank = distributed.get_streaming_rank()
    start = sum(sizes[:rank])
    return slice(start, start + sizes[rank])
