# SPDX-License-Identifier: Apache-2.0
"""What the main environment passes to that of the SDK: a folder, `model_dir/cs/job`.

job.json               the fields of `Job`
rows-<split>.safetensors   `rows.Rows` of each split; none if a validation has no data
initial.safetensors    initial weights by neutral name; none where training resumes
vocab.txt              the vocabulary, which is saved with every checkpoint
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from common.cs.rows import Rows
from common.params import Params

JOB, INITIAL, VOCAB = "job.json", "initial.safetensors", "vocab.txt"


@dataclass(frozen=True)
class Job:
    """A run on the CS target.

    Attributes:
        params: complete Params as plain values.
        action: "validate", "compile" or "run".
        first_step, last_step: int. Of training.
        resumed: path of the checkpoint to continue from, in this project's format, or None.
        checkpoint: path of the weights to load, of any format, or None.
        address: "host:port" of the cluster, or None.
        label_names: list of str.
        config: dict, the entries of a checkpoint's config.json besides the geometry.
        class_weights: list of float, or None.
        splits: list of str, in order.
        texts: {split: list of tuples of str}, in a prediction.
        notes: list of str, for the report.
    """

    params: dict
    action: str
    first_step: int
    last_step: int
    resumed: str | None
    checkpoint: str | None
    address: str | None
    label_names: list
    config: dict
    class_weights: list | None
    splits: list
    texts: dict
    notes: list

    def write(self, folder):
        (Path(folder) / JOB).write_text(json.dumps(asdict(self), ensure_ascii=False), "utf-8")

    @classmethod
    def read(cls, folder):
        return cls(**json.loads((Path(folder) / JOB).read_text("utf-8")))

    def read_params(self):
        return Params.model_validate(self.params)


def rows_path(folder, split):
    return Path(folder) / f"rows-{split}.safetensors"


def read_rows(folder, split):
    return Rows.read(rows_path(folder, split))


def read_vocab(folder):
    return (Path(folder) / VOCAB).read_text("utf-8").removesuffix("\n").split("\n")
