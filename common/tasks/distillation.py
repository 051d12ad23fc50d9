# SPDX-License-Identifier: Apache-2.0
"""Distillation: a task around another one, which learns from a teacher beside the labels.

`distilled` makes it of a task's class. Outside training it is that task, with the same weights.
`common/training/teacher.py` brings the teacher's outputs. The keys are those of
`common/params/distillation.py`.
"""

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from common.backbones.initializers import DISTILLATION, FreshWeights
from common.BaseModel import EVAL, TRAIN
from common.console import counted
from common.errors import UserError
from common.kernels.record import recorded
from common.losses import soft_binary_cross_entropy, soft_cross_entropy, soft_square
from common.params.distillation import OF_LAYERS
from common.tasks.layer_losses import attention_loss, cosine_loss, hidden_loss, relation_loss
from common.tasks.targets import TOKENS, TargetSpec

TEACHER = "teacher_"  # before the name of an output, among targets or the outputs of a step


@dataclass(frozen=True)
class Lesson:
    """What a task learns of a teacher's outputs.

    outputs: their names. loss: as those of `common/losses.py`, over the last axis. weights: targets
    -> <float32>, how much each of what the loss gives counts; None: all the same. shape: of what is
    kept of an output of a row, of a task with so many outputs.
    """

    outputs: tuple[str, ...]
    loss: Callable
    weights: Callable | None = None
    shape: Callable = lambda num_outputs: (num_outputs,)


LESSONS = {
    "classification": Lesson(("logits",), soft_cross_entropy),
    "multi_label": Lesson(("logits",), soft_binary_cross_entropy),
    "regression": Lesson(("logits",), soft_square),
    "token_classification": Lesson(
        ("logits",),
        soft_cross_entropy,
        lambda targets: ops.cast(targets["labels"] >= 0, "float32"),
        lambda num_outputs: (TOKENS, num_outputs),
    ),
    "question_answering": Lesson(
        ("start_logits", "end_logits"), soft_cross_entropy, shape=lambda _: (TOKENS,)
    ),
    "pretraining": Lesson(
        ("mlm_logits",), soft_cross_entropy, lambda targets: targets["masked_lm_weights"]
    ),
}


# Figures of the losses of layers, by the keys of their weights.
LAYER_FIGURES = {name: f"train/cost_{name.removesuffix('_weight')}" for name in OF_LAYERS}
LAYERS = "distillation_layer_"  # before the name of a loss of layers among a step's outputs


@dataclass(eq=False)
class Teacher:
    """The teacher in a step. A plain object, so that Keras does not save its network.

    network: BaseModel, or None where its outputs are targets.
    """

    network: object

    def outputs(self, features, names):
        """Returns {name: tensor} of some of its outputs, under their names in the losses."""
        if self.network is None:
            return {}
        answers = self.network.build_model(features, EVAL)
        return {f"{TEACHER}{name}": ops.stop_gradient(answers[name]) for name in names}


@contextlib.contextmanager
def recorded_whole(model):
    """As `recorded`, of a BaseModel that computes its last layer for all tokens."""
    needed, model.needs_all = model.needs_all, True
    try:
        with recorded(model.backbone) as record:
            yield record
    finally:
        model.needs_all = needed


class Distillation:
    """Comes before the class of a task.

    In training the loss is hard_weight times the task's own plus soft_weight times the soft loss
    of the teacher's outputs: a mean over what the task's own loss is a mean over.
    """

    needs_logits = True

    def __init__(self, params, label_names=(), name="bert"):
        super().__init__(params, label_names, name)
        cfg = params.distillation
        self.soft_weight, self.hard_weight = cfg.soft_weight, cfg.hard_weight
        self.teacher_temperature, self.lesson = cfg.temperature, LESSONS[params.task]
        network, self.training_targets = None, {}
        if cfg.keeps_outputs(params.task):
            shape = self.lesson.shape(getattr(self, "num_outputs", None))
            spec = TargetSpec(shape, np.dtype(np.float32))
            self.training_targets = {f"{TEACHER}{each}": spec for each in self.lesson.outputs}
        else:
            network = self.task_class(params.teacher, label_names)
            # Here, as weights that are made within `build` are named after this network, too.
            network.build()
            network.trainable = False  # so that no gradient is computed
        self.teacher = Teacher(network)
        self.layer_weights = {name: getattr(cfg, name) for name in OF_LAYERS if getattr(cfg, name)}
        self.teacher_layers, self.projection = (), None
        if self.layer_weights:
            self.teacher_layers = layers_to_learn(params)
        if "hidden_weight" in self.layer_weights:
            sizes = params.model.hidden_size, params.teacher.model.hidden_size
            # Of the same width, each number learns from its counterpart to begin with.
            fresh = FreshWeights(
                params.model.keras_initializer,
                params.model.weight_initialization_seed,
                DISTILLATION,
            )
            self.projection = keras.layers.Dense(
                sizes[1],
                use_bias=False,
                kernel_initializer="identity" if sizes[0] == sizes[1] else fresh,
                dtype=self.dtype_policy,
                name="distillation",
            )
            self.head = {**self.head, "distillation": None}
        figures = (LAYER_FIGURES[name] for name in self.layer_weights)
        self.loss_figures = ("train/cost", "train/cost_hard", "train/cost_soft", *figures)

    def build(self, input_shape=None):
        super().build(input_shape)
        if self.projection is not None:
            self.projection.build((None, None, self.backbone.hidden_size))

    def loss_variables(self):
        variables = super().loss_variables()
        if self.teacher.network is not None:
            weights = self.teacher.network.weights_by_name()
            variables |= {f"teacher/{name}": weight for name, weight in weights.items()}
        return variables

    def build_model(self, features, mode):
        if mode != TRAIN:
            return super().build_model(features, mode)
        if not self.layer_weights:
            outputs = super().build_model(features, mode)
            return outputs | self.teacher.outputs(features, self.lesson.outputs)
        with recorded_whole(self) as ours:
            outputs = super().build_model(features, mode)
        with recorded_whole(self.teacher.network) as theirs:
            outputs |= self.teacher.outputs(features, self.lesson.outputs)
        padding_mask = self.network_features(features)["padding_mask"]
        losses = self.build_layer_losses(ours, theirs, padding_mask)
        return outputs | {f"{LAYERS}{name}": loss for name, loss in losses.items()}

    def build_layer_losses(self, ours, theirs, padding_mask):
        """Returns {key of its weight: <float32>[]} of the losses of layers.

        ours, theirs: Record of network and teacher; padding_mask: <int32>[R, T].
        """
        of_ours, of_theirs = len(self.encoder.layers), len(self.teacher.network.encoder.layers)
        hidden, taught = ours.hidden_states(of_ours), theirs.hidden_states(of_theirs)
        mask = ours.attention_mask(of_ours), padding_mask
        # Of the embeddings, and of each layer.
        pairs = [(0, 0), *((n + 1, layer + 1) for n, layer in enumerate(self.teacher_layers))]
        last = self.teacher_layers[-1]

        def heads(layer, teacher_layer):
            taught_heads = theirs.heads_of(teacher_layer, of_theirs)
            return ours.heads_of(layer, of_ours), [ops.stop_gradient(x) for x in taught_heads]

        def hidden_weight():
            return sum(
                hidden_loss(self.projection(hidden[n]), ops.stop_gradient(taught[m]), padding_mask)
                for n, m in pairs
            )

        def attention_weight():
            of_layers = enumerate(self.teacher_layers)
            return sum(attention_loss(*heads(n, layer), *mask) for n, layer in of_layers)

        def relation_weight():
            return relation_loss(*heads(of_ours - 1, last), *mask)

        def cosine_weight():
            return cosine_loss(hidden[-1], ops.stop_gradient(taught[last + 1]), padding_mask)

        computes = (hidden_weight, attention_weight, relation_weight, cosine_weight)
        known = {each.__name__: each for each in computes}
        return {name: known[name]() for name in self.layer_weights}

    def build_losses(self, outputs, targets):
        if not any(name.startswith(TEACHER) for name in (*outputs, *targets)):
            return super().build_losses(outputs, targets)  # of an evaluation
        hard, *_ = super().build_losses(outputs, targets)
        soft = self.build_soft_loss(outputs, targets)
        total = self.hard_weight * hard + self.soft_weight * soft
        of_layers = [outputs[f"{LAYERS}{name}"] for name in self.layer_weights]
        for weight, loss in zip(self.layer_weights.values(), of_layers, strict=True):
            total = total + weight * loss
        return [total, hard, soft, *of_layers]

    def build_soft_loss(self, outputs, targets):
        """Returns the soft loss, <float32>[]. The teacher's outputs are among outputs or targets,
        under TEACHER and their names."""
        lesson, given, losses = self.lesson, outputs | targets, []
        for name in lesson.outputs:
            logits, teacher = outputs[name], given[f"{TEACHER}{name}"]
            if len(logits.shape) > len(teacher.shape):  # [B, 2, C], of r_drop_alpha
                teacher = ops.expand_dims(teacher, 1)
            each = lesson.loss(logits, teacher, self.teacher_temperature)
            if lesson.weights is None:
                losses.append(ops.mean(each))
            else:
                weights = lesson.weights(targets)
                total = ops.sum(weights * each)
                losses.append(total / ops.maximum(ops.sum(weights), 1.0))
        return sum(losses) / len(losses)


def layers_to_learn(params):
    """Returns the teacher's layer of each of the network's: tuple of int, from 0.

    Jiao et al. 2020, section 4.1: evenly, n * N / M. params: complete Params with a teacher's.
    Raises UserError where the two networks do not go together.
    """
    cfg, ours, theirs = params.distillation, params.model, params.teacher.model
    number, of_teacher = ours.num_hidden_layers, theirs.num_hidden_layers
    name = next(name for name in OF_LAYERS if getattr(cfg, name))
    layers = cfg.teacher_layers
    if layers is None:
        if of_teacher % number and (cfg.hidden_weight or cfg.attention_weight):
            raise UserError(
                f"distillation.{name} is {getattr(cfg, name):g}, but the teacher's {of_teacher} "
                f"layers are no multiple of the network's {number}; write "
                f"distillation.teacher_layers, {number} of the numbers 0 to {of_teacher - 1}"
            )
        layers = tuple((n + 1) * of_teacher // number - 1 for n in range(number))
    if len(layers) != number or layers[-1] >= of_teacher:
        raise UserError(
            f"distillation.teacher_layers is {list(layers)}, but the network has "
            f"{counted(number, 'layer')} and the teacher those from 0 to {of_teacher - 1}; write "
            "one for each of the network's"
        )
    for key in ("attention_weight", "relation_weight"):
        if getattr(cfg, key) and (ours.local_attention or theirs.local_attention):
            raise UserError(
                f"distillation.{key} is {getattr(cfg, key):g}, which compares the attention of all "
                "tokens, but layers of such a network attend within a window; leave the key out"
            )
        if getattr(cfg, key) and ours.num_heads != theirs.num_heads:
            raise UserError(
                f"distillation.{key} is {getattr(cfg, key):g}, which compares head with head, but "
                f"model.num_heads is {ours.num_heads} and the teacher has {theirs.num_heads}; "
                "leave the key out, or take as many heads"
            )
    if cfg.cosine_weight and ours.hidden_size != theirs.hidden_size:
        raise UserError(
            f"distillation.cosine_weight is {cfg.cosine_weight:g}, which compares vectors of the "
            f"same width, but model.hidden_size is {ours.hidden_size} and the teacher has "
            f"{theirs.hidden_size}; write hidden_weight, which goes between widths"
        )
    return layers


@functools.cache
def distilled(task_class):
    """Returns the class of a task that learns from a teacher. task_class: a BaseModel's."""
    names = {"task_class": task_class, "__module__": __name__}
    return type(f"Distilled{task_class.__name__}", (Distillation, task_class), names)
