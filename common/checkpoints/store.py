# SPDX-License-Identifier: Apache-2.0
"""The checkpoints of a model_dir: folders `checkpoint-<step>/`, each complete or absent.

weights.safetensors          the network, under the neutral names of `names.py`
training_state.safetensors   optimizer slots, global step, loss scale, state of the run
config.json, vocab.txt       the network's geometry and label names; the vocabulary
manifest.json                size and BLAKE2b digest of every file above; written last

`formats/ours.py` writes and reads the contents of these files. `model_dir/best.json` names the
checkpoint with the best evaluation, which is never deleted.

A checkpoint is written to a temporary folder `.checkpoint-<step>.<process>.tmp`, flushed to disk,
and renamed, so a killed run leaves the earlier checkpoints intact. One of the same step that it
replaces is called `checkpoint-<step>.replaced` in between. The next start of a run finishes that,
and deletes the temporary folders (`delete_leftovers`). BLAKE2b replaces SHA-256, which takes five
times as long on processors without SHA instructions.
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
from common.files import existing_above, flush, write_whole

FORMAT, VERSION = "bert-classifier", 2
DIGESTS = {1: "sha256", 2: "blake2b"}  # version of the manifest -> hash function
MANIFEST, CONFIG, VOCAB = "manifest.json", "config.json", "vocab.txt"
LIBRARY_VOCAB = "tokenizer.json"  # in place of VOCAB, where the vocabulary is not WordPiece's
BEST = "best.json"
WEIGHTS, STATE = "weights.safetensors", "training_state.safetensors"
_NAME = re.compile(r"checkpoint-(\d+)(\.replaced)?")
# For names, vocabulary, config and the blocks of the file system.
SPACE_BESIDE_TENSORS = 4_000_000


def write_checkpoint(path, write, version=VERSION):
    """Writes the files of a checkpoint; `path` appears when all of them are on disk.

    Args:
        path: Path, model_dir/checkpoint-<step>. The model_dir exists.
        write: callable on the folder to write into. Returns {file: its `entry_of`}.
        version: int, of the manifest.
    Raises:
        RunError: it cannot be written; earlier checkpoints are intact.
    """
    temporary = path.with_name(f".checkpoint-{_NAME.fullmatch(path.name)[1]}.{os.getpid()}.tmp")
    try:
        delete_leftovers(path.parent)
        temporary.mkdir()  # not its parents: a model_dir that was removed is not created again
        manifest = {"format": FORMAT, "version": version, "files": write(temporary)}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2), "utf-8")
        for file in (*manifest["files"], MANIFEST):
            flush(temporary / file)
        flush(temporary)
        _put_in_place(temporary, path)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        advice = "Earlier checkpoints are intact; make room or choose another --model_dir"
        if not path.parent.exists():
            advice = f"{path.parent} is gone: put it back, with the checkpoints it has"
        reason = getattr(error, "strerror", None) or error
        raise RunError(
            f"checkpoint {path} could not be written: {reason}. {advice}, and run again"
        ) from error


def entry_of(file, version=VERSION):
    """The entry of a file in a manifest: {"size", its digest}. file: Path."""
    algorithm = DIGESTS[version]
    return {"size": file.stat().st_size, algorithm: digest_of(file, algorithm)}


def delete_old(model_dir, step, keep_max, keep=()):
    """Deletes the oldest checkpoints beyond `keep_max`. step: the newest of this run.

    keep_max: int, 0 keeps all; keep: steps to keep besides.
    """
    # Those of later steps are damaged, since this run resumed an earlier one: they do not count.
    steps = [(number, path) for number, path in list_checkpoints(model_dir) if number <= step]
    for number, path in steps[:-keep_max] if keep_max else ():
        if number not in keep:
            _delete(path)


def check_space(model_dir, num_bytes):
    """Raises RunError if a checkpoint does not fit on the disk, before it is written.

    model_dir: path-like, which may not exist yet; num_bytes: of all tensors.
    """
    folder = existing_above(model_dir)
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return  # writing will tell
    needed = num_bytes + SPACE_BESIDE_TENSORS
    if free < needed:
        raise RunError(
            f"a checkpoint needs {needed / 1e6:,.0f} MB, and {model_dir} has {free / 1e6:,.0f} MB "
            "free. Earlier checkpoints are intact; make room or choose another --model_dir, and "
            "run again"
        )


def _put_in_place(temporary, path):
    """Renames a folder to `path`. `list_checkpoints` finds the old or the new one at any time."""
    replaced = path.with_name(f"{path.name}.replaced")
    if path.exists():  # the same step, after a resume from an earlier one
        os.replace(path, replaced)
    os.replace(temporary, path)
    flush(path.parent)
    if replaced.exists():
        _delete(replaced)


def _remove(path):
    """Deletes a folder, or a symbolic link in its place."""
    with contextlib.suppress(OSError):
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path)


def _delete(path):
    """Deletes a checkpoint. It is renamed first, so that a partly deleted one is never listed."""
    with contextlib.suppress(OSError):
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        os.replace(path, temporary)
        _remove(temporary)


def delete_leftovers(model_dir):
    """Finishes what killed runs were replacing, and deletes what they partly wrote or deleted.

    No other process writes checkpoints to model_dir.
    """
    temporaries = list(Path(model_dir).glob(".checkpoint-*.tmp"))
    for replaced in Path(model_dir).glob("checkpoint-*.replaced"):
        path = replaced.with_suffix("")
        if not path.exists():  # the new one was whole before the old one was renamed
            new = (each for each in temporaries if each.name.startswith(f".{path.name}."))
            whole = [each for each in new if _fault_in(each) is None]
            os.replace((whole or [replaced])[0], path)
        if replaced.exists():
            _delete(replaced)
    for temporary in temporaries:
        _remove(temporary)


def checkpoint_at(model_dir, step):
    """Returns the path of a step's checkpoint, without verifying it; None where there is none."""
    return dict(list_checkpoints(model_dir)).get(step)


def list_checkpoints(model_dir):
    """Returns [(step, path)] of the checkpoints in a folder, oldest first, without verifying them.

    `checkpoint-<step>.replaced` counts if its replacement is missing.
    """
    checkpoints = {}
    with contextlib.suppress(OSError):
        for path in sorted(Path(model_dir).iterdir()):
            if (match := _NAME.fullmatch(path.name)) and path.is_dir():
                checkpoints.setdefault(int(match[1]), path)
    return sorted(checkpoints.items())


# Checkpoints that this process has verified: path -> `_stamp` of their files.
_verified: dict[Path, tuple] = {}


def fault_in(path):
    """Returns the fault of a checkpoint as a phrase, or None if every file verifies.

    A start verifies several times; files that have not changed are not read again.
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
    """Identity, size and times of the files, to detect changes; None for files changed just now.

    File times advance in steps of some milliseconds, so two changes may have the same time.
    """
    try:
        files = sorted((entry.name, entry.stat()) for entry in os.scandir(path))
    except OSError:
        return None
    if any(abs(time.time() - stat.st_ctime) < 2 for _, stat in files):
        return None
    return tuple((name, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in files)


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
        vocab = LIBRARY_VOCAB if LIBRARY_VOCAB in manifest["files"] else VOCAB
        missing = {WEIGHTS, CONFIG, vocab} - set(manifest["files"])
        return f"{MANIFEST} does not list {', '.join(sorted(missing))}" if missing else None
    except OSError as error:
        return f"{Path(error.filename or MANIFEST).name} cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST} is damaged"


def newest_checkpoint(model_dir, on_skip=log):
    """Returns the path of the newest checkpoint that verifies, or None.

    on_skip: called with a sentence on each newer one that does not verify.
    """
    for _, path in reversed(list_checkpoints(model_dir)):
        fault = fault_in(path)
        if fault is None:
            return path
        if not path.exists():  # a training run has deleted it meanwhile, for a newer one
            return newest_checkpoint(model_dir, on_skip)
        on_skip(f"skipped {path}: {fault}")
    return None


def write_best(model_dir, step, **facts):
    """Records the best checkpoint. facts: further entries of the file."""
    content = {"step": step, "checkpoint": f"checkpoint-{step}", **facts}
    write_whole(Path(model_dir) / BEST, json.dumps(content, indent=2) + "\n")


def delete_best(model_dir):
    """Deletes the record of the best checkpoint."""
    (Path(model_dir) / BEST).unlink(missing_ok=True)


def read_best(model_dir):
    """Returns what `write_best` wrote, a dict; None where no best checkpoint was chosen.

    Raises UserError where the file cannot be read.
    """
    file = Path(model_dir) / BEST
    try:
        best = json.loads(file.read_text("utf-8"))
        return {**best, "step": int(best["step"])}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, ArithmeticError, LookupError, TypeError, RecursionError) as error:
        raise UserError(f"{file} cannot be read ({error}); name a checkpoint instead") from None


def best_checkpoint(model_dir):
    """Returns the path of the checkpoint that `best.json` names.

    Raises:
        UserError: the file or the checkpoint is missing, or does not verify.
    """
    best = read_best(model_dir)
    if best is None:
        raise UserError(
            f"{model_dir} has no {BEST}, which names the best checkpoint; train with "
            "--mode train_and_eval and runconfig.best_metric, or name a checkpoint"
        )
    step = best["step"]
    path = checkpoint_at(model_dir, step) or Path(model_dir) / f"checkpoint-{step}"
    fault = fault_in(path)
    if fault is not None:
        raise UserError(
            f"checkpoint {path}, the best, is damaged: {fault}; name another one, such as "
            "--checkpoint_path newest"
        )
    return path


def describe_best(model_dir):
    """Returns the path of the best checkpoint, and the same with its value; None, None without."""
    with contextlib.suppress(UserError):
        path, best = str(best_checkpoint(model_dir)), read_best(model_dir)
        if isinstance(best.get("value"), float):
            return path, f"{path}, {best.get('metric')} {best['value']:.4f}"
        return path, path
    return None, None


def digest_of(path, algorithm):
    """algorithm: "blake2b" or "sha256". Returns hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
