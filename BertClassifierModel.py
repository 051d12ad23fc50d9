# SPDX-License-Identifier: Apache-2.0
"""BERT with the two-dense-layer classifier head, its loss and its evaluation metrics.

The network alone: `model.py` says what a training, evaluation or prediction step does with it.
"""

import math

import keras
import numpy as np
from keras import ops

from common.backbones.backbone import make_backbone
from common.backbones.freezing import freeze
from common.backbones.initializers import CLASSIFIER, POOLER, FreshWeights
from common.BaseModel import TRAIN, BaseModel
from common.layers.dropout import Dropout
from common.layers.pooling import POOLERS
from common.losses import make_loss, r_drop
from common.metrics.classification import classification_metrics
from common.metrics.regression import regression_metrics


class BertClassifierModel(BaseModel):
    """Embeddings, encoder, one vector a row (`[CLS]`), dense(D, tanh), dropout, dense(C).

    Devlin et al. 2019, section 4. Shapes: B batch, T tokens, D hidden size, C classes (1: a
    regression). The first dense layer (`pooler`) is BERT's pooler, pre-trained with the
    next-sentence head; the second (`classifier`) is fresh in fine-tuning.

    Args:
        params: complete Params (`Params.complete`); the `model` section is read, `dropout_seed`
            and `runconfig.num_streams`.
    Call:
        features: as of `Backbone`.
    Returns:
        logits: <float32>[B, C].
    """

    def __init__(self, params, name="bert"):
        cfg = params.model
        backbone = make_backbone(cfg, params.dropout_seed or 0, params.runconfig.num_streams)
        super().__init__(backbone, name=name, dtype=cfg.dtype_policy)
        self.num_classes = cfg.num_cls_classes
        self.is_mask_inverted = params.predict_input.invert_mask  # the same in every input
        self.frozen = cfg.freeze
        self.loss_of = make_loss(
            cfg.num_cls_classes, cfg.class_weights, cfg.label_smoothing, cfg.focal_gamma
        )
        self.r_drop_alpha = cfg.r_drop_alpha
        self.pool = POOLERS[cfg.pooler_type]
        self.needs_first_token_only = cfg.pooler_type == "first"

        def fresh(part):
            return FreshWeights(cfg.keras_initializer, cfg.weight_initialization_seed, part)

        self.pooler = keras.layers.Dense(
            cfg.hidden_size,
            "tanh",
            kernel_initializer=fresh(POOLER),
            dtype=self.dtype_policy,
            name="pooler",
        )
        self.dropout = Dropout(cfg.cls_dropout_rate, self.clock, dtype=self.dtype_policy)
        # float32 under every policy: logits feed a softmax.
        self.classifier = keras.layers.Dense(
            cfg.num_cls_classes,
            kernel_initializer=fresh(CLASSIFIER),
            dtype="float32",
            name="classifier",
        )

    def build(self, input_shape=None):
        del input_shape  # every shape follows from the params
        self.backbone.build()
        self.pooler.build((None, self.backbone.hidden_size))
        self.classifier.build((None, self.backbone.hidden_size))
        freeze(self, self.frozen)  # now that there are weights to take out
        self.built = True

    def call(self, features, training=False):
        x, padding_mask = self.backbone(
            features, first_token_only=self.needs_first_token_only, training=training
        )  # [B, T, D]; [B, 1, D] where the pooler takes the first token
        pooled = self.pooler(self.pool(x, padding_mask))  # [B, D]
        return self.classifier(self.dropout(pooled, training=training))  # <float32>[B, C]

    def build_model(self, features, mode):
        """features: the documented ones; what a 1 of `input_mask` means, `invert_mask` says.

        Returns <float32>[B, C]; in training with `r_drop_alpha` <float32>[B, 2, C].
        """
        features = dict(features)
        input_mask = features.pop("input_mask")
        features["padding_mask"] = 1 - input_mask if self.is_mask_inverted else input_mask
        if mode == TRAIN and self.r_drop_alpha:
            return self._in_two_passes(features)
        return self(features, training=mode == TRAIN)

    def _in_two_passes(self, features):
        """Every row twice, each with dropout of its own. Returns <float32>[B, 2, C]."""
        starts = features.pop("starts", None)
        if starts is None:
            # One beside the other: devices that share a batch then draw the masks of the whole.
            features = {name: ops.repeat(each, 2, axis=0) for name, each in features.items()}
            return ops.reshape(self(features, training=True), (-1, 2, self.num_classes))
        num_tokens = math.prod(features["input_ids"].shape)
        features = {name: ops.tile(each, (2, 1)) for name, each in features.items()}
        features["starts"] = ops.concatenate([starts, starts + num_tokens])
        logits = ops.reshape(self(features, training=True), (2, -1, self.num_classes))
        return ops.swapaxes(logits, 0, 1)

    def build_total_loss(self, logits, labels):
        """Mean over the batch; see `common/losses.py`.

        logits: of `build_model`; labels: <int32>[B], of a regression <float32>[B].
        Returns <float32>[].
        """
        if len(logits.shape) == 3:
            return r_drop(self.loss_of, logits, labels, self.r_drop_alpha)
        return self.loss_of(logits, labels)

    def prepare_training(self, labels):
        """Counts the labels for `class_weights: auto`. See BaseModel."""
        weights = self.loss_of.balance(labels)
        return (
            [] if weights is None else [f"Class weights: {', '.join(f'{w:.4g}' for w in weights)}"]
        )

    def loss_variables(self):
        return {} if self.loss_of.weights is None else {"class_weights": self.loss_of.weights}

    def build_train_ops(self, total_loss):
        del total_loss  # it depends on every weight that is not frozen
        return self.trainable_weights

    def build_eval_metric_ops(self, logits, labels):
        """logits: float array [N, C]; labels: int array [N], of a regression float array [N]."""
        if self.num_classes == 1:
            return regression_metrics(np.asarray(logits), np.asarray(labels))
        return classification_metrics(np.asarray(logits), np.asarray(labels), self.num_classes)
