# SPDX-License-Identifier: Apache-2.0
"""What the program asks of every task: four `build_*` methods, its answers, and named weights.

The names of the four methods are those of the original Cerebras model. Optimizer and loop are in
`common/optimizers` and `common/training`.
"""

import keras
import numpy as np

from common.backbones.backbone import Backbone
from common.layers.dropout import DropoutClock

TRAIN, EVAL, PREDICT = "train", "eval", "predict"


class BaseModel(keras.Model):
    """A task: a network that `model_fn` can train, evaluate and predict with.

    `build()` takes no shape: every weight's shape follows from the constructor's arguments, so that
    a checkpoint can be loaded before the first batch is seen.

    Outputs are {name: tensor}, targets {name: tensor [B, ...]} as the task declares them.
    """

    backbone: Backbone
    embeddings: keras.layers.Layer  # of the backbone: weights are named and saved by these words
    encoder: keras.layers.Layer
    clock: DropoutClock  # the training step sets `clock.step`, several devices `clock.share`
    # Tasks import this file, which imports none of theirs.
    targets: object  # Targets of `tasks/targets.py`, or their class where it has all shapes
    answer: object  # Answer of `tasks/answer.py`, what the outputs of a row mean
    label_names: tuple[str, ...]  # what the outputs of a row are called
    task: str | None = None  # its name in the table of `model.py`; None fits every checkpoint
    head: dict  # {layer: what its outputs are called, or None}; see `checkpoints/load.py`

    def __init__(self, backbone, **kwargs):
        super().__init__(**kwargs)
        self.backbone = backbone
        self.embeddings, self.encoder = backbone.embeddings, backbone.encoder
        self.clock = backbone.clock

    def build_model(self, features, mode):
        """Returns outputs. features: dict of tensors; mode: TRAIN, EVAL or PREDICT."""
        raise NotImplementedError

    def build_total_loss(self, outputs, targets):
        """Returns the loss that training minimises, <float32>[]: a mean over the batch."""
        raise NotImplementedError

    def prepare_training(self, targets):
        """Called once before training, with those of every training row: {name: array [N, ...]}.

        Returns a list of sentences for the log.
        """
        return []

    def build_train_ops(self, total_loss):
        """Returns the list of variables that `total_loss` is to train."""
        raise NotImplementedError

    def build_eval_metric_ops(self):
        """Returns Metrics (`common/metrics/row_metrics.py`) without any rows."""
        raise NotImplementedError

    def predictions(self, outputs):
        """Returns a record for each row, for people and files: list of {column: str or float}.

        outputs: {name: array [N, ...]}.
        """
        raise NotImplementedError

    def compare(self, outputs, targets):
        """Returns what is true of each row, beside its record of `predictions`, and how sure its
        mistake is.

        outputs, targets: {name: array [N, ...]}. Returns list of {column: str or float}, of ""
        where no truth is known; float64 [N]: 0 where the answer is right or no truth is known, else
        the larger, the surer it was.
        """
        num_rows = len(next(iter(outputs.values())))
        return [{}] * num_rows, np.zeros(num_rows)

    def shorten(self, record):
        """Returns what a line on the terminal shows of a record of `predictions`: list of str."""
        raise NotImplementedError

    def export_outputs(self, outputs):
        """Returns {name: tensor}, the outputs of a SavedModel. outputs: of `build_model`."""
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

    def all_dense(self):
        """Returns the Dense layers whose kernels a pass over a split rounds once."""
        return self.encoder.all_dense()

    def weights_by_name(self):
        """Returns {neutral name: Keras variable}; the names of `common/checkpoints/names.py`.

        The name is the variable's path below the model: `encoder/layer_0/attention/query/kernel`.
        """
        return {weight.path.split("/", 1)[1]: weight for weight in self.weights}
