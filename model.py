# SPDX-License-Identifier: Apache-2.0
"""model_fn: what one training, evaluation or prediction step computes."""

from dataclasses import dataclass
from typing import Any

from BertClassifierModel import BertClassifierModel
from common.BaseModel import PREDICT, TRAIN, BaseModel


@dataclass(frozen=True)
class ModelSpec:
    """One mode's graph, as symbolic tensors.

    Attributes:
        model: the BaseModel whose weights it uses.
        predictions: {"logits": <float32>[B, C]}.
        loss: <float32>[], None in prediction.
        trainable_variables: what `loss` is to train; empty outside training.
    """

    model: BaseModel
    predictions: dict[str, Any]
    loss: Any = None
    trainable_variables: tuple = ()


def make_model(params):
    """Returns the built BertClassifierModel of complete Params, with fresh weights."""
    model = BertClassifierModel(params)
    model.build()
    return model


def model_fn(features, labels, mode, params, model=None):
    """Builds the graph of one mode; called while a step is traced, never per step.

    Args:
        features: {"input_ids", "input_mask", "segment_ids"}: <int32>[B, T]; input_mask is 1 on
            padding. In training rows may be packed, see `input/batches.py`.
        labels: <int32>[B], of a regression <float32>[B], or {"labels": that}; None in prediction.
        mode: TRAIN, EVAL or PREDICT.
        params: complete Params; used to make the model where none is given.
        model: BaseModel shared by the modes of a run; None makes one with fresh weights.
    Returns:
        ModelSpec.
    """
    model = model or make_model(params)
    logits = model.build_model(features, mode)
    if mode == PREDICT:
        return ModelSpec(model, {"logits": logits})
    targets = labels if isinstance(labels, dict) else {"labels": labels}
    loss = model.build_total_loss(logits, targets["labels"])
    trainable_variables = tuple(model.build_train_ops(loss)) if mode == TRAIN else ()
    return ModelSpec(model, {"logits": logits}, loss, trainable_variables)
