# SPDX-License-Identifier: Apache-2.0
"""The tasks that run on a CS system: loss in PyTorch, figures and predictions in NumPy."""

import torch
from torch import nn

from common.metrics.classification import ClassificationMetrics, classification_predictions
from common.metrics.regression import RegressionMetrics, regression_predictions


class Classification:
    """Cross entropy and its variants, as in `common/losses.py`.

    cfg: ModelParams. class_weights: C floats or None: model.class_weights, with `auto` computed.
    """

    def __init__(self, cfg, label_names, class_weights=None):
        self.cfg, self.label_names, self.class_weights = cfg, label_names, class_weights

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


class Regression:
    """Mean squared error of one output, with the methods of `Classification`."""

    def __init__(self, cfg, label_names, class_weights=None):
        del cfg, label_names, class_weights  # a regression has no classes

    def loss(self, logits, labels):
        return (logits[:, 0] - labels.float()).square().mean()

    def difference(self, first, second):
        return (first - second).square().mean()

    def make_metrics(self):
        return RegressionMetrics()

    def predictions(self, outputs, config):
        del config
        return regression_predictions(outputs)


TASKS = {"classification": Classification, "regression": Regression}


def total_loss(task, logits, labels, r_drop_alpha):
    """Returns the loss of a batch, <float32>[], as in `common/losses.py`.

    logits: <float32>[B, C], or with r_drop_alpha <float32>[B, 2, C].
    """
    if logits.ndim == 2:
        return task.loss(logits, labels)
    first, second = logits[:, 0], logits[:, 1]
    loss = sum(task.loss(each, labels) for each in (first, second)) / 2
    return loss + r_drop_alpha / 2 * task.difference(first, second)
