# SPDX-License-Identifier: Apache-2.0
"""What the SDK streams to the device: batches of a file of rows.

On a cluster its workers import this module, so it needs nothing but NumPy, safetensors and PyTorch.
"""

import cerebras.pytorch.distributed as distributed
import torch

from common.cs.rows import Rows

FEATURES = ("input_ids", "padding_mask", "segment_ids")


class RowBatches(torch.utils.data.IterableDataset):
    """Batches of Rows: dicts of `Rows.batch`, as tensors.

    Where several systems share a batch, the worker of each gives its part of the rows.
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
    """Returns a torch DataLoader of the rows in a file; the SDK calls it on every worker."""
    rows = Rows.read(path)
    return torch.utils.data.DataLoader(RowBatches(rows, part_of_worker(rows)), batch_size=None)


def part_of_worker(rows):
    """Which rows of each batch this worker streams: all of them on the machine that compiles."""
    if not distributed.is_streamer():
        return slice(None)
    ordinals = sorted(distributed.service_resolver().streamer_ordinals())
    sizes = [distributed.get_streaming_batch_size(rows.batch_size, rank) for rank in ordinals]
    rank = distributed.get_streaming_rank()
    start = sum(sizes[:rank])
    return slice(start, start + sizes[rank])
