# SPDX-License-Identifier: Apache-2.0
"""This project's checkpoints: the files in a folder of `store.py`.

Weights have the neutral names. The training state has the names of `Optimizer.state` and
`RunState`.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from common.checkpoints import store
from common.checkpoints.containers import safetensors
from common.checkpoints.names import LazyTensor, StoredTensor, axes_of
from common.checkpoints.small_files import are_thresholds, read_json
from common.checkpoints.store import CONFIG, LIBRARY_VOCAB, MANIFEST, STATE, VOCAB, WEIGHTS
from common.checkpoints.vocab import write_vocab
from common.errors import RunError, UserError
from common.params import COMPUTED_KEYS, FROM_CHECKPOINT, ModelParams, keys_of

# The keys of ModelParams in the config of a checkpoint.
GEOMETRY = (*FROM_CHECKPOINT, *COMPUTED_KEYS, *keys_of(ModelParams, in_config=True))
# Key of a config -> its types, if it is there. The params check ranges.
TYPES_OF_CONFIG = {
    **dict.fromkeys(GEOMETRY, (int, float, bool, str)),
    "task": (str,),
    "label_names": (list,),
    "step": (int,),
    "do_lower_case": (bool,),
    "tf_random_seed": (int,),
    "best_metric": (str,),
    "temperature": (int, float),
    "machine": (dict,),
    "thresholds": (list,),
    "contents": (dict,),
}


def save_checkpoint(model_dir, step, weights, state, config, vocab, keep_max=0, keep=()):
    """Writes a checkpoint and deletes the oldest beyond `keep_max`.

    Args:
        model_dir: path-like, which exists.
        step: int. The global step.
        weights, state: {name: NumPy array}.
        config: dict for `read_config`.
        vocab: list of str.
        keep_max: int. How many of the newest up to this step to keep; 0 keeps all.
        keep: further steps to keep.
    Returns:
        Path of the checkpoint.
    Raises:
        RunError: a value is not finite, or the checkpoint cannot be written; earlier checkpoints
            are intact.
    """
    path = Path(model_dir) / f"checkpoint-{step}"
    # safetensors writes memory in its order; ascontiguousarray would turn scalars into vectors.
    weights, state = (
        {name: np.asarray(array, order="C") for name, array in arrays.items()}
        for arrays in (weights, state)
    )
    for name, array in (*weights.items(), *state.items()):
        if not np.isfinite(array).all():
            raise RunError(
                f"{name} is not finite at step {step}: a gradient was infinite or not a number. "
                "Earlier checkpoints are intact. A lower learning rate, a longer warm-up or "
                "max_gradient_norm helps; with mixed_float16, loss_scaling_factor: dynamic"
            )

    def write(folder):
        write_config(folder, config)
        vocab_name = write_vocab(folder, vocab)
        for name, arrays in ((WEIGHTS, weights), (STATE, state)):
            save_file(arrays, folder / name)
            # safetensors makes files that only their owner can read.
            shutil.copymode(folder / CONFIG, folder / name)
        names = (WEIGHTS, STATE, CONFIG, vocab_name)
        return {name: store.entry_of(folder / name) for name in names}

    store.write_checkpoint(path, write)
    store.delete_old(model_dir, step, keep_max, keep)
    return path


def update_config(path, **changes):
    """Replaces a checkpoint by one with `changes` in its config; its tensors are not copied.

    Raises:
        UserError: the checkpoint does not verify.
        RunError: it cannot be written; the former checkpoint is intact.
    """
    path = Path(path)
    check_whole(path)
    manifest = json.loads((path / MANIFEST).read_text("utf-8"))
    files, version = manifest["files"], manifest["version"]

    def write(folder):
        write_config(folder, json.loads((path / CONFIG).read_text("utf-8")) | changes)
        for name in files.keys() - {CONFIG}:
            try:
                os.link(path / name, folder / name)
            except OSError:  # a file system without links
                shutil.copy(path / name, folder / name)
        return files | {CONFIG: store.entry_of(folder / CONFIG, version)}

    store.write_checkpoint(path, write, version)


def write_config(folder, config):
    (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False), "utf-8")


def resolve(path):
    """The checkpoint folder of a path: the path, or the newest checkpoint in it."""
    path = Path(path)
    if (path / MANIFEST).is_file() or not store.list_checkpoints(path):
        return path
    return store.newest_checkpoint(path) or path


def check_whole(path):
    fault = store.fault_in(path)
    if fault is not None:
        raise UserError(f"checkpoint {path} is damaged: {fault}; use another one")


def is_checkpoint(path):
    return (Path(path) / MANIFEST).is_file() or bool(store.list_checkpoints(path))


def read_config(path):
    """Returns the geometry, `family` "ours", `label_names`, `step` and `vocab_file`.

    Raises UserError also if the checkpoint does not verify.
    """
    path = resolve(path)
    check_whole(path)
    config = check_config(read_json(path / CONFIG) or {}, path / CONFIG)
    names = (LIBRARY_VOCAB, VOCAB)
    vocab_file = next((path / name for name in names if (path / name).is_file()), path / VOCAB)
    return config | {"family": "ours", "vocab_file": str(vocab_file)}


def check_config(config, file):
    """Returns the config if its types are right: a malicious checkpoint's manifest can fit."""
    for key, kinds in TYPES_OF_CONFIG.items():
        value = config.get(key)
        is_right = value is None or (
            type(value) in kinds
            and (key != "label_names" or all(isinstance(name, str) for name in value))
            and (key != "temperature" or 0 < value < float("inf"))
            and (key != "machine" or all(isinstance(fact, str) for fact in value.values()))
            and (key != "thresholds" or are_thresholds(value))
        )
        if not is_right:
            raise UserError(f"{file} says {key} is {value!r:.80}, which no run writes")
    return config


def read_weights(path):
    return read_lazily(resolve(path) / WEIGHTS)


def read_state(path):
    """Returns {name: LazyTensor} of the training state."""
    return read_lazily(resolve(path) / STATE)


def read_lazily(file):
    return {name: LazyTensor(shape, read) for name, shape, _, read in safetensors.read(file)}


def list_tensors(path):
    folder = resolve(path)
    return [
        StoredTensor(name, shape, dtype, read, name if axes_of(name) else None, file == STATE)
        for file in (WEIGHTS, STATE)
        if (folder / file).is_file()
        for name, shape, dtype, read in safetensors.read(folder / file)
    ]
