# SPDX-License-Identifier: Apache-2.0
"""runs/<id>/run.json of a model_dir, read: see common/training/run_record.py, which writes it."""

import json
from pathlib import Path

TRAINING_MODES = ("train", "train_and_eval")


def last_training(folder):
    """Returns run.json of the last start that trained: dict, {} where none is readable."""
    for path in sorted((Path(folder) / "runs").glob("*/run.json"), reverse=True):
        try:
            record = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if record.get("mode") in TRAINING_MODES:
            return record
    return {}
