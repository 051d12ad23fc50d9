# SPDX-License-Identifier: Apache-2.0
"""The batches of a file of rows, which the SDK streams to the device.

The workers of a cluster import this module, so it only needs NumPy, safetensors and PyTorch.
"""

import cerebras.pytorch.distributed as distributed
import torch

from common.cs.rows import Rows


class RowBatches(torch.utils.data.IterableDataset):
    """Batches of Rows: dicts of `Rows.batch`, as tensors.

    If several systems share a batch, the worker of each system provides its part of the rows.
    """

    def __init__(self, rows, part=slice(None)):
        self.rows = rows
        self.part = part

    def __len__(self):
        return self.rows.num_steps

    def __iter__(self):
        for step in range(self.rows.num_steps):
            batch = self.rows.batch(step, self.part)
            yield {name: torch.from_numpy(array) for name, array in batch.items()}


def make_loader(path):
    """Returns a torch DataLoader of the rows in a file. The SDK calls this on every worker."""
    rows = Rows.read(path)
    return torch.utils.data.DataLoader(RowBatches(rows, part_of_worker(rows)), batch_size=None)


def part_of_worker(rows):
    """Returns the slice of each batch that this worker streams; all of it where it compiles."""
    if not distributed.is_streamer():
        return slice(None)
    ordinals = sorted(distributed.service_resolver().streamer_ordinals())
    sizes = [distributed.get_streaming_batch_size(rows.batch_size, rank) for rank in ordinals]
    rank = distributed.get_streaming_rank()
    start = sum(sizes[:rank])
    return slice(start, start + sizes[rank])
