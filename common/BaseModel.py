# SPDX-License-Identifier: Apache-2.0
"""What `model_fn` and the loop ask of every model: four `build_*` methods and named weights.

The method names are those of the original Cerebras model. A model is its network with its loss and
its metrics; optimizer and loop are in `common/optimizers` and `common/training`.
"""

import keras

from common.backbones.backbone import Backbone
from common.layers.dropout import DropoutClock

TRAIN, EVAL, PREDICT = "train", "eval", "predict"


class BaseModel(keras.Model):
    """A network that `model_fn` can train, evaluate and predict with.

    `build()` takes no shape: every weight's shape follows from the constructor's arguments, so that
    a checkpoint can be loaded before the first batch is seen.

    Args:
        backbone: Backbone.
        **kwargs: of keras.Model.
    Attributes:
        backbone: Backbone, with its layers `embeddings` and `encoder` as attributes here: their
            weights are then named and saved by these words.
        clock: DropoutClock. The training step sets `clock.step`, several devices `clock.share`.
        classifier: the keras.layers.Dense that gives the logits.
    """

    backbone: Backbone
    embeddings: keras.layers.Layer
    encoder: keras.layers.Layer
    clock: DropoutClock
    classifier: keras.layers.Dense

    def __init__(self, backbone, **kwargs):
        super().__init__(**kwargs)
        self.backbone = backbone
        self.embeddings, self.encoder = backbone.embeddings, backbone.encoder
        self.clock = backbone.clock

    def build_model(self, features, mode):
        """Runs the network. features: dict of tensors; mode: TRAIN, EVAL or PREDICT.

        Returns logits, <float32>.
        """
        raise NotImplementedError

    def build_total_loss(self, logits, labels):
        """Returns the loss that training minimises, <float32>[]: a mean over the batch."""
        raise NotImplementedError

    def prepare_training(self, labels):
        """Called once before training, with the label of every training row: array [N].

        Returns a list of sentences for the log.
        """
        del labels
        return []

    def build_train_ops(self, total_loss):
        """Returns the list of variables that `total_loss` is to train."""
        raise NotImplementedError

    def build_eval_metric_ops(self, logits, labels):
        """Returns {name: float} from NumPy arrays over every row of a split."""
        raise NotImplementedError

    def loss_variables(self):
        """Returns {name: Keras variable} of what the loss reads and no checkpoint holds."""
        return {}

    def all_dense(self):
        """Returns the Dense layers whose kernels a pass over a split rounds once."""
        return self.backbone.all_dense()

    def weights_by_name(self):
        """Returns {neutral name: Keras variable}; the names of `common/checkpoints/names.py`.

        The name is the variable's path below the model: `encoder/layer_0/attention/query/kernel`.
        """
        return {weight.path.split("/", 1)[1]: weight for weight in self.weights}
