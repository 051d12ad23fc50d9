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
    """The one resolution of Params, checkpoint, seed and data."""

    # Complete Params. Where faults are collected rather than raised, as complete as the rest
    # allowed: see `is_complete`.
    params: Any
    make_model: Callable  # as in `model.py`, as is model_fn
    model_fn: Callable
    # Has train_input_fn, eval_input_fn, predict_input_fn, summarize, get_text_features and describe
    # of `data.py`.
    data: Any
    given_params: Any = None  # Params before they were completed, with the seed
    params_path: str = "the params file"  # the YAML file, for messages
    checkpoint: Any = None  # Checkpoint whose weights are resumed, warm-started from or used
    teacher: Any = None  # Checkpoint that a training learns from, or None
    resumed: Path | None = None  # the checkpoint of model_dir whose training goes on
    label_names: tuple[str, ...] = ()
    vocab: list[str] = dataclasses.field(default_factory=list)  # empty where it is not known
    texts: list[tuple[str, ...]] = dataclasses.field(default_factory=list)  # to predict
    distribution: Distribution = ONE_DEVICE
    is_complete: bool = True  # whether the network is known
    input_file: str | None = None  # of rows, which the user named to predict
    contents: dict[str, str] = dataclasses.field(default_factory=dict)  # of `data.contents`
    # Of a training with max_seconds: the Params whose schedules are still shares of its length,
    # and what `budget.py` made of it, which checkpoints keep.
    before_length: Any = None
    budget: dict[str, float] | None = None

    @property
    def run(self):
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
        model = self.make_model(self.params, self.label_names)
        vars(model)["vocab"] = tuple(self.vocab)  # Keras would look at each entry: 0.2 s
        return model
