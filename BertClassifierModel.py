# SPDX-License-Identifier: Apache-2.0
"""BERT with the two-dense-layer classifier head, its loss and its evaluation metrics.

The network alone: `model.py` says what a training, evaluation or prediction step does with it.
"""

import keras
import numpy as np
from keras import ops

from common.BaseModel import TRAIN, BaseModel
from common.layers.activations import ACTIVATIONS
from common.layers.dropout import Dropout, DropoutClock
from common.layers.embeddings import BertEmbeddings
from common.layers.encoder import Encoder
from common.metrics.classification import classification_metrics


class BertClassifierModel(BaseModel):
    """Embeddings, encoder, `[CLS]`, dense(D, tanh), dropout, dense(C).

    Devlin et al. 2019, section 4. Shapes: B batch, T tokens, D hidden size, C classes.
    The first dense layer (`pooler`) is BERT's pooler, pre-trained with the next-sentence head; the
    second (`classifier`) is fresh in fine-tuning.

    Args:
        params: complete Params (`Params.complete`); the `model` section is read, and
            `runconfig.tf_random_seed` for the dropout masks.
    Call:
        features: dict with `input_ids`, `padding_mask` (1 on real tokens), `segment_ids`,
            each <int32>[B, T].
    Returns:
        logits: <float32>[B, C].
    """

    def __init__(self, params, name="bert"):
        cfg = params.model
        super().__init__(name=name, dtype=cfg.dtype_policy)
        self.num_classes = cfg.num_cls_classes
        self.clock = DropoutClock(params.runconfig.tf_random_seed or 0)
        initializer = keras.initializers.get(cfg.keras_initializer)
        self.embeddings = BertEmbeddings(
            cfg.vocab_size,
            cfg.hidden_size,
            cfg.max_position_embeddings,
            use_position_embedding=cfg.use_position_embedding,
            use_segment_embedding=cfg.use_segment_embedding,
            use_layer_norm=not cfg.use_pre_normalization,
            layer_norm_epsilon=cfg.layer_norm_epsilon,
            dropout_rate=cfg.dropout_rate,
            initializer=initializer.clone(),
            clock=self.clock,
            dtype=self.dtype_policy,
            name="embeddings",
        )
        self.encoder = Encoder(
            cfg.num_hidden_layers,
            layer_norm_epsilon=cfg.layer_norm_epsilon,
            use_pre_normalization=cfg.use_pre_normalization,
            hidden_size=cfg.hidden_size,
            num_heads=cfg.num_heads,
            filter_size=cfg.filter_size,
            activation=ACTIVATIONS[cfg.encoder_nonlinearity],
            dropout_rate=cfg.dropout_rate,
            attention_dropout_rate=cfg.attention_dropout_rate,
            initializer=initializer.clone(),
            clock=self.clock,
            dtype=self.dtype_policy,
        )
        self.pooler = keras.layers.Dense(
            cfg.hidden_size,
            "tanh",
            kernel_initializer=initializer.clone(),
            dtype=self.dtype_policy,
            name="pooler",
        )
        self.dropout = Dropout(cfg.cls_dropout_rate, self.clock, dtype=self.dtype_policy)
        # float32 under every policy: logits feed a softmax.
        self.classifier = keras.layers.Dense(
            cfg.num_cls_classes,
            kernel_initializer=initializer.clone(),
            dtype="float32",
            name="classifier",
        )
        self.hidden_size = cfg.hidden_size

    def build(self, input_shape=None):
        del input_shape  # every shape follows from the params
        self.embeddings.build((None, None))
        self.encoder.build((None, None, self.hidden_size))
        self.pooler.build((None, self.hidden_size))
        self.classifier.build((None, self.hidden_size))
        self.built = True

    def call(self, features, training=False):
        x = self.embeddings(
            features["input_ids"], features["segment_ids"], training=training
        )  # [B, T, D]
        x = self.encoder(
            x, features["padding_mask"], first_token_only=True, training=training
        )  # [B, 1, D], of [CLS]
        pooled = self.pooler(x[:, 0])  # [B, D]
        return self.classifier(self.dropout(pooled, training=training))  # <float32>[B, C]

    def build_model(self, features, mode):
        """features: the documented ones, where `input_mask` is 1 on padding. See BaseModel."""
        features = {
            "input_ids": features["input_ids"],
            "segment_ids": features["segment_ids"],
            "padding_mask": 1 - features["input_mask"],
        }
        return self(features, training=mode == TRAIN)

    def build_total_loss(self, logits, labels):
        """Mean cross entropy. logits: <float32>[B, C]; labels: <int32>[B]. Returns <float32>[]."""
        losses = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)  # [B]
        return ops.mean(losses)

    def build_train_ops(self, total_loss):
        del total_loss  # it depends on every weight
        return self.trainable_weights

    def build_eval_metric_ops(self, logits, labels):
        """logits: float array [N, C]; labels: int array [N]. See `classification_metrics`."""
        return classification_metrics(np.asarray(logits), np.asarray(labels), self.num_classes)
