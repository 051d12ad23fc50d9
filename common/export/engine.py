# SPDX-License-Identifier: Apache-2.0
"""What runs an exported file: for the server, for a prediction in bulk, and to score an export."""

import numpy as np


class Engine:
    """A network in a file.

    path: Path of what it reads. num_streams: int, how many threads may call `run` at a time; each
    call then has its share of the cores.
    """

    title: str  # what computes, for people
    max_rows: int | None = None  # the most rows of a call

    def __init__(self, path, num_streams=1):
        self.path, self.num_streams = path, num_streams

    def run(self, features):
        """Returns {name: <float32> array [M, ...]}.

        features: {"input_ids", "input_mask", "segment_ids": <int32> array [M, T]}.
        """
        raise NotImplementedError


def run_batch(engine, features, is_mask_inverted):
    """Returns what an Engine says of a batch, {name: array [B, ...]}, in calls of its `max_rows`.

    Each such call is of rows without the padding that all of them have; where the network answers
    for tokens, zeros stand in its place.

    features: {name: <int32> array [B, T]}. is_mask_inverted: bool, input_mask is 1 on padding.
    """
    num_rows = len(features["input_ids"])
    size = engine.max_rows or num_rows
    if size >= num_rows:
        return engine.run(features)
    is_token = (features["input_mask"] == 0) == is_mask_inverted
    lengths = np.maximum(is_token.sum(axis=1), 1)
    parts = []
    for first in range(0, num_rows, size):
        rows = slice(first, first + size)
        length = lengths[rows].max()
        parts.append(engine.run({name: each[rows, :length] for name, each in features.items()}))
    return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def _joined(parts):
    """Concatenates arrays [M, ...], or [M, T, ...] with T of each part."""
    if len({part.shape[1:] for part in parts}) > 1:
        longest = max(part.shape[1] for part in parts)
        parts = [
            np.pad(part, [(0, 0), (0, longest - part.shape[1]), *[(0, 0)] * (part.ndim - 2)])
            for part in parts
        ]
    return np.concatenate(parts)
