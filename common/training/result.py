# SPDX-License-Identifier: Apache-2.0
"""Result: the typed outcome of a mode. Trainers, evaluators and exporters return it, and print
nothing; `run.py` prints it and keeps it in `runs/<id>/result-<mode>.json`."""

import math
import shlex
import time

from pydantic import BaseModel, ConfigDict, Field

from common.checkpoints import store
from common.console import format_duration


class Result(BaseModel):
    """What a mode did."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: str
    outcome: str  # a sentence
    model_dir: str
    seconds: float  # from the mode's beginning to its end
    step: int | None = None  # the global step of the weights; None where there is no one step
    figures: dict[str, float] = Field(default_factory=dict)  # of the last evaluation
    num_examples: int | None = None  # rows that the figures or the predictions are of
    examples_per_second: float | None = None  # of the last training steps
    num_parameters: int | None = None
    checkpoint: str | None = None  # path of the one that was made or used
    engine: str | None = None  # what computed with an export of it, and the path of that
    best_checkpoint: str | None = None  # path of the one that best.json names
    stopped_by: int | None = None  # number of the signal that ended the mode early
    written: tuple[str, ...] = ()  # paths
    not_written: tuple[str, ...] = ()  # sentences, where the mode did its work all the same
    lines: tuple[tuple[str, str], ...] = ()  # (name, text) for the reader, in order
    output: tuple[str, ...] = ()  # lines for the standard output, in place of `lines`
    predictions: tuple[dict, ...] = ()  # of the texts that the user gave: {"texts", columns}

    @property
    def exit_code(self):
        """0, 1 where something could not be written, or 128 + n after signal n."""
        if self.stopped_by is not None:
            return 128 + self.stopped_by
        return 1 if self.not_written else 0


def result_of(session, model, outcome, started, lines=(), checkpoint=None, **values):
    """Returns the Result of a mode that trained or evaluated in model_dir, with where all is.

    started: float, `time.monotonic()` of its beginning. lines: (name, text) of the figures.
    checkpoint: str, the one that was used; None: the newest.
    """
    model_dir, seconds = session.model_dir, time.monotonic() - started
    saved = store.list_checkpoints(model_dir)
    checkpoint = checkpoint or (saved and str(saved[-1][1])) or None
    best, described = store.describe_best(model_dir)
    places = [
        ("Checkpoint", checkpoint),
        ("Best", described),
        ("Metrics", str(model_dir / "metrics.jsonl")),
        ("Plots", str(model_dir / "plots")),
        ("TensorBoard", f"tensorboard --logdir {shlex.quote(str(model_dir))}"),
    ]
    done = ("Done", f"{outcome}, {format_duration(seconds)}")
    return Result(
        mode=session.mode,
        outcome=outcome,
        model_dir=str(model_dir),
        seconds=seconds,
        num_parameters=sum(math.prod(weight.shape) for weight in model.weights),
        checkpoint=checkpoint,
        best_checkpoint=best,
        lines=(done, *lines, *((name, text) for name, text in places if text is not None)),
        **values,
    )
