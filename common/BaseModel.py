# SPDX-License-Identifier: Apache-2.0
"""What the program asks of every task: four `build_*` methods, its answers, and named weights.

The names of the four methods are those of the original Cerebras model. Optimizer and loop are in
`common/optimizers` and `common/training`.
"""

from typing import ClassVar

import keras
import numpy as np

from common.backbones.backbone import Backbone
from common.layers.dropout import DropoutClock
from common.metrics.row_metrics import RowMetrics

TRAIN, EVAL, PREDICT = "train", "eval", "predict"


class BaseModel(keras.Model):
    """A task: a network that `model_fn` can train, evaluate and predict with.

    `build()` takes no shape: every weight's shape follows from the constructor's arguments, so that
    a checkpoint can be loaded before the first batch is seen.

    Outputs are {name: tensor}, targets {name: tensor [B, ...]} as the task declares them.
    """

    backbone: Backbone
    is_mask_inverted: bool  # whether input_mask is 1 on padding
    embeddings: keras.layers.Layer  # of the backbone: weights are named and saved by these words
    encoder: keras.layers.Layer
    clock: DropoutClock  # the training step sets `clock.step`, several devices `clock.share`
    # Tasks import this file, which imports none of theirs.
    targets: object  # Targets of `tasks/targets.py`, or their class where it has all shapes
    answer: object  # Answer of `tasks/answer.py`, what the outputs of a row mean
    label_names: tuple[str, ...]  # what the outputs of a row are called
    vocab: tuple[str, ...] = ()  # of the tokens, where a Session knows it
    task: str | None = None  # its name in the table of `model.py`; None fits every checkpoint
    loss_figures: tuple[str, ...] = ("train/cost_cls",)  # names of `build_losses`
    # What to compare the loss with, {short name: float}; `prepare_training` may set it.
    baselines: dict[str, float]
    ignores_head = False  # a warm start leaves the whole head fresh
    has_scores = False  # Metrics are given `build_scores`, and not the outputs
    # {name: TargetSpec} of what a training brings beside the task's targets: a teacher's outputs.
    training_targets: ClassVar = {}
    teacher: object  # Teacher of `tasks/distillation.py`, of a distilled task alone
    head: dict  # {layer: what its outputs are called, or None}; see `checkpoints/load.py`
    export_formats: tuple[str, ...] = ()  # those of --export_format that can hold its answers
    served_features: tuple[str, ...] = ()  # features that a SavedModel answers with, too
    needs_all = False  # whether all token vectors are computed, also those that no head reads
    head_dropout_rate = 0.0  # before the last layer of the head

    def __init__(self, backbone, cfg, **kwargs):
        """cfg: InputParams, of what all inputs have the same."""
        super().__init__(**kwargs)
        self.backbone, self.is_mask_inverted = backbone, cfg.invert_mask
        self.embeddings, self.encoder = backbone.embeddings, backbone.encoder
        self.clock = backbone.clock
        self.baselines = {}

    @property
    def described(self):
        """What a checkpoint of this task is, for messages: str, after "a"."""
        return f"model for task: {self.task}"

    def build_model(self, features, mode):
        """Returns outputs. features: dict of tensors; mode: TRAIN, EVAL or PREDICT."""
        raise NotImplementedError

    def build_total_loss(self, outputs, targets):
        """Returns the loss that training minimises, <float32>[]: a mean over the batch."""
        raise NotImplementedError

    def build_losses(self, outputs, targets):
        """Returns the losses of `loss_figures`, list of <float32>[]; the first is the total."""
        return [self.build_total_loss(outputs, targets)]

    def loss_share(self, targets):
        """Returns of how many things the loss of a batch is the mean, <float32>[], where not of its
        rows, of which several devices have the same number; None: of its rows."""
        return None

    def build_scores(self, outputs, targets):
        """Returns what Metrics need of a batch, {name: tensor}, where `has_scores`: computed beside
        the outputs, so that these, such as the logits of all words, do not leave the device."""
        raise NotImplementedError

    def prepare_training(self, targets, token_counts=None):
        """Called once before training.

        targets: those of every training row, {name: array [N, ...]}. token_counts: int [V], how
        often its rows have each token, where the data knows it. Returns a list of sentences for
        the log.
        """
        return []

    def build_train_ops(self, total_loss):
        """Returns the list of variables that `total_loss` is to train."""
        raise NotImplementedError

    def build_eval_metric_ops(self):
        """Returns Metrics (`common/metrics/row_metrics.py`) without any rows."""
        raise NotImplementedError

    def build_gathered(self):
        """Returns RowMetrics without any rows, which gather what `predictions` takes."""
        return RowMetrics()

    def predictions(self, outputs, origins=None):
        """Returns a record for each row, for people and files: list of {column: str or float}.

        outputs: {name: array [N, ...]}. origins: Origins of `input/rows.py`, which a task that
        answers for words needs.
        """
        raise NotImplementedError

    def prediction_files(self, outputs, targets, origins):
        """Returns {suffix: text} of further files of predictions."""
        return {}

    def compare(self, outputs, targets, origins=None):
        """Returns what is true of each row, beside its record of `predictions`, and how sure its
        mistake is.

        outputs, targets: {name: array [N, ...]}; origins: as of `predictions`. Returns list of
        {column: str or float}, of ""
        where no truth is known; float64 [N]: 0 where the answer is right or no truth is known, else
        the larger, the surer it was.
        """
        num_rows = len(next(iter(outputs.values())))
        return [{}] * num_rows, np.zeros(num_rows)

    def shorten(self, record):
        """Returns what a line on the terminal shows of a record of `predictions`: list of str."""
        raise NotImplementedError

    def rank(self, record):
        """Returns what orders the answers to a question of a folder of texts, the least first, by
        their records: tuple; empty, as here: the order of the texts."""
        return ()

    def answers(self, features):
        """Returns {name: tensor}, the outputs of a SavedModel. features: the documented ones."""
        return self.export_outputs(self.build_model(features, PREDICT))

    def export_outputs(self, outputs):
        """Returns those of `answers` that are made of outputs, which `build_model` returns."""
        raise NotImplementedError

    def decoder_settings(self, cfg):
        """Returns {name: value} for decoder.json, where its Answer has a decoder. cfg: InputParams,
        of what is predicted."""
        return {}

    def onnx_outputs(self):
        """Returns {name: list of str or int, its axes}, the outputs of `write_onnx`."""
        raise NotImplementedError

    def write_onnx(self, graph):
        """Adds the network, up to its `onnx_outputs`, to a BertGraph of `export/onnx.py`."""
        raise NotImplementedError

    def checkpoint_config(self):
        """Returns what a checkpoint's config says of the task, besides the network's geometry."""
        return {}

    def restore(self, config):
        """Takes what the task kept in a checkpoint's config. Returns clauses for the log."""
        return []

    def fold_calibration(self):
        """Puts what `restore` took into the weights. Returns lines of a summary, (name, text)."""
        return []

    def loss_variables(self):
        """Returns {name: Keras variable} of what the loss reads and no checkpoint holds."""
        return {}

    def network_features(self, features):
        """Returns the documented features with `padding_mask`, 1 on real tokens, for the backbone.

        What a 1 of `input_mask` means, `invert_mask` says.
        """
        features = dict(features)
        input_mask = features.pop("input_mask")
        features["padding_mask"] = 1 - input_mask if self.is_mask_inverted else input_mask
        return features

    def freeze(self, names):
        """Leaves parts out of `trainable_weights`. names: of `model.freeze`."""
        for name in names:  # dropout is drawn in frozen layers too
            part, _, count = name.partition(":")
            # `layers:N` is the first N of the encoder; other names are attributes.
            parts = self.encoder.layers[: int(count)] if part == "layers" else [getattr(self, part)]
            for each in parts:
                each.trainable = False

    def all_dense(self):
        """Returns the Dense layers whose kernels a pass over a split rounds once."""
        return self.encoder.all_dense()

    def weights_by_name(self):
        """Returns {neutral name: Keras variable}; the names of `common/checkpoints/names.py`.

        The name is the variable's path below the model: `encoder/layer_0/attention/query/kernel`.
        """
        return {weight.path.split("/", 1)[1]: weight for weight in self.weights}
