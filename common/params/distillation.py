# SPDX-License-Identifier: Apache-2.0
"""`distillation`: what a training learns from another network, its teacher."""

from functools import partial
from typing import Annotated, Literal

from pydantic import BeforeValidator

from common.params.values import (
    Key,
    NonNegative,
    Path,
    Positive,
    Section,
    Whole,
    as_yaml,
    refusal,
    to_int,
)

# The weights of losses of layers.
OF_LAYERS = ("hidden_weight", "attention_weight", "relation_weight", "cosine_weight")
MASKED_WORDS = "pretraining"  # each epoch masks others, so there are no outputs to keep


def to_layers(value):
    """The numbers of layers, which increase."""
    if isinstance(value, list | tuple) and value:
        layers = tuple(map(to_int, value))
        if list(layers) == sorted(set(layers)):
            return layers
    raise refusal(f"is {as_yaml(value)}; numbers of layers that increase are wanted, as [0, 2, 5]")


Layers = Annotated[tuple[Whole, ...], BeforeValidator(to_layers)]
TeacherKey = partial(Key, compiled=False)


class DistillationParams(Section):
    """What a training learns from a teacher. Other modes read none of it."""

    teacher: Path = TeacherKey(
        ...,
        "The trained network to learn from: a checkpoint, model_dir or export, as checkpoint_path "
        "takes it, of the same task, labels and vocabulary. It may lie elsewhere when a run is "
        "resumed: its weights are compared.",
        changes="where and how long",
        is_local=True,
    )
    student_layers: Layers | None = TeacherKey(
        None,
        "Layers of the teacher, from 0, with which the network begins, beside the teacher's tables "
        "and head, as [0, 2, 5]. Not given: it begins with checkpoint_path, or with fresh weights.",
    )
    teacher_outputs: Literal["kept", "computed"] | None = Key(
        None,
        "kept: the outputs of all training rows are computed once, before the training, and kept "
        "beside the token cache, so that no teacher is in memory. computed: in each step, beside "
        "the network's own. Not given: kept, but computed with `task: pretraining`, whose masks "
        "are others in each epoch, and where layers are learned from.",
    )
    temperature: Positive = Key(
        2.0,
        "T, by which the logits of both are divided before their distributions are compared. A "
        "regression has none.",
    )
    soft_weight: NonNegative = Key(
        0.5,
        "Weight of the soft loss: T squared times the divergence of the network's distribution "
        "from the teacher's, of a row, a labelled token, start and end, or a masked word; of a "
        "regression, the mean square of the difference.",
    )
    hard_weight: NonNegative = Key(0.5, "Weight of the task's own loss, of the labels.")

    hidden_weight: NonNegative = Key(
        0.0,
        "Weight of the loss of hidden states, as TinyBERT has it: the mean square of the "
        "difference of embeddings and layers, those of the network multiplied by a matrix that is "
        "trained with it, so the widths may differ.",
    )
    attention_weight: NonNegative = Key(
        0.0,
        "Weight of the loss of attention, as TinyBERT has it: the mean square of the difference of "
        "the scores before the softmax. Both have as many heads.",
    )
    relation_weight: NonNegative = Key(
        0.0,
        "Weight of MiniLM's loss of the last layer: the divergence of its attention, and of the "
        "relations between its values, from the teacher's. Both have as many heads; the widths may "
        "differ.",
    )
    cosine_weight: NonNegative = Key(
        0.0,
        "Weight of DistilBERT's loss of the last hidden states: 1 less the cosine. Both have the "
        "same width.",
    )
    teacher_layers: Layers | None = Key(
        None,
        "Layers of the teacher, from 0, from which the layers of the network learn hidden states "
        "and attention, one for each; relations and the cosine are of the last. Not given: evenly, "
        "up to the teacher's last, as [1, 3, 5] of 6.",
    )

    @property
    def reads_layers(self):
        """Whether a loss reads what the teacher's layers compute: bool."""
        return any(getattr(self, name) for name in OF_LAYERS)

    def keeps_outputs(self, task):
        """Whether the teacher's outputs are kept, for a task: bool."""
        is_possible = task != MASKED_WORDS and not self.reads_layers
        return self.teacher_outputs != "computed" and is_possible


def distillation_faults(params):
    """Yields (key, text) where a training cannot learn what is asked for. params: Params."""
    cfg, run = params.distillation, params.runconfig
    if cfg is None or not run.is_training:
        return
    if cfg.teacher_outputs == "kept" and params.task == MASKED_WORDS:
        text = "is kept, but each epoch masks other words, so no outputs can be"
        yield "distillation.teacher_outputs", f"{text}; write computed, or leave the key out"
    learned = [name for name in OF_LAYERS if getattr(cfg, name)]
    if not cfg.soft_weight and not learned:
        text = "is 0, so nothing is learned from the teacher; leave the section distillation out"
        yield "distillation.soft_weight", f"{text}, or write a number above 0"
    for name in learned[:1]:
        text = f"is {getattr(cfg, name):g}, which reads the layers of both networks"
        if cfg.teacher_outputs == "kept":
            yield "distillation.teacher_outputs", f"is kept, but {name} {text}; write computed"
        if params.model.recompute:
            text += ", and model.recompute is true, which keeps none"
            yield f"distillation.{name}", f"{text}; write recompute: false"
        if params.model.r_drop_alpha:
            text += ", and model.r_drop_alpha computes each row of one of them twice"
            yield f"distillation.{name}", f"{text}; leave one of the two out"
    if cfg.teacher_layers is not None and not learned:
        text = f"is {as_yaml(cfg.teacher_layers)}, but nothing is learned from layers"
        weights = ", ".join(OF_LAYERS)
        yield "distillation.teacher_layers", f"{text}; give one of {weights}, or leave the key out"
    if cfg.student_layers is not None and run.checkpoint_path is not None:
        text = f"is {as_yaml(cfg.student_layers)}, and runconfig.checkpoint_path is given; the"
        text += " network begins with layers of the teacher or with a checkpoint"
        yield "distillation.student_layers", f"{text}, so leave one of the two out"
