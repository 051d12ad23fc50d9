# SPDX-License-Identifier: Apache-2.0
"""What the folder of a run says of it: its params, its figures, how it ended. It imports no
TensorFlow, and reads runs that are still training."""

import dataclasses
import re
from pathlib import Path

import yaml

from common.checkpoints import store
from common.errors import UserError
from common.params.yaml_file import flattened
from common.reports.metrics_file import read_curves
from common.reports.run_json import last_training
from common.training.lock import is_held
from experiments.journal import values_of_runs
from utils import SAVED

# Params that say where a run is and not what it does, and those that tell repetitions apart.
PLACES = {"runconfig.model_dir", "runconfig.checkpoint_path"}
SEED = "runconfig.tf_random_seed"


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A model_dir in which a training was begun."""

    name: str
    path: Path
    params: dict  # {dotted key: value} of params.yaml
    record: dict  # run.json of its last training; {} where there is none
    step: int | None  # of its checkpoint: the best where one was chosen, else the newest
    figures: dict  # {name: float} of the evaluation of that step; of the last one without it
    num_evaluations: int
    values: dict | None = None  # of an experiment's run: what it varies

    @property
    def seed(self):
        return self.params.get(SEED)

    @property
    def varying(self):
        """The params that tell combinations apart: without the seed and the places.

        Of an experiment's run those that it varies, as its file has them: params.yaml has what a
        run made of them, such as the steps of a schedule.
        """
        if self.values is not None:
            return self.values
        return {k: v for k, v in self.params.items() if k != SEED and k not in PLACES}

    @property
    def state(self):
        """ "done", "running", "stopped", "failed", or "" where the folder does not say."""
        if not self.record:
            return ""
        code = self.record.get("exit_code")
        if code is None:
            return "running" if is_held(self.path) else "stopped"
        return "done" if code == 0 else "stopped" if code > 128 else "failed"


def read_run(folder, values=None):
    """Returns the RunFolder of a model_dir. Raises UserError where no training was begun in it.

    values: as of RunFolder.
    """
    folder = Path(folder)
    try:
        sections = yaml.safe_load((folder / SAVED).read_text("utf-8"))
        if not isinstance(sections, dict):
            raise ValueError("it holds no sections")
        params = flattened(sections)
    except FileNotFoundError:
        raise UserError(
            f"{folder} holds no {SAVED}: no training was begun there; name the --model_dir of one"
        ) from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{folder / SAVED} cannot be read: {error}") from None
    curves = read_curves(folder)
    steps = sorted(
        {step for (split, _), curve in curves.items() if split == "eval" for step in curve}
    )
    step = chosen_step(folder)
    evaluated = step if step in steps else steps[-1] if steps else None
    figures = {
        name: curve[evaluated]
        for (split, name), curve in curves.items()
        if split == "eval" and evaluated in curve
    }
    record = last_training(folder)
    return RunFolder(folder.name, folder, params, record, step, figures, len(steps), values)


def read_runs(folder):
    """Returns the RunFolders in a folder, in the order of their names, and itself if it is one."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; name one that holds the model_dirs of runs")
    if (folder / SAVED).is_file():
        return [read_run(folder)]
    found = [path.parent for path in folder.glob(f"*/{SAVED}")]
    if not found:
        raise UserError(
            f"{folder} holds no runs, which are folders with {SAVED}; name the folder that "
            "--model_dir of an experiment named"
        )
    values = values_of_runs(folder)
    return [
        read_run(path, values.get(path.name))
        for path in sorted(found, key=lambda path: natural(path.name))
    ]


def natural(name):
    """A key of order by which run-2 comes before run-10."""
    return [int(part) if part.isdigit() else part for part in re.split("([0-9]+)", name)]


def chosen_step(folder):
    """Returns the step of the best checkpoint, else of the newest, else None."""
    best = store.read_best(folder)
    if best is not None:
        return best["step"]
    saved = store.list_checkpoints(folder)
    return saved[-1][0] if saved else None
