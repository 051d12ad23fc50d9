# SPDX-License-Identifier: Apache-2.0
"""BERT with the two-dense-layer classifier head, its loss, its figures and its predictions.

The head itself is `common/tasks/row_task.py`, which every task of one answer a row shares.
`model.py` says what a training, evaluation or prediction step does with a task.
"""

from keras import ops

from common.losses import ClassificationLoss
from common.metrics.classification import (
    ClassificationMetrics,
    classification_predictions,
    compare_classes,
)
from common.tasks.answer import classes
from common.tasks.row_task import RowTask
from common.tasks.targets import ClassTargets


class BertClassifierModel(RowTask):
    """Embeddings, encoder, one vector a row (`[CLS]`), dense(D, tanh), dropout, dense(C).

    Devlin et al. 2019, section 4. C is the number of classes.
    """

    targets = ClassTargets

    def __init__(self, params, label_names=(), name="bert"):
        cfg = params.model
        loss = ClassificationLoss(
            cfg.num_cls_classes, cfg.class_weights, cfg.label_smoothing, cfg.focal_gamma
        )
        super().__init__(params, loss, label_names, name)
        self.temperature = 1.0  # of `common/metrics/calibration.py`

    @property
    def answer(self):
        return classes(self.label_names)

    def prepare_training(self, targets, token_counts=None):
        """Counts the labels for `class_weights: auto`. See BaseModel."""
        weights = self.loss_of.balance(targets["labels"])
        if weights is None:
            return []
        return [f"Class weights: {', '.join(f'{w:.4g}' for w in weights)}"]

    def loss_variables(self):
        return {} if self.loss_of.weights is None else {"class_weights": self.loss_of.weights}

    def build_eval_metric_ops(self):
        return ClassificationMetrics(self.label_names, self.num_outputs)

    def predictions(self, outputs, origins=None):
        return classification_predictions(outputs, self.label_names, self.temperature)

    def compare(self, outputs, targets, origins=None):
        return compare_classes(outputs, targets, self.label_names, self.temperature)

    def shorten(self, record):
        label = record["label"]
        return [label, f"{record[f'p_{label}']:.4f}"]

    def export_outputs(self, outputs):
        """Returns what a server answers.

        label: <string>[B], name of the likeliest class;
        label_names: <string>[B, C], what the columns of the next two are;
        probabilities, logits: <float32>[B, C].
        """
        logits = outputs["logits"]
        label_names = ops.convert_to_tensor(list(self.label_names))  # [C]
        return {
            "label": ops.take(label_names, ops.argmax(logits, axis=-1), axis=0),
            "label_names": ops.broadcast_to(label_names, ops.shape(logits)),
            "probabilities": ops.softmax(logits),
            "logits": logits,
        }

    def restore(self, config):
        self.temperature = float(config.get("temperature", 1.0))
        return [f"temperature {self.temperature:.4f}"] if self.temperature != 1.0 else []

    def fold_calibration(self):
        temperature, self.temperature = self.temperature, 1.0
        if temperature == 1.0:
            return []
        # logits / T, whoever computes them: the last layer of the head is linear.
        for weight in self.classifier.weights:
            weight.assign(weight.value / temperature)
        return [("Temperature", f"{temperature:.4f}, in the classifier's weights")]
