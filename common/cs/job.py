# SPDX-License-Identifier: Apache-2.0
"""What the main environment passes to that of the SDK: a folder, `model_dir/cs/job`.

job.json               the fields of `Job`
rows-<split>.safetensors   `rows.Rows` of each split; split `zeros` if a validation has no data
rows-<split>.npy           `streamed_rows.StreamedRows` in their place, of pre-training
initial.safetensors    initial weights by neutral name; none where training resumes
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from common.cs.rows import Rows
from common.cs.streamed_rows import StreamedRows

JOB, INITIAL = "job.json", "initial.safetensors"
WHOLE, STREAMED = ".safetensors", ".npy"
READERS = {WHOLE: Rows.read, STREAMED: StreamedRows}


@dataclass(frozen=True)
class Job:
    """A run on the CS target."""

    params: dict  # complete Params as plain values
    action: str  # "validate", "compile" or "run"
    first_step: int  # of training
    last_step: int
    resumed: str | None  # path of the checkpoint to continue from, in this project's format
    checkpoint: str | None  # path of the weights to load, of any format
    address: str | None  # "host:port" of the cluster
    label_names: list[str]
    vocab: list[str]
    config: dict  # of `config_of`, in a training
    class_weights: list[float] | None
    splits: list[str]  # in order
    texts: dict[str, list]  # in a prediction: {split: list of tuples of str}
    notes: list[str]  # for the report
    evaluation: dict = field(default_factory=dict)  # of `facts_of`, in an evaluation
    baselines: dict = field(default_factory=dict)  # of BaseModel, in a training

    def write(self, folder):
        (Path(folder) / JOB).write_text(json.dumps(asdict(self), ensure_ascii=False), "utf-8")

    @classmethod
    def read(cls, folder):
        return cls(**json.loads((Path(folder) / JOB).read_text("utf-8")))


def rows_path(folder, split, suffix=WHOLE):
    return Path(folder) / f"rows-{split}{suffix}"


def find_rows(folder, split):
    """Returns the Path of the rows of a split."""
    paths = [rows_path(folder, split, suffix) for suffix in READERS]
    return next(path for path in paths if path.exists())


def read_rows(path):
    """Returns the Rows or StreamedRows of a file."""
    return READERS[Path(path).suffix](path)
