# SPDX-License-Identifier: Apache-2.0
"""Which checkpoints of our own there are: `model_dir/checkpoint-<step>/`, whole or absent.

weights.safetensors          the network, under the neutral names of `names.py`
training_state.safetensors   optimizer slots, global step, loss scale, what the run remembers
config.json, vocab.txt       the network's geometry and label names; the vocabulary
manifest.json                size and BLAKE2b digest of every file above; written last

`formats/ours.py` writes and reads what stands in the files.

`model_dir/best.json` names the one with the best evaluation, which is never deleted.

A checkpoint is written in a temporary sibling `.checkpoint-<step>.<process>.tmp`, flushed to disk,
and renamed into place, so a run killed at any moment leaves the earlier ones as they were; the next
save deletes what such a run left. safetensors rather than TensorFlow's own bundle: it is read
without importing TensorFlow (4 s), by other frameworks, and cannot hold code. BLAKE2b rather than
SHA-256: without special instructions of the processor it takes a fifth of the time.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from pathlib import Path

from safetensors import SafetensorError

from common.console import log
from common.errors import RunError, UserError
from common.files import flush, write_whole

FORMAT, VERSION = "bert-classifier", 2
DIGESTS = {1: "sha256", 2: "blake2b"}  # version of a manifest -> how its files are hashed
MANIFEST, CONFIG, VOCAB = "manifest.json", "config.json", "vocab.txt"
BEST = "best.json"
WEIGHTS, STATE = "weights.safetensors", "training_state.safetensors"
_NAME = re.compile(r"checkpoint-(\d+)(\.replaced)?")
# Beside its tensors a checkpoint has names, a vocabulary, a config, and a file system's own needs.
SPACE_BESIDE_TENSORS = 4_000_000


def write_checkpoint(path, write, version=VERSION):
    """Writes a checkpoint's files, which appear at `path` when all of them are whole on disk.

    Args:
        path: Path, model_dir/checkpoint-<step>. The model_dir is there.
        write: callable on the folder to write into. Returns {file: its `entry_of`}.
        version: int, of the manifest.
    Raises:
        RunError: it cannot be written; what was there before is untouched.
    """
    aside = path.with_name(f".checkpoint-{_NAME.fullmatch(path.name)[1]}.{os.getpid()}.tmp")
    try:
        delete_leftovers(path.parent)
        aside.mkdir()  # not its parents: a model_dir that has vanished is not made anew
        manifest = {"format": FORMAT, "version": version, "files": write(aside)}
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=2), "utf-8")
        for file in (*manifest["files"], MANIFEST):
            flush(aside / file)
        flush(aside)
        _put_in_place(aside, path)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        advice = "Earlier checkpoints are whole; make room or choose another --model_dir"
        if not path.parent.exists():
            advice = f"{path.parent} is gone: put it back, with the checkpoints it has"
        reason = getattr(error, "strerror", None) or error
        raise RunError(
            f"checkpoint {path} could not be written: {reason}. {advice}, and run again"
        ) from error


def entry_of(file, version=VERSION):
    """What a manifest says of a file: {"size", its digest}. file: Path."""
    algorithm = DIGESTS[version]
    return {"size": file.stat().st_size, algorithm: digest_of(file, algorithm)}


def delete_old(model_dir, step, keep_max, keep=()):
    """Deletes the oldest checkpoints beyond `keep_max`. step: the newest of this run.

    keep_max: int, 0 keeps all; keep: steps to keep besides.
    """
    # Later ones are damaged, as this run began before them: no reason to delete this one.
    steps = [(number, path) for number, path in list_checkpoints(model_dir) if number <= step]
    for number, path in steps[:-keep_max] if keep_max else ():
        if number not in keep:
            _delete(path)


def check_space(model_dir, num_bytes):
    """Looks whether a checkpoint fits on the disk, before anything of it is written.

    Args:
        model_dir: path-like, which may be absent.
        num_bytes: int. Of all tensors.
    Raises:
        RunError: it does not.
    """
    folder = Path(model_dir).absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return  # writing will tell
    needed = num_bytes + SPACE_BESIDE_TENSORS
    if free < needed:
        raise RunError(
            f"a checkpoint needs {needed / 1e6:,.0f} MB, and {model_dir} has {free / 1e6:,.0f} MB "
            "free. Earlier checkpoints are whole; make room or choose another --model_dir, and run "
            "again"
        )


def _put_in_place(aside, path):
    """Renames a folder to `path`. At every moment the old one or the new one is listed."""
    replaced = path.with_name(f"{path.name}.replaced")
    if path.exists():  # the same step again, after a resume from an earlier one
        os.replace(path, replaced)
    os.replace(aside, path)
    flush(path.parent)
    if replaced.exists():
        _delete(replaced)


def _delete(path):
    """Deletes a checkpoint, which is renamed first so that half of one is never listed."""
    with contextlib.suppress(OSError):
        aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        os.replace(path, aside)
        shutil.rmtree(aside)


def delete_leftovers(model_dir):
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


# Checkpoints that this process has verified: path -> what the file system said of their files.
_verified: dict[Path, tuple] = {}


def fault_in(path):
    """Returns what is wrong with a checkpoint, as a phrase, or None where every file verifies.

    A start asks several times; files that have not changed since are not read again.
    """
    path = Path(path).absolute()
    before = _stamp(path)
    if before is not None and _verified.get(path) == before:
        return None
    fault = _fault_in(path)
    if fault is None and before is not None:
        _verified[path] = before
    return fault


def _stamp(path):
    """What tells whether files have changed; None where they are too new for it to be told.

    Times of files advance in steps of some milliseconds, so that two changes may have the same.
    """
    try:
        found = sorted((entry.name, entry.stat()) for entry in os.scandir(path))
    except OSError:
        return None
    if any(abs(time.time() - stat.st_ctime) < 2 for _, stat in found):
        return None
    return tuple((name, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in found)


def _fault_in(path):
    try:
        manifest = json.loads((path / MANIFEST).read_text("utf-8"))
        digest = DIGESTS.get(manifest["version"])
        if manifest["format"] != FORMAT or digest is None:
            return f"{MANIFEST} is not of format {FORMAT}, version 1 to {VERSION}"
        for name, expected in manifest["files"].items():
            if Path(name).name != name:
                return f"{MANIFEST} names {name!r}, which is not a file beside it"
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != expected["size"]:
                return f"{name} has {file.stat().st_size} bytes, not {expected['size']}"
            if digest_of(file, digest) != expected[digest]:
                return f"{name} has other content than was written"
        missing = {WEIGHTS, CONFIG, VOCAB} - set(manifest["files"])
        return f"{MANIFEST} does not list {', '.join(sorted(missing))}" if missing else None
    except OSError as error:
        return f"{Path(error.filename or MANIFEST).name} cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST} is damaged"


def newest_checkpoint(model_dir, on_skip=log):
    """Returns the path of the newest checkpoint that verifies, or None.

    on_skip: called with a sentence for each newer one that does not.
    """
    for _, path in reversed(list_checkpoints(model_dir)):
        fault = fault_in(path)
        if fault is None:
            return path
        on_skip(f"skipped {path}: {fault}")
    return None


def write_best(model_dir, step, **facts):
    """Notes which checkpoint is the best. facts: what else the file is to say."""
    content = {"step": step, "checkpoint": f"checkpoint-{step}", **facts}
    write_whole(Path(model_dir) / BEST, json.dumps(content, indent=2) + "\n")


def delete_best(model_dir):
    """Forgets which checkpoint is the best."""
    (Path(model_dir) / BEST).unlink(missing_ok=True)


def best_checkpoint(model_dir):
    """Returns the path of the checkpoint that `best.json` names.

    Raises:
        UserError: there is no such file or checkpoint, or it does not verify.
    """
    file = Path(model_dir) / BEST
    try:
        step = int(json.loads(file.read_text("utf-8"))["step"])
    except FileNotFoundError:
        raise UserError(
            f"{model_dir} has no {BEST}, which names the best checkpoint; train with "
            "--mode train_and_eval and runconfig.best_metric, or name a checkpoint"
        ) from None
    except (OSError, ValueError, ArithmeticError, LookupError, TypeError, RecursionError) as error:
        raise UserError(f"{file} cannot be read ({error}); name a checkpoint instead") from None
    path = Path(model_dir) / f"checkpoint-{step}"
    fault = fault_in(path)
    if fault is not None:
        raise UserError(f"checkpoint {path}, the best, is damaged: {fault}; name another one")
    return path


def digest_of(path, algorithm):
    """algorithm: "blake2b" or "sha256". Returns hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
