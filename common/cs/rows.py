# SPDX-License-Identifier: Apache-2.0
"""Rows of the input pipeline, and their batches of one static length, in NumPy.

The main environment reads and tokenises rows (`prepare.py`) and writes them to a file, which the
SDK's environment and the workers of a cluster read without TensorFlow.
"""

from dataclasses import dataclass

import numpy as np
from safetensors.numpy import load_file, save_file

ARRAYS = ("ids", "segments", "offsets", "plan")
TARGETS = "targets/"  # prefix of their names in the file


@dataclass(frozen=True)
class Rows:
    """The rows of a split that a run needs, and the rows of each batch."""

    ids: np.ndarray  # int32 [sum of lengths], row after row, without padding
    segments: np.ndarray  # uint8 [sum of lengths]
    offsets: np.ndarray  # int64 [R + 1], the start of each row
    plan: np.ndarray  # int32 [steps, B], indices of rows here; -1 fills up a batch
    targets: dict[str, np.ndarray]  # {name: [R, ...]}, as in `input.batches.Batches`
    pad_id: int
    num_tokens: int  # T, the static length

    @property
    def num_steps(self):
        return len(self.plan)

    @property
    def batch_size(self):
        return self.plan.shape[1]

    def batch(self, step, part=slice(None)):
        """Returns one batch, or a part of its rows: {"input_ids", "padding_mask", "segment_ids"}:
        int32 [B, T], padding_mask 1 on real tokens; and the targets [B, ...].

        Row 0 fills up a batch, as in `input/batches.py`.
        """
        places = np.maximum(self.plan[step][part], 0)
        shape = (len(places), self.num_tokens)
        input_ids, mask, segment_ids = (np.zeros(shape, np.int32) for _ in range(3))
        input_ids[:] = self.pad_id
        for i, place in enumerate(places):
            start, end = self.offsets[place : place + 2]
            input_ids[i, : end - start] = self.ids[start:end]
            segment_ids[i, : end - start] = self.segments[start:end]
            mask[i, : end - start] = 1
        features = {"input_ids": input_ids, "padding_mask": mask, "segment_ids": segment_ids}
        return features | {name: array[places] for name, array in self.targets.items()}

    def numbers(self, step):
        """Returns int32 [B], the number of each row of a batch here; -1 on filler."""
        return self.plan[step]

    def write(self, path):
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in ARRAYS}
        arrays |= {TARGETS + name: array for name, array in self.targets.items()}
        sizes = {"sizes": np.array([self.pad_id, self.num_tokens])}
        save_file(arrays | sizes, path)

    @classmethod
    def read(cls, path):
        arrays = load_file(path)
        targets = {
            name.removeprefix(TARGETS): array
            for name, array in arrays.items()
            if name.startswith(TARGETS)
        }
        return cls(*(arrays[name] for name in ARRAYS), targets, *map(int, arrays["sizes"]))


def rows_of_zeros(batch_size, num_tokens):
    """Returns Rows of one batch with one token per row, for a program that needs only shapes."""
    return Rows(
        ids=np.zeros(1, np.int32),
        segments=np.zeros(1, np.uint8),
        offsets=np.array([0, 1]),
        plan=np.zeros((1, batch_size), np.int32),
        targets={"labels": np.zeros(1, np.int32)},
        pad_id=0,
        num_tokens=num_tokens,
    )


def collect_rows(batches, num_tokens, pad_id, is_padding_1):
    """Returns the Rows of some batches, each collected once from the input pipeline.

    Args:
        batches: `input.batches.Batches`, of one length.
        num_tokens, pad_id: int, of Rows.
        is_padding_1: bool. Whether `input_mask` is 1 on padding; otherwise it is 1 on tokens.
    """
    numbers = np.unique(batches.rows[batches.rows >= 0])
    places = np.searchsorted(numbers, np.maximum(batches.rows, 0))
    plan = np.where(batches.rows >= 0, places, -1).astype(np.int32)
    ids, segments = ([None] * len(numbers) for _ in range(2))
    num_missing = len(numbers)
    for step, (features, *_) in enumerate(batches):
        if num_missing == 0:  # later epochs have the same rows
            break
        input_ids, mask, segment_ids = (
            np.asarray(features[name]) for name in ("input_ids", "input_mask", "segment_ids")
        )
        lengths = (mask == (0 if is_padding_1 else 1)).sum(axis=1)
        for i, place in enumerate(plan[step]):
            if place >= 0 and ids[place] is None:
                ids[place] = input_ids[i, : lengths[i]]
                segments[place] = segment_ids[i, : lengths[i]].astype(np.uint8)
                num_missing -= 1
    return Rows(
        ids=np.concatenate(ids).astype(np.int32),
        segments=np.concatenate(segments),
        offsets=np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int64),
        plan=plan,
        targets={name: array[numbers] for name, array in batches.targets.items()},
        pad_id=pad_id,
        num_tokens=num_tokens,
    )
