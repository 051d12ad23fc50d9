# SPDX-License-Identifier: Apache-2.0
"""TensorFlow's name-based checkpoints, as `tf.compat.v1.train.Saver` writes them.

A checkpoint is `<prefix>.index` and `<prefix>.data-00000-of-0000N`. `google_tf1.py` and
`cerebras_tf.py` use it.
"""

import glob
import os
import re
import shutil
import tempfile
import weakref
from functools import partial
from pathlib import Path

import numpy as np

from common.checkpoints.containers.tf_index import crc32c, masked, read_index
from common.checkpoints.names import StoredTensor
from common.checkpoints.small_files import MAX_YAML_BYTES, brief, read_small, reading
from common.errors import UserError

MAX_INDEX_BYTES = 2_000_000  # BERT large with Adam's slots has 60,000
FILE = re.compile(r"\.(index|data-\d{5}-of-\d{5})$")
SUFFIX = re.compile(rf"{FILE.pattern}|\.meta$")
# Training state, besides optimizer slots, which are named after their variable.
STATE = re.compile(r"global_step|beta[12]_power|.*loss_scale.*|_CHECKPOINTABLE_OBJECT_GRAPH")


def find_prefix(path):
    """The prefix of the checkpoint at a path, as str; None if there is none.

    path: a prefix, one of its files, or a folder: the checkpoint that the state file `checkpoint`
    names, else that of the highest step.
    """
    path = Path(path)
    if not path.is_dir():
        prefix = SUFFIX.sub("", str(path))
        files = filter(FILE.search, glob.glob(f"{glob.escape(prefix)}.*"))
        return prefix if any(map(os.path.isfile, files)) else None
    try:
        names = [p.name.removesuffix(".index") for p in path.glob("*.index") if p.is_file()]
    except OSError:
        return None
    if not names:
        return None
    named = named_by_state_file(path / "checkpoint")
    return str(path / (named if named in names else max(names, key=step_of)))


def named_by_state_file(path):
    """The newest checkpoint's name in a file `checkpoint`, without folder, or None."""
    try:
        text = (read_small(path, MAX_YAML_BYTES) or b"").decode("utf-8", "replace")
    except (OSError, ValueError):
        return None
    match = re.search(r'^model_checkpoint_path: *"(.*)"', text, re.MULTILINE)
    return Path(match[1]).name if match else None


def step_of(name):
    """Sort key of `model.ckpt-1000`: step, then name; names without a number come first."""
    match = re.search(r"-(\d{1,18})$", name)
    return (int(match[1]) if match else -1, name)


def list_variables(prefix, neutral_name, transposed=()):
    """Every variable of a checkpoint, sorted by name: list of StoredTensor.

    neutral_name: callable(name, dict of all names) -> the neutral name or None; transposed: neutral
    names of kernels that are stored [out, in].

    Raises:
        UserError: a file is missing or damaged.
    """
    index = Path(f"{prefix}.index")
    check_is_there(index)
    with reading(index):
        num_shards, entries = read_index(read_small(index, MAX_INDEX_BYTES))
    files = {
        shard: Path(f"{prefix}.data-{shard:05d}-of-{num_shards:05d}")
        for shard in sorted({entry.shard for entry in entries.values()})
    }
    for file in files.values():
        check_is_there(file)
    for entry in entries.values():
        size = files[entry.shard].stat().st_size
        if entry.offset + entry.size > size:
            raise UserError(
                f"{files[entry.shard]} cannot be read: its {size:,} bytes are not as many as "
                f"{index.name} says; copy or download both again"
            )
    reader = Reader(prefix, files, entries)
    tensors = []
    for name, entry in entries.items():
        is_slot = name.rpartition("/")[0] in entries
        is_state = is_slot or STATE.fullmatch(name) is not None
        weight = None if is_state else neutral_name(name, entries)
        is_number = entry.shape == () and entry.dtype != "string"
        read = partial(reader.read_number if is_number else reader.read, name)
        facts = (weight, is_state, weight in transposed)
        tensor = StoredTensor(name, entry.shape, entry.dtype, read, *facts)
        if tensor.dtype != "string" and tensor.num_bytes != entry.size:
            raise UserError(
                f"{index} says that {brief(name)} of shape {list(entry.shape)} takes "
                f"{entry.size:,} bytes, not {tensor.num_bytes:,}; copy or download the "
                "checkpoint again"
            )
        tensors.append(tensor)
    return tensors


def check_is_there(file):
    if not file.is_file():
        raise UserError(f"{file} is missing; a checkpoint has this file too, copy it there")


class Reader:
    """Reads the values of variables and checks them against their checksums."""

    def __init__(self, prefix, files, entries):
        self.prefix, self.files, self.entries = prefix, files, entries
        self.reader = None

    def read(self, name):
        """The values of a variable, read by TensorFlow, whose checksums are fast."""
        import tensorflow as tf

        try:
            if self.reader is None:
                self.reader = tf.train.load_checkpoint(self.plain_prefix())
            return self.reader.get_tensor(name)
        except (tf.errors.OpError, RuntimeError, ValueError, TypeError, MemoryError) as error:
            raise self.damaged(name, brief(error)) from None

    def plain_prefix(self):
        """The prefix for TensorFlow, which takes [, * and ? for a pattern: then one of links."""
        if glob.escape(self.prefix) == self.prefix:
            return self.prefix
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        for file in (f"{self.prefix}.index", *map(str, self.files.values())):
            os.symlink(os.path.abspath(file), f"{folder}/ckpt{file.removeprefix(self.prefix)}")
        return f"{folder}/ckpt"

    def read_number(self, name):
        """The value of a scalar variable, read without TensorFlow."""
        entry = self.entries[name]
        with open(self.files[entry.shard], "rb") as file:
            file.seek(entry.offset)
            content = file.read(entry.size)
        if masked(crc32c(content)) != entry.checksum:
            raise self.damaged(name, "its checksum is wrong")
        return np.frombuffer(content, entry.dtype).reshape(())

    def damaged(self, name, reason):
        return UserError(
            f"{self.prefix}: {name} cannot be read, it is damaged ({reason}); copy or download the "
            "checkpoint again"
        )


def read_step(tensors):
    """{"step": int} of a checkpoint's global_step; {} if it has none."""
    for tensor in tensors:
        if tensor.name == "global_step" and tensor.shape == () and tensor.dtype != "string":
            return {"step": int(tensor.read())}
    return {}


def write(prefix, tensors):
    """Writes `<prefix>.index` and `<prefix>.data-00000-of-00001`, as `tf.train.Saver` does.

    prefix: path-like; tensors: {name: array}.
    """
    import tensorflow as tf

    with tf.device("/cpu:0"):
        tf.raw_ops.SaveV2(
            prefix=str(prefix),
            tensor_names=list(tensors),
            shape_and_slices=[""] * len(tensors),
            tensors=list(tensors.values()),
        )
