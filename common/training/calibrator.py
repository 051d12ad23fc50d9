# SPDX-License-Identifier: Apache-2.0
"""`calibrate_temperature`, `tune_thresholds`: fits what makes answers right, after training."""

import json

import numpy as np

from common.checkpoints import store
from common.checkpoints.formats import ours
from common.checkpoints.load import open_checkpoint
from common.console import counted
from common.files import write_whole


def calibrate(session, evaluator, batches_of_split, steps):
    """Calibrates checkpoints of model_dir, and keeps what was fitted with them.

    batches_of_split: {split: Batches} to fit to. steps: set of int, the checkpoints; -1 is none.
    The evaluator's weights are then those of the last one.
    """
    results = {}
    for step in sorted(steps - {-1, None}):
        path = store.checkpoint_at(session.model_dir, step)
        if path is None or store.fault_in(path) is not None:
            continue  # the best of a run that has lost it
        checkpoint = open_checkpoint(path)
        evaluator.inference.load(checkpoint)
        _, total = evaluator.score(batches_of_split)
        fitted = results[path.name] = total.calibrate()
        changes = [
            f"{name.replace('_', ' ')} {value:.4f} -> {fitted['after'][name]:.4f}"
            for name, value in fitted["before"].items()
        ]
        value = fitted[total.fits]
        shown = ", ".join(f"{number:.4f}" for number in np.atleast_1d(value))
        evaluator.listeners.on_message(
            f"{total.fits.replace('_', ' ').capitalize()} {shown} of {path.name}, fitted to "
            f"{counted(fitted['num_examples'], 'row')}: {', '.join(changes)}"
        )
        is_new = checkpoint.config.get(total.fits) != value
        if is_new and session.distribution.is_chief:
            ours.update_config(path, **{total.fits: value})
    if session.distribution.is_chief:
        content = json.dumps(results, indent=2) + "\n"
        write_whole(session.model_dir / "eval" / "calibration.json", content)
