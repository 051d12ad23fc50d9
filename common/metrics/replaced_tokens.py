# SPDX-License-Identifier: Apache-2.0
"""The figures of replaced-token detection, added up batch by batch in float64.

NumPy alone, as `classification.py`.
"""

import numpy as np

from common.errors import UserError
from common.metrics.row_metrics import Metrics


class ReplacedTokensMetrics(Metrics):
    """Sums over the tokens of a split, special tokens too, as ELECTRA's disc_accuracy,
    disc_precision and disc_recall are."""

    names = (
        *("loss", "eval/replaced_accuracy", "eval/replaced_precision", "eval/replaced_recall"),
    )

    def __init__(self):
        self.num_rows, self.is_packed = 0, False
        # Tokens, replaced ones, those that are told to be, those of both, right ones; the loss.
        self.sums = np.zeros(6)

    def begin(self, batches):
        self.is_packed = batches.is_packed

    def __len__(self):
        return self.num_rows

    def update(self, outputs, targets, rows):
        """outputs: of the task's `build_scores`; rows: see Metrics."""
        is_real = np.asarray(rows) >= 0
        self.num_rows += int(is_real.sum())
        weights = np.asarray(outputs["is_token"], np.float64)  # [R, T]
        if not self.is_packed:  # packed, filler has no token
            weights = weights * is_real[:, None]
        replaced, told = outputs["replaced"] > 0, outputs["logits"] > 0
        parts = (1.0, replaced, told, replaced & told, replaced == told, outputs["losses"])
        self.sums += [(weights * part).sum() for part in parts]

    def exchange(self, gather):
        self.num_rows = int(gather(np.array([self.num_rows], np.int64)).sum())
        self.sums = gather(self.sums[None]).sum(axis=0)

    def merge(self, other):
        self.num_rows += other.num_rows
        self.sums = self.sums + other.sums

    def compute(self):
        """Returns {name: float}: the mean loss and accuracy of tokens; how many of those that are
        told to be replaced are, and how many of the replaced are told. Raises UserError where there
        is no token."""
        tokens, replaced, told, both, right, loss = self.sums.tolist()
        if not tokens:
            raise UserError("there are no tokens to score")
        shares = loss / tokens, right / tokens, both / max(told, 1), both / max(replaced, 1)
        return dict(zip(self.names, shares, strict=True))

    def report(self):
        figures = {name.removeprefix("eval/"): value for name, value in self.compute().items()}
        tokens, replaced = map(round, self.sums[:2].tolist())
        return {
            "num_examples": len(self),
            "num_tokens": tokens,
            "num_replaced": replaced,
            **figures,
        }

    def describe(self, figures):
        tokens, replaced = map(round, self.sums[:2].tolist())
        others = dict(figures)
        accuracy = others.pop("eval/replaced_accuracy")
        none = f"{1 - replaced / tokens:.4f} where none is told"
        shown = f"{accuracy:.4f} of {tokens:,} ({replaced:,} replaced: {none})"
        return [("Tokens", shown), *super().describe(others)]
