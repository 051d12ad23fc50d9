# SPDX-License-Identifier: Apache-2.0
"""Token classification, as named entities: a label for each word; all that is of this task."""

from dataclasses import dataclass, replace
from typing import ClassVar

import keras
import numpy as np
from keras import ops

from common.backbones.backbone import make_backbone
from common.backbones.initializers import CLASSIFIER, FreshWeights
from common.BaseModel import TRAIN, BaseModel
from common.console import counted
from common.layers.dropout import Dropout
from common.losses import WordLoss
from common.metrics.tagging import (
    TaggingMetrics,
    compare_texts,
    conll_of_texts,
    json_lines_of_texts,
    records_of_texts,
    tag_set,
)
from common.tasks.answer import Answer
from common.tasks.pooler import make_word_pooler
from common.tasks.targets import TOKENS, ClassTargets, TargetSpec, described, distinct_names


def tags_of(label_names):
    """Returns the Answer of a label for each token."""
    names = list(label_names)
    return Answer(
        kind="token classifier",
        description="for each token one of "
        + ", ".join(f"{i} {name}" for i, name in enumerate(names)),
        architecture="BertForTokenClassification",
        pipeline_tag="token-classification",
        problem_type=None,
        probabilities="softmax",
        served=("labels", "label_names", "probabilities", "logits", "input_ids"),
        example=("Ada Lovelace wrote it.",),
        decoder="words",
        reading={
            "saved_model": """vocab = open("vocab.txt", encoding="utf-8").read().split("\\n")
row = zip(result["input_ids"][0].numpy(), result["labels"][0].numpy())
print([(vocab[i], label.decode()) for i, label in row])""",
            "ids": f"""labels = {names}
print([labels[i] for i in probabilities[0].argmax(-1)])""",
            "huggingface": """labels = model(**rows).logits.argmax(dim=-1)[0].tolist()
print([model.config.id2label[label] for label in labels])""",
        },
    )


@dataclass(frozen=True)
class TagTargets(ClassTargets):
    """A label for each word, on its tokens: {"labels": int32 [N, T]}, -1 where there is none."""

    specs: ClassVar = {"labels": TargetSpec((TOKENS,), np.dtype(np.int32))}
    rows: ClassVar = "words"

    def named(self, column):
        if column.kind == "text" and not self.label_names:
            return replace(self, label_names=distinct_names(column, column.read(), fewest=2))
        return super().named(column)

    def describe(self, arrays):
        return "words: " + described(self.label_names, self.counts(arrays).values())

    def faults(self, arrays):
        del arrays
        return {}  # a source of words names its own, with their lines


class TokenClassificationTask(BaseModel):
    """Backbone, dropout, dense(C) on every token.

    Devlin et al. 2019, section 5.3. Shapes: B rows, T tokens, D hidden size, C labels. Packed, R
    long rows have the B short ones, and the logits are unpacked, which are narrower than vectors.

    Args:
        params: complete Params.
        label_names: C str; may be empty without reports, predictions and exports.
    Call:
        features: as of `Backbone`. Returns logits, <float32>[B, T, C].
    """

    targets = TagTargets
    head: ClassVar = {"classifier": "labels"}
    export_formats = (
        *("saved_model", "huggingface", "keras", "onnx", "tflite"),
        *("keras_source", "pytorch_source"),
    )
    served_features = ("input_ids",)

    def __init__(self, params, label_names=(), name="bert"):
        cfg = params.model
        backbone = make_backbone(cfg, params.dropout_seed or 0, params.runconfig.num_streams)
        super().__init__(backbone, params.predict_input, name=name, dtype=cfg.dtype_policy)
        self.num_outputs, self.task = cfg.num_cls_classes, params.task
        self.label_names = tuple(label_names)
        self.frozen, self.scheme = cfg.freeze, params.predict_input.tag_scheme
        self.aggregation = cfg.word_aggregation
        self.loss_of = WordLoss(self.num_outputs, cfg.class_weights, cfg.loss_weight)
        self.pooler, self.head_activation = make_word_pooler(cfg), cfg.family.head_activation
        if self.pooler is not None:
            self.head = {"pooler": None, **self.head}
        self.head_dropout_rate = cfg.encoder_output_dropout_rate
        self.dropout = Dropout(cfg.encoder_output_dropout_rate, self.clock, dtype=self.dtype_policy)
        fresh = FreshWeights(cfg.keras_initializer, cfg.weight_initialization_seed, CLASSIFIER)
        # float32 under every policy: logits feed a softmax.
        self.classifier = keras.layers.Dense(
            self.num_outputs, kernel_initializer=fresh, dtype="float32", name="classifier"
        )

    def build(self, input_shape=None):
        del input_shape  # every shape follows from the params
        self.backbone.build()
        if self.pooler is not None:
            self.pooler.build((None, None, self.backbone.hidden_size))
        self.classifier.build((None, None, self.backbone.hidden_size))
        self.freeze(self.frozen)
        self.built = True

    def call(self, features, training=False):
        x, packed = self.backbone.in_long_rows(features, training=training)  # [R, T, D]
        x = x if self.pooler is None else self.pooler(x)
        logits = self.classifier(self.dropout(x, training=training))  # <float32>[R, T, C]
        return logits if packed is None else packed.unpack(logits)[0]  # [B, T, C]

    def build_model(self, features, mode):
        """Returns {"logits": <float32>[B, T, C]}. features: the documented ones."""
        return {"logits": self(self.network_features(features), training=mode == TRAIN)}

    def build_total_loss(self, outputs, targets):
        """The mean over labelled tokens. targets: {"labels": <int32>[B, T], -1: no label}."""
        return self.loss_of(outputs["logits"], targets["labels"])

    def loss_share(self, targets):
        """The labelled tokens, of which devices have different numbers."""
        if self.loss_of.loss_weight is not None:
            return None
        return ops.sum(ops.cast(targets["labels"] >= 0, "float32"))

    def build_train_ops(self, total_loss):
        del total_loss  # it depends on every weight that is not frozen
        return self.trainable_weights

    def prepare_training(self, targets, token_counts=None):
        labels = targets["labels"]
        weights = self.loss_of.balance(labels[labels >= 0])
        if weights is None:
            return []
        return [f"Class weights: {', '.join(f'{w:.4g}' for w in weights)}"]

    def loss_variables(self):
        return {} if self.loss_of.weights is None else {"class_weights": self.loss_of.weights}

    def build_eval_metric_ops(self):
        return TaggingMetrics(self.label_names, self.scheme, self.aggregation)

    build_gathered = build_eval_metric_ops

    @property
    def tags(self):
        return tag_set(self.label_names, self.scheme)

    def predictions(self, outputs, origins=None):
        texts, spans = _texts_and_spans(origins)
        return records_of_texts(outputs, self.label_names, self.tags, texts, spans)

    def compare(self, outputs, targets, origins=None):
        texts, spans = _texts_and_spans(origins)
        return compare_texts(outputs, targets, self.label_names, self.tags, texts, spans)

    def shorten(self, record):
        return [next(iter(record.values())) or "-"]

    def prediction_files(self, outputs, targets, origins):
        texts, spans = _texts_and_spans(origins)
        of_texts = self.label_names, self.tags, texts, spans
        return {
            ".conll": conll_of_texts(outputs, targets, self.label_names, texts, spans),
            ".jsonl": json_lines_of_texts(outputs, *of_texts),
        }

    def export_outputs(self, outputs):
        """Returns what a server answers, of every token, special ones and padding too.

        labels: <string>[B, T], name of the likeliest label;
        label_names: <string>[B, C], what the columns of the next two are;
        probabilities, logits: <float32>[B, T, C].
        """
        logits = outputs["logits"]
        names = ops.convert_to_tensor(list(self.label_names))  # [C]
        return {
            "labels": ops.take(names, ops.argmax(logits, axis=-1), axis=0),
            "label_names": ops.broadcast_to(names, (ops.shape(logits)[0], len(self.label_names))),
            "probabilities": ops.softmax(logits),
            "logits": logits,
        }

    def decoder_settings(self, cfg):
        return {
            "window_stride": cfg.window_stride,
            "label_names": self.label_names,
            "has_entities": self.tags is not None,
            "word_aggregation": self.aggregation,
        }

    def onnx_outputs(self):
        """{"logits", "probabilities": [B, T, C]}."""
        axes = ["batch", "tokens", self.num_outputs]
        return {"logits": axes, "probabilities": axes}

    def write_onnx(self, graph):
        x = graph.pooler(graph.backbone(), self.head_activation)
        x = graph.add("MatMul", x, graph.weight("classifier/kernel"))
        graph.add("Add", x, graph.weight("classifier/bias"), output="logits")
        graph.add("Softmax", "logits", axis=-1, output="probabilities")

    @property
    def answer(self):
        return tags_of(self.label_names)

    @property
    def described(self):
        return f"token classifier with {counted(self.num_outputs, 'label')}"

    def checkpoint_config(self):
        return {"task": self.task, "label_names": self.label_names}


def _texts_and_spans(origins):
    return [text for (text,) in origins.texts], origins.words
