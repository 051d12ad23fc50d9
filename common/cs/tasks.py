# SPDX-License-Identifier: Apache-2.0
"""The tasks that run on a CS system: loss in PyTorch, figures and predictions in NumPy.

All have the methods of `RowTask`, and `loss_figures`, as BaseModel. Their `compute` is the network:
a batch, dict of tensors, -> outputs.
"""

import torch
from torch import nn

from common.metrics.classification import ClassificationMetrics, classification_predictions
from common.metrics.pretraining import NUM_BEST, PretrainingMetrics, masked_word_predictions
from common.metrics.regression import RegressionMetrics, regression_predictions


class RowTask:
    """A task with an answer a row; its subclasses have `loss`, `difference` and the rest.

    Args:
        cfg: ModelParams.
        label_names: tuple of str.
        class_weights: C floats or None: model.class_weights, with `auto` computed.
        vocab: list of str.
    """

    loss_figures = ("train/cost_cls",)
    measured = ("labels",)  # targets that the metrics take

    def __init__(self, cfg, label_names=(), class_weights=None, vocab=()):
        self.cfg, self.label_names, self.class_weights = cfg, label_names, class_weights
        self.vocab = vocab

    def losses(self, compute, batch):
        """Returns the losses of `loss_figures`, list of <float32>[]; the first is the total."""
        labels, alpha = batch["labels"], self.cfg.r_drop_alpha
        if not alpha:
            return [self.loss(compute(batch), labels)]
        twice = {name: each.repeat_interleave(2, dim=0) for name, each in batch.items()}
        logits = compute(twice).reshape(-1, 2, self.cfg.num_cls_classes)
        return [total_loss(self, logits, labels, alpha)]

    def scores(self, compute, batch):
        """Returns what the metrics take of a batch, {name: tensor}."""
        return {"logits": compute(batch)}

    def answers(self, compute, batch):
        """Returns what `predictions` take of a batch, {name: tensor}."""
        return self.scores(compute, batch)


class Classification(RowTask):
    """Cross entropy and its variants, as in `common/losses.py`."""

    def loss(self, logits, labels):
        """Returns the mean, <float32>[]. logits: <float32>[B, C]; labels: <int32>[B]."""
        cfg, labels = self.cfg, labels.long()
        if not (self.class_weights or cfg.label_smoothing or cfg.focal_gamma):
            return nn.functional.cross_entropy(logits, labels)
        log_probabilities = nn.functional.log_softmax(logits, dim=-1)
        # nn.functional.one_hot reads the values, which is impossible in a traced program.
        classes = torch.arange(cfg.num_cls_classes, device=labels.device)
        is_label = (labels[:, None] == classes).float()  # [B, C]
        target = (1.0 - cfg.label_smoothing) * is_label + cfg.label_smoothing / cfg.num_cls_classes
        if cfg.focal_gamma:
            error = torch.clamp(-torch.expm1(log_probabilities), min=1e-7)
            target = target * error.pow(cfg.focal_gamma)
        losses = -(target * log_probabilities).sum(dim=-1)
        if self.class_weights:
            weights = torch.tensor(self.class_weights, dtype=torch.float32, device=logits.device)
            losses = losses * (is_label * weights).sum(dim=-1)
        return losses.mean()

    def difference(self, first, second):
        """Returns the mean symmetric divergence of two predictions <float32>[B, C], for R-Drop."""
        first, second = (nn.functional.log_softmax(logits, dim=-1) for logits in (first, second))
        return ((first.exp() - second.exp()) * (first - second)).sum(dim=-1).mean() / 2

    def make_metrics(self):
        return ClassificationMetrics(self.label_names, self.cfg.num_cls_classes)

    def predictions(self, outputs, config):
        """As `BaseModel.predictions`. config: dict of the checkpoint."""
        temperature = float(config.get("temperature", 1.0))
        return classification_predictions(outputs, self.label_names, temperature)


class Regression(RowTask):
    """Mean squared error of one output."""

    def loss(self, logits, labels):
        return (logits[:, 0] - labels.float()).square().mean()

    def difference(self, first, second):
        return (first - second).square().mean()

    def make_metrics(self):
        return RegressionMetrics()

    def predictions(self, outputs, config):
        del config
        return regression_predictions(outputs)


class Pretraining(RowTask):
    """Masked words and the next sentence, as `common/tasks/pretraining.py`.

    Of a batch it takes masked_lm_ids <int32>[B, P], masked_lm_weights <float32>[B, P] and
    next_sentence_labels <int32>[B]. Outputs are those of `BertForPreTraining`.
    """

    measured = ("masked_lm_weights",)

    def __init__(self, cfg, label_names=(), class_weights=None, vocab=()):
        super().__init__(cfg, label_names, class_weights, vocab)
        self.has_nsp = not cfg.disable_nsp
        of_rows = ("train/cost_cls",) if self.has_nsp else ()
        self.loss_figures = ("train/cost", *of_rows, "train/cost_masked_lm")

    def losses(self, compute, batch):
        weights = batch["masked_lm_weights"]
        logits, *next_sentence = compute(batch)
        total = (weights * token_cross_entropy(logits, batch["masked_lm_ids"])).sum()
        if self.cfg.mlm_loss_scaling == "batch_size":
            mean = total / weights.shape[0]
        else:
            mean = total / torch.clamp(weights.sum(), min=1.0)
        masked = self.cfg.mlm_loss_weight * mean
        if not self.has_nsp:
            return [masked, masked]
        of_rows = token_cross_entropy(*next_sentence, batch["next_sentence_labels"]).mean()
        return [masked + of_rows, of_rows, masked]

    def scores(self, compute, batch):
        scores = {}
        of_heads = ("mlm", "masked_lm_ids"), ("nsp", "next_sentence_labels")
        for logits, (head, name) in zip(compute(batch), of_heads, strict=False):
            scores[f"{head}_loss"] = token_cross_entropy(logits, batch[name])
            scores[f"{head}_correct"] = (logits.argmax(dim=-1) == batch[name].long()).float()
        return scores

    def answers(self, compute, batch):
        logits, *next_sentence = compute(batch)
        best, ids = torch.topk(logits, min(NUM_BEST, logits.shape[-1]), dim=-1)
        probabilities = (best - torch.logsumexp(logits, dim=-1, keepdim=True)).exp()
        answers = {
            "token_ids": ids.int(),
            "probabilities": probabilities,
            "positions": batch["masked_lm_positions"],
        }
        return answers | dict(zip(["nsp_logits"], next_sentence, strict=False))

    def make_metrics(self):
        return PretrainingMetrics(self.has_nsp, self.cfg.mlm_loss_weight)

    def predictions(self, outputs, config):
        del config
        return masked_word_predictions(outputs, self.vocab)


def token_cross_entropy(logits, ids):
    """<float32>[..., V], <int32>[...] -> <float32>[...], the cross entropy of each token."""
    losses = nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), ids.reshape(-1).long(), reduction="none"
    )
    return losses.reshape(ids.shape)


TASKS = {"classification": Classification, "regression": Regression, "pretraining": Pretraining}


def total_loss(task, logits, labels, r_drop_alpha):
    """Returns the loss of a batch, <float32>[], as in `common/losses.py`.

    logits: <float32>[B, C], or with r_drop_alpha <float32>[B, 2, C].
    """
    if logits.ndim == 2:
        return task.loss(logits, labels)
    first, second = logits[:, 0], logits[:, 1]
    loss = sum(task.loss(each, labels) for each in (first, second)) / 2
    return loss + r_drop_alpha / 2 * task.difference(first, second)
