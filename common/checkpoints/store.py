# SPDX-License-Identifier: Apache-2.0
"""Our own checkpoints: `model_dir/checkpoint-<step>/`, whole or absent.

weights.safetensors          the network, under the neutral names of `names.py`
training_state.safetensors   optimizer slots, global step, loss scale
config.json, vocab.txt       the network's geometry and label names; the vocabulary
manifest.json                size and SHA-256 of every file above; written last

A checkpoint is written in a temporary sibling `.checkpoint-<step>.<process>.tmp`, flushed to disk,
and renamed into place, so a run killed at any moment leaves the earlier ones as they were; the next
save deletes what such a run left. safetensors rather than TensorFlow's own
bundle: it is read without importing TensorFlow (4 s), by other frameworks, and cannot hold code.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from common.checkpoints.names import LazyTensor
from common.errors import RunError, UserError

FORMAT, VERSION = "bert-classifier", 1
MANIFEST, CONFIG, VOCAB = "manifest.json", "config.json", "vocab.txt"
WEIGHTS, STATE = "weights.safetensors", "training_state.safetensors"
LOOKS_FOR = f"our own format, a checkpoint-<step> folder with {MANIFEST}, or a model_dir"
_NAME = re.compile(r"checkpoint-(\d+)(\.replaced)?")


def save_checkpoint(model_dir, step, weights, state, config, vocab, keep_max=0):
    """Writes a checkpoint and deletes the oldest beyond `keep_max`.

    Args:
        model_dir: path-like.
        step: int. The global step.
        weights, state: {name: NumPy array}.
        config: dict for `read_config`.
        vocab: list of str.
        keep_max: int. How many of the newest up to this step to keep; 0 keeps all.
    Returns:
        Path of the checkpoint.
    Raises:
        RunError: a number of it is not finite, or it cannot be written; what was there before is
            untouched.
    """
    path = Path(model_dir) / f"checkpoint-{step}"
    aside = Path(model_dir) / f".checkpoint-{step}.{os.getpid()}.tmp"
    # safetensors writes memory as it lies; asarray keeps scalars, ascontiguousarray would not.
    weights, state = (
        {name: np.asarray(array, order="C") for name, array in arrays.items()}
        for arrays in (weights, state)
    )
    for name, array in (*weights.items(), *state.items()):
        if not np.isfinite(array).all():
            raise RunError(
                f"{name} is not finite at step {step}: a gradient was infinite or not a number. "
                "What was saved before is whole. A lower learning rate, a longer warm-up or "
                "max_gradient_norm helps; with mixed_float16, loss_scaling_factor: dynamic"
            )
    try:
        _delete_leftovers(model_dir)
        aside.mkdir(parents=True)
        (aside / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False), "utf-8")
        (aside / VOCAB).write_text("".join(f"{token}\n" for token in vocab), "utf-8", newline="\n")
        for name, arrays in ((WEIGHTS, weights), (STATE, state)):
            save_file(arrays, aside / name)
            shutil.copymode(aside / CONFIG, aside / name)  # safetensors lets the owner alone read
        files = {
            name: {"size": (aside / name).stat().st_size, "sha256": _sha256(aside / name)}
            for name in (WEIGHTS, STATE, CONFIG, VOCAB)
        }
        manifest = {"format": FORMAT, "version": VERSION, "files": files}
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=2), "utf-8")
        for file in (*files, MANIFEST):
            _flush(aside / file)
        _flush(aside)
        _put_in_place(aside, path)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise RunError(
            f"checkpoint {path} could not be written: {getattr(error, 'strerror', None) or error}. "
            "Earlier checkpoints are whole; make room or choose another --model_dir, and run again"
        ) from error
    # Later ones are damaged, as this run began before them: no reason to delete this one.
    kept = [older for number, older in list_checkpoints(model_dir) if number <= step]
    for older in kept[:-keep_max] if keep_max else ():
        _delete(older)
    return path


def _put_in_place(aside, path):
    """Renames a folder to `path`. At every moment the old one or the new one is listed."""
    replaced = path.with_name(f"{path.name}.replaced")
    if path.exists():  # the same step again, after a resume from an earlier one
        os.replace(path, replaced)
    os.replace(aside, path)
    _flush(path.parent)
    if replaced.exists():
        _delete(replaced)


def _delete(path):
    """Deletes a checkpoint, which is renamed first so that half of one is never listed."""
    with contextlib.suppress(OSError):
        aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        os.replace(path, aside)
        shutil.rmtree(aside)


def _delete_leftovers(model_dir):
    """Deletes what killed runs left half written, half deleted, or already replaced."""
    for aside in Path(model_dir).glob(".checkpoint-*.tmp"):
        shutil.rmtree(aside, ignore_errors=True)
    for replaced in Path(model_dir).glob("checkpoint-*.replaced"):
        if replaced.with_suffix("").exists():
            _delete(replaced)


def list_checkpoints(model_dir):
    """Returns [(step, path)] of the checkpoints in a folder, oldest first, verified or not.

    `checkpoint-<step>.replaced` counts where the one that was to replace it did not come.
    """
    found = {}
    with contextlib.suppress(OSError):
        for path in sorted(Path(model_dir).iterdir()):
            if (match := _NAME.fullmatch(path.name)) and path.is_dir():
                found.setdefault(int(match[1]), path)
    return sorted(found.items())


def fault_in(path):
    """Returns what is wrong with a checkpoint, as a phrase, or None where every file verifies."""
    try:
        manifest = json.loads((Path(path) / MANIFEST).read_text("utf-8"))
        if (manifest["format"], manifest["version"]) != (FORMAT, VERSION):
            return f"{MANIFEST} is not of format {FORMAT}, version {VERSION}"
        for name, expected in manifest["files"].items():
            if Path(name).name != name:
                return f"{MANIFEST} names {name!r}, which is not a file beside it"
            file = Path(path) / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != expected["size"]:
                return f"{name} has {file.stat().st_size} bytes, not {expected['size']}"
            if _sha256(file) != expected["sha256"]:
                return f"{name} has other content than was written"
        missing = {WEIGHTS, CONFIG, VOCAB} - set(manifest["files"])
        return f"{MANIFEST} does not list {', '.join(sorted(missing))}" if missing else None
    except OSError as error:
        return f"{Path(error.filename or MANIFEST).name} cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST} is damaged"


def newest_checkpoint(model_dir, on_skip=lambda text: print(text, file=sys.stderr)):
    """Returns the path of the newest checkpoint that verifies, or None.

    on_skip: called with a sentence for each newer one that does not.
    """
    for _, path in reversed(list_checkpoints(model_dir)):
        fault = fault_in(path)
        if fault is None:
            return path
        on_skip(f"skipped {path}: {fault}")
    return None


def _resolve(path):
    """The checkpoint folder that `path` means: itself, or the newest in it where a model_dir."""
    path = Path(path)
    if (path / MANIFEST).is_file() or not list_checkpoints(path):
        return path
    return newest_checkpoint(path) or path


def is_checkpoint(path):
    """Whether `path` is a checkpoint of ours, or a folder that holds some."""
    return (Path(path) / MANIFEST).is_file() or bool(list_checkpoints(path))


def read_config(path):
    """Returns the geometry, `family` "ours", `label_names`, `step` and `vocab_file`.

    Raises:
        UserError: the checkpoint does not verify.
    """
    path = _resolve(path)
    fault = fault_in(path)
    if fault is not None:
        raise UserError(f"checkpoint {path} is damaged: {fault}; use another one")
    config = json.loads((path / CONFIG).read_text("utf-8"))
    return config | {"family": "ours", "vocab_file": str(path / VOCAB)}


def read_weights(path):
    """Returns {neutral name: LazyTensor}."""
    return _open_lazily(_resolve(path) / WEIGHTS)


def read_state(path):
    """Returns {name: LazyTensor} of the training state."""
    return _open_lazily(_resolve(path) / STATE)


def _open_lazily(file):
    tensors = safe_open(file, framework="numpy")
    return {
        name: LazyTensor(
            tuple(tensors.get_slice(name).get_shape()), lambda name=name: tensors.get_tensor(name)
        )
        for name in tensors.keys()  # noqa: SIM118 (not a mapping)
    }


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path):
    """Forces a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
