# SPDX-License-Identifier: Apache-2.0
"""The table of tasks, and model_fn: what one training, evaluation or prediction step computes."""

from dataclasses import dataclass
from typing import Any

from BertClassifierModel import BertClassifierModel
from common.BaseModel import PREDICT, TRAIN, BaseModel
from common.params.pretraining import REPLACED_TOKENS
from common.tasks.distillation import distilled
from common.tasks.multi_label import MultiLabelTask
from common.tasks.pretraining import PretrainingTask
from common.tasks.question_answering import QuestionAnsweringTask
from common.tasks.regression import RegressionTask
from common.tasks.replaced_tokens import ReplacedTokensTask
from common.tasks.targets import named
from common.tasks.token_classification import TokenClassificationTask

TASKS = {
    "classification": BertClassifierModel,
    "multi_label": MultiLabelTask,
    "pretraining": PretrainingTask,
    "question_answering": QuestionAnsweringTask,
    "token_classification": TokenClassificationTask,
    "regression": RegressionTask,
}


def task_of(params):
    """Returns the class of the task of Params."""
    if params.model.pretraining_objective == REPLACED_TOKENS:
        return ReplacedTokensTask
    return TASKS[params.task]


@dataclass(frozen=True)
class ModelSpec:
    """One mode's graph, as symbolic tensors."""

    model: BaseModel  # whose weights it uses
    predictions: dict[str, Any]  # the task's outputs; a classifier's "logits" <float32>[B, C]
    loss: Any = None  # <float32>[], None in prediction
    losses: tuple = ()  # of the model's `loss_figures`; the first is `loss`
    trainable_variables: tuple = ()  # the weights that `loss` trains; empty outside training


def make_model(params, label_names=()):
    """Returns the built model of complete Params, with fresh weights.

    A training with a teacher has the task with its losses; everything else the task alone.

    label_names: str of each class, for reports and predictions.
    """
    task = task_of(params)
    if params.runconfig.is_training and params.distillation is not None:
        task = distilled(task)
    model = task(params, label_names)
    model.build()
    return model


def model_fn(features, labels, mode, params, model=None):
    """Builds the graph of one mode. It is called when a step is traced, not at every step.

    Args:
        features: {"input_ids", "input_mask", "segment_ids"}: <int32>[B, T]; input_mask is 1 on
            padding. Training rows may be packed, see `input/batches.py`.
        labels: <int32>[B], or for other tasks {target: tensor [B, ...]}; None in prediction.
        mode: TRAIN, EVAL or PREDICT.
        model: BaseModel shared by the modes of a run; None makes a new one of complete Params, with
            fresh weights.
    Returns:
        ModelSpec.
    """
    model = model or make_model(params)
    outputs = model.build_model(features, mode)
    if mode == PREDICT:
        return ModelSpec(model, outputs)
    loss, *parts = model.build_losses(outputs, named(labels))
    trainable_variables = tuple(model.build_train_ops(loss)) if mode == TRAIN else ()
    return ModelSpec(model, outputs, loss, (loss, *parts), trainable_variables)
