# SPDX-License-Identifier: Apache-2.0
"""A trained model as a folder to keep or to send: the chosen checkpoint of a model_dir alone."""

import shutil
from pathlib import Path

from common.checkpoints import store
from common.errors import UserError

PARAMS = "params.yaml"


def chosen_checkpoint(model_dir):
    """Returns the path of the best checkpoint of a model_dir, else of the newest whole one."""
    if store.read_best(model_dir) is not None:
        return store.best_checkpoint(model_dir)
    for _, path in reversed(store.list_checkpoints(model_dir)):
        if store.fault_in(path) is None:
            return path
    raise UserError(f"{model_dir} has no whole checkpoint; train it first")


def copy_artefact(model_dir, folder):
    """Copies what every mode needs of a model_dir. Returns the path of the chosen checkpoint.

    folder: path, made here; it is a model_dir to every mode.
    """
    model_dir, folder = Path(model_dir), Path(folder)
    checkpoint = chosen_checkpoint(model_dir)
    shutil.copytree(checkpoint, folder / checkpoint.name)
    shutil.copyfile(model_dir / PARAMS, folder / PARAMS)
    if store.read_best(model_dir) is not None:
        shutil.copyfile(model_dir / store.BEST, folder / store.BEST)
    return checkpoint
