# SPDX-License-Identifier: Apache-2.0
"""The Session: everything that a mode needs, resolved. `session.open_session` at the root makes it.

Training, evaluation, prediction, export, validation, compilation and the CS target begin with one,
and import neither the network nor the data: they call what the Session holds of both.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.training.distribution import ONE_DEVICE, Distribution


@dataclasses.dataclass(frozen=True)
class Session:
    """The one resolution of Params, checkpoint, seed and data.

    Attributes:
        params: complete Params. Where faults are collected rather than raised, as complete as the
            rest allowed, see `is_complete`.
        make_model, model_fn: as in `model.py`.
        data: object with the functions of `data.py`: train_input_fn, eval_input_fn,
            predict_input_fn, get_text_features, describe.
        given_params: Params before they were completed, with the seed.
        params_path: str, the YAML file, for messages.
        checkpoint: Checkpoint whose weights are resumed, warm-started from or used; or None.
        resumed: path of the checkpoint of model_dir whose training goes on; or None.
        label_names: tuple of str.
        vocab: list of str, the token of each id; empty where it is not known.
        texts: list of tuples of str, given by the user to predict.
        distribution: Distribution.
        is_complete: bool. Whether the network is known.
    """

    params: Any
    make_model: Callable
    model_fn: Callable
    data: Any
    given_params: Any = None
    params_path: str = "the params file"
    checkpoint: Any = None
    resumed: Path | None = None
    label_names: tuple[str, ...] = ()
    vocab: list[str] = dataclasses.field(default_factory=list)
    texts: list[tuple[str, ...]] = dataclasses.field(default_factory=list)
    distribution: Distribution = ONE_DEVICE
    is_complete: bool = True

    @property
    def run(self):
        """RunParams."""
        return self.params.runconfig

    @property
    def mode(self):
        return self.params.runconfig.mode

    @property
    def model_dir(self):
        return Path(self.params.runconfig.model_dir)

    @property
    def is_training(self):
        return self.run.is_training

    @property
    def pretrained(self):
        """The Checkpoint to warm-start training from, or None."""
        return None if self.resumed else self.checkpoint

    @property
    def first_step(self):
        """The global step at which training begins: int."""
        return int(self.checkpoint.config["step"]) if self.resumed else 0

    @property
    def saved_params(self):
        """The Params that params.yaml keeps.

        The inputs are as given: a vocabulary in the folder of a checkpoint would not last.
        """
        return self.params.with_inputs_of(self.given_params)

    def new_model(self):
        """Returns a built model with fresh weights."""
        return self.make_model(self.params, self.label_names)

    def replace(self, **changes):
        """The same Session with other values of some attributes."""
        return dataclasses.replace(self, **changes)
