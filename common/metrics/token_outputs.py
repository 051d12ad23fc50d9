# SPDX-License-Identifier: Apache-2.0
"""Gathers the outputs of every token of a split, for a task that answers for words."""

import numpy as np

from common.metrics.row_metrics import Metrics


class TokenOutputs(Metrics):
    """Gathers outputs {name: array [B, T, ...]} as {name: <float32>[tokens of all rows, ...]}.

    Rows follow each other in the order of the split; the tokens of row n begin at `offsets[n]`.
    """

    def begin(self, batches):
        self.num_tokens = np.asarray(batches.num_tokens)
        self.offsets = np.concatenate([[0], np.cumsum(self.num_tokens)]).astype(np.int64)
        self.outputs = {}

    def __len__(self):
        return len(self.num_tokens)

    def update(self, outputs, targets, rows):
        for name, array in outputs.items():
            if name not in self.outputs:
                shape = self.offsets[-1], *array.shape[2:]
                self.outputs[name] = np.zeros(shape, np.float32)
            table = self.outputs[name]
            for place, row in enumerate(np.asarray(rows).tolist()):
                if row >= 0:
                    begin, end = self.offsets[row : row + 2]
                    table[begin:end] = array[place, : end - begin]

    def exchange(self, gather):
        # Each token is of one worker, and 0 at the others.
        for name, table in self.outputs.items():
            parts = gather(table)
            self.outputs[name] = parts.reshape(-1, *table.shape).sum(axis=0)
