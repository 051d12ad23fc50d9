# SPDX-License-Identifier: Apache-2.0
"""RowTask: the two-dense head of every task that answers once for a row.

A task is a subclass with its loss, its figures and its predictions: `BertClassifierModel.py`, and
beside this file `regression.py`.
"""

import math

import keras
from keras import ops

from common.backbones.backbone import make_backbone
from common.backbones.initializers import CLASSIFIER, FreshWeights
from common.BaseModel import TRAIN, BaseModel
from common.console import counted
from common.kernels.needed_tokens import ALL_TOKENS, FIRST_TOKEN
from common.layers.dropout import Dropout
from common.layers.pooling import POOLERS
from common.losses import r_drop
from common.tasks.answer import ROW_HEAD
from common.tasks.pooler import make_pooler


class RowTask(BaseModel):
    """Backbone, one vector a row (`[CLS]`), dense(D, tanh), dropout, dense(C).

    Devlin et al. 2019, section 4; other families have another activation than tanh. Shapes: B
    batch, T tokens, D hidden size, C outputs. The first dense layer (`pooler`) is BERT's pooler,
    pre-trained with the next-sentence head; the second (`classifier`) is fresh in fine-tuning.

    Args:
        params: complete Params.
        loss: callable on logits <float32>[B, C] and labels [B] -> <float32>[], with a method
            `difference` for R-Drop; see `common/losses.py`.
        label_names: C str, what the outputs are called in reports, predictions and exports; may be
            empty without these.
    Call:
        features: as of `Backbone`. Returns logits, <float32>[B, C].
    """

    head = ROW_HEAD
    export_formats = (
        *("saved_model", "huggingface", "keras", "onnx", "tflite", "tf1"),
        *("keras_source", "pytorch_source"),
    )

    def __init__(self, params, loss, label_names=(), name="bert"):
        cfg = params.model
        backbone = make_backbone(cfg, params.dropout_seed or 0, params.runconfig.num_streams)
        super().__init__(backbone, params.predict_input, name=name, dtype=cfg.dtype_policy)
        self.num_outputs, self.task = cfg.num_cls_classes, params.task
        self.label_names = tuple(label_names)
        self.frozen, self.ignores_head = cfg.freeze, cfg.disable_nsp
        self.loss_of, self.r_drop_alpha = loss, cfg.r_drop_alpha
        self.pool = POOLERS[cfg.pooler_type]
        self.needed = FIRST_TOKEN if cfg.pooler_type == "first" else ALL_TOKENS

        def fresh(part):
            return FreshWeights(cfg.keras_initializer, cfg.weight_initialization_seed, part)

        self.pooler = make_pooler(cfg)
        self.head_activation = cfg.family.head_activation
        self.head_dropout_rate = cfg.cls_dropout_rate
        self.input_dropout = None
        if cfg.family.head_dropout_first:
            self.input_dropout = Dropout(cfg.cls_dropout_rate, self.clock, dtype=self.dtype_policy)
        self.dropout = Dropout(cfg.cls_dropout_rate, self.clock, dtype=self.dtype_policy)
        # float32 under every policy: logits feed a softmax.
        self.classifier = keras.layers.Dense(
            self.num_outputs,
            kernel_initializer=fresh(CLASSIFIER),
            dtype="float32",
            name="classifier",
        )

    def build(self, input_shape=None):
        del input_shape  # every shape follows from the params
        self.backbone.build()
        self.pooler.build((None, self.backbone.hidden_size))
        self.classifier.build((None, self.backbone.hidden_size))
        self.freeze(self.frozen)
        self.built = True

    def call(self, features, training=False):
        x, padding_mask = self.backbone(
            features, needed=ALL_TOKENS if self.needs_all else self.needed, training=training
        )  # [B, T, D]; [B, 1, D] where the pooler takes the first token
        x = self.pool(x, padding_mask)  # [B, D]
        if self.input_dropout is not None:
            x = self.input_dropout(x, training=training)
        pooled = self.pooler(x)  # [B, D]
        return self.classifier(self.dropout(pooled, training=training))  # <float32>[B, C]

    def build_model(self, features, mode):
        """features: the documented ones; what a 1 of `input_mask` means, `invert_mask` says.

        Returns {"logits": <float32>[B, C]}; in training with `r_drop_alpha` <float32>[B, 2, C].
        """
        features = self.network_features(features)
        if mode == TRAIN and self.r_drop_alpha:
            return {"logits": self._in_two_passes(features)}
        return {"logits": self(features, training=mode == TRAIN)}

    def _in_two_passes(self, features):
        """Every row twice, with two dropout masks. Returns <float32>[B, 2, C]."""
        starts = features.pop("starts", None)
        if starts is None:
            # One beside the other: devices that share a batch then draw the masks of the whole.
            features = {name: ops.repeat(each, 2, axis=0) for name, each in features.items()}
            return ops.reshape(self(features, training=True), (-1, 2, self.num_outputs))
        num_tokens = math.prod(features["input_ids"].shape)
        features = {name: ops.tile(each, (2, 1)) for name, each in features.items()}
        features["starts"] = ops.concatenate([starts, starts + num_tokens])
        logits = ops.reshape(self(features, training=True), (2, -1, self.num_outputs))
        return ops.swapaxes(logits, 0, 1)

    def build_total_loss(self, outputs, targets):
        """Mean over the batch; see `common/losses.py`.

        outputs: of `build_model`; targets: {"labels": [B]}. Returns <float32>[].
        """
        logits, labels = outputs["logits"], targets["labels"]
        if len(logits.shape) == 3:
            return r_drop(self.loss_of, logits, labels, self.r_drop_alpha)
        return self.loss_of(logits, labels)

    @property
    def described(self):
        return f"classifier with {counted(self.num_outputs, 'label')}"

    def onnx_outputs(self):
        """{"logits": [B, C]}, and "probabilities" where the answer has some."""
        names = ("logits", "probabilities") if self.answer.probabilities else ("logits",)
        return {name: ["batch", self.num_outputs] for name in names}

    def write_onnx(self, graph):
        x = graph.backbone(self.needed is FIRST_TOKEN)  # [B, T, D], or [B, 1, D]
        pooled = graph.pooler(graph.pool(x), self.head_activation)  # [B, D]
        x = graph.add("MatMul", pooled, graph.weight("classifier/kernel"))
        graph.add("Add", x, graph.weight("classifier/bias"), output="logits")
        if self.answer.probabilities == "softmax":
            graph.add("Softmax", "logits", axis=-1, output="probabilities")
        elif self.answer.probabilities == "sigmoid":
            graph.add("Sigmoid", "logits", output="probabilities")

    def checkpoint_config(self):
        return {"task": self.task, "label_names": self.label_names}

    def build_train_ops(self, total_loss):
        del total_loss  # it depends on every weight that is not frozen
        return self.trainable_weights
