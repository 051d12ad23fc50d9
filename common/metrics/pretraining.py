# SPDX-License-Identifier: Apache-2.0
"""The figures of pre-training, added up batch by batch in float64, and its predictions.

NumPy alone, as `classification.py`.
"""

import math

import numpy as np

from common.errors import UserError
from common.metrics.intervals import summed_ratio_interval
from common.metrics.row_metrics import Metrics

NUM_BEST = 5  # words that a prediction gives for each [MASK]
MAX_EXPONENT = 100.0  # of the perplexity, as in the original


class PretrainingMetrics(Metrics):
    """Sums over the masked words and the rows of a split.

    has_nsp: bool. The rows have a next-sentence label. mlm_loss_weight: float, of the loss.
    """

    main, main_mode = "loss", "min"

    def __init__(self, has_nsp=True, mlm_loss_weight=1.0):
        self.has_nsp, self.mlm_loss_weight = has_nsp, mlm_loss_weight
        self.num_rows = self.num_masked = 0
        # Of the masked words: loss, right ones; of the rows: loss, right ones.
        self.sums = np.zeros(4)
        # Over the rows: right words squared, times masked words; masked words squared.
        self.products = np.zeros(3)
        of_rows = ("eval/accuracy_cls",) if has_nsp else ()
        self.names = ("loss", "eval/accuracy_masked_lm", "eval/mlm_perplexity", *of_rows)

    def __len__(self):
        return self.num_rows

    def update(self, outputs, targets, rows):
        """outputs: of the task's `build_scores`; targets: its own; rows: see Metrics."""
        is_real = np.asarray(rows) >= 0
        is_masked = np.asarray(targets["masked_lm_weights"]) > 0  # nowhere in filler rows
        self.num_rows += int(is_real.sum())
        self.num_masked += int(is_masked.sum())
        parts = [(is_masked * outputs[name]).sum() for name in ("mlm_loss", "mlm_correct")]
        parts += [0.0, 0.0]
        if self.has_nsp:
            scores = [np.asarray(outputs[name], np.float64) for name in ("nsp_loss", "nsp_correct")]
            parts[2:] = [score[is_real].sum() for score in scores]
        self.sums += parts
        masked, right = is_masked.sum(axis=1), (is_masked * outputs["mlm_correct"]).sum(axis=1)
        self.products += [(right * right).sum(), (right * masked).sum(), (masked * masked).sum()]

    def exchange(self, gather):
        counts = gather(np.array([[self.num_rows, self.num_masked]], np.int64))
        self.num_rows, self.num_masked = counts.sum(axis=0).tolist()
        self.sums = gather(self.sums[None]).sum(axis=0)
        self.products = gather(self.products[None]).sum(axis=0)

    def merge(self, other):
        self.num_rows += other.num_rows
        self.num_masked += other.num_masked
        self.sums = self.sums + other.sums
        self.products = self.products + other.products

    def compute(self):
        """Returns the original's names: {"loss", "eval/accuracy_masked_lm", "eval/mlm_perplexity",
        and with a next-sentence head "eval/accuracy_cls"}.

        Raises UserError where no word is masked.
        """
        if self.num_masked == 0:
            raise UserError(
                "there are no masked words to score: the rows have no token besides special ones"
            )
        masked, right = self.sums[:2] / self.num_masked
        next_loss, next_right = self.sums[2:] / max(self.num_rows, 1)
        figures = {
            "loss": self.mlm_loss_weight * masked + next_loss,
            "eval/accuracy_masked_lm": right,
            "eval/mlm_perplexity": math.exp(min(MAX_EXPONENT, masked)),
        }
        if self.has_nsp:
            figures["eval/accuracy_cls"] = next_right
        return {name: float(value) for name, value in figures.items()}

    def report(self):
        figures = {name.removeprefix("eval/"): value for name, value in self.compute().items()}
        masked, next_sentence = self.sums[0] / self.num_masked, self.sums[2] / max(len(self), 1)
        losses = {"masked_lm_loss": float(masked)}
        accuracies = {"accuracy_masked_lm": ((self.sums[1], self.num_masked), self.products)}
        if self.has_nsp:
            losses["next_sentence_loss"] = float(next_sentence)
            right, rows = self.sums[3], len(self)
            accuracies["accuracy_cls"] = (right, rows), (right, right, rows)
        intervals = {name: summed_ratio_interval(*sums) for name, sums in accuracies.items()}
        counts = {"num_examples": len(self), "num_masked": self.num_masked}
        return {**counts, **figures, **losses, "intervals": intervals}

    def describe(self, figures):
        right = round(self.sums[1])
        others = dict(figures)
        accuracy = others.pop("eval/accuracy_masked_lm")
        shown = f"{accuracy:.4f} ({right:,} of {self.num_masked:,})"
        return [("Masked words", shown), *super().describe(others)]


def masked_word_predictions(outputs, vocab):
    """Returns a record for each row: {"mask_<n>": the likeliest words for its n-th [MASK] as
    word:probability, a blank between two}; "" where the row has fewer.

    outputs: {"token_ids" <int32>[R, P, N], "probabilities" <float32>[R, P, N], "positions"
    <int32>[R, P]}, of every row. vocab: list of str.
    """
    is_mask = outputs["positions"] > 0  # a row begins with [CLS]
    most = max(1, int(is_mask.sum(axis=1).max()))

    def listed(ids, probabilities):
        # Rows that only fill up the table (`vocab_size_multiple`) stand for no word.
        pairs = zip(ids, probabilities, strict=True)
        return " ".join(f"{vocab[i]}:{p:.4f}" for i, p in pairs if i < len(vocab))

    return [
        {f"mask_{n + 1}": listed(ids[n], probabilities[n]) if real[n] else "" for n in range(most)}
        for ids, probabilities, real in zip(
            outputs["token_ids"].tolist(),
            outputs["probabilities"].tolist(),
            np.pad(is_mask, ((0, 0), (0, max(0, most - is_mask.shape[1])))),
            strict=True,
        )
    ]
