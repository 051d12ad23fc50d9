# SPDX-License-Identifier: Apache-2.0
"""What the path of a model holds, and which versions of it are to be served.

model_dir of a training                     its chosen checkpoint, by its step
an export: saved_model, onnx                that, by its step
NAME/, with a folder for each version       the newest that is sound, and those of aliases
NAME@champion, NAME@3                       that one
"""

import functools
from dataclasses import dataclass
from pathlib import Path

from common.checkpoints import store
from common.checkpoints.small_files import EXPORT_FILE, read_json
from common.checkpoints.versions import aliases, dangling, resolve, versions
from common.errors import UserError
from common.export.onnx_files import INT8_FILE, MODEL_FILE, OnnxEngine
from common.platform.machine import num_cores
from utils import SAVED

CHECKPOINT, SAVED_MODEL, ONNX, ONNX_INT8, OPENVINO = (
    *("checkpoint", "saved_model", "onnx", "onnx_int8"),
    "openvino",
)
# {engine: the export that it reads}
FORMAT_OF = {SAVED_MODEL: "saved_model", ONNX: "onnx", ONNX_INT8: "onnx", OPENVINO: "onnx"}


@dataclass(frozen=True)
class Source:
    """A model to serve. path: str; engine: of `common/params/serving.ENGINES`."""

    name: str
    path: str
    engine: str = "auto"


@dataclass(frozen=True)
class Version:
    """One version of a model. stamp: another one where the folder's content is another."""

    number: int
    folder: Path
    engine: str
    labels: tuple = ()
    stamp: tuple = ()


class BrokenVersion(UserError):
    """A version that is there and cannot be served. number: int."""

    def __init__(self, name, number, error):
        super().__init__(f"version {number} of model {name} cannot be served: {error}")
        self.number = number


def find_versions(source, broken=()):
    """Returns {number: Version}, the newest last.

    broken: numbers of versions of NAME/ to leave out. Raises UserError where there is none,
    BrokenVersion where one of them is none.
    """
    path = Path(source.path).expanduser()
    if "@" in path.name and not path.exists():
        folder = resolve(path.parent, path.name)
        label = path.name.partition("@")[2]
        return {int(folder.name): numbered(source, folder, () if label.isdigit() else (label,))}
    if not path.is_dir():
        raise UserError(f"model {source.name}: {path} is no folder; name a model_dir or an export")
    if is_model(path):
        version = version_at(path, source.engine)
        return {version.number: version}
    numbers = [number for number in versions(path) if number not in broken]
    if not numbers:
        raise UserError(
            f"model {source.name}: {path} holds neither {SAVED}, as a training leaves it, nor "
            f"{EXPORT_FILE}, as an export does, nor folders of numbered versions"
        )
    of_number = {numbers[-1]: ()}
    for label, number in aliases(path).items():
        if number in numbers:
            of_number[number] = (*of_number.get(number, ()), label)
    return {
        number: numbered(source, path / str(number), labels)
        for number, labels in sorted(of_number.items())
    }


def numbered(source, folder, labels):
    """Returns the Version in NAME/<version>/. Raises BrokenVersion."""
    number = int(folder.name)
    try:
        return version_at(folder, source.engine, number, labels)
    except (UserError, OSError) as error:
        raise BrokenVersion(source.name, number, error) from None


def numbers_of(source):
    """Returns the numbers of all versions in NAME/, rising; [] where the path is of one version."""
    path = Path(source.path).expanduser()
    return versions(path) if path.is_dir() and not is_model(path) else []


def aliases_of(source):
    """Returns {alias: number} of NAME/; {} where the path is of one version."""
    return aliases(Path(source.path).expanduser()) if numbers_of(source) else {}


def about_dangling(source, alias, number):
    """Returns a sentence on an alias of NAME/ whose version is not there."""
    return f"model {source.name}: {dangling(Path(source.path).expanduser(), alias, number)}"


def is_model(folder):
    return (folder / EXPORT_FILE).is_file() or (folder / SAVED).is_file()


def version_at(folder, engine, number=None, labels=()):
    """Returns the Version in a folder. number: int; None: the step of its training."""
    if (folder / EXPORT_FILE).is_file():
        return version_of_export(folder, engine, number, labels)
    if not (folder / SAVED).is_file():
        raise UserError(f"{folder} holds neither {SAVED} nor {EXPORT_FILE}")
    if engine not in ("auto", CHECKPOINT):
        return version_of_export(export_beside(folder, engine), engine, number, labels)
    step = chosen_step(folder)
    if step is None:
        raise UserError(f"{folder} has no checkpoint to serve; train it first")
    return Version(step if number is None else number, folder, CHECKPOINT, labels, (step,))


def export_beside(folder, engine):
    """Returns the Path of the export of a model_dir that an engine reads.

    Raises UserError where there is none.
    """
    export, quantize = FORMAT_OF[engine], " --quantize int8" * (engine == ONNX_INT8)
    beside = folder / "export" / export
    if not (beside / EXPORT_FILE).is_file():
        raise UserError(
            f"engine {engine} reads an export, and {beside} is none; make one with: run.py "
            f"--mode export --model_dir {folder} --export_format {export}{quantize}"
        )
    return beside


def version_of_export(folder, engine, number, labels):
    manifest = read_json(folder / EXPORT_FILE)
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found not in FORMAT_OF.values():
        raise UserError(
            f"{folder} is an export as {found}, which no engine reads; export it as "
            "saved_model or onnx"
        )
    if engine == "auto":
        engine = found
    if FORMAT_OF.get(engine) != found:
        raise UserError(f"{folder} is an export as {found}; engine {engine} cannot read it")
    if engine == ONNX_INT8 and not (folder / INT8_FILE).is_file():
        raise UserError(f"{folder} has no {INT8_FILE}; export it with --quantize int8")
    step = manifest.get("step")
    facts = (folder / EXPORT_FILE).stat()
    step = step if isinstance(step, int) else 1
    stamp = facts.st_mtime_ns, facts.st_ino
    return Version(step if number is None else number, folder, engine, labels, stamp)


def chosen_step(folder):
    """Returns the step of the checkpoint that answers; None where there is none."""
    best = store.read_best(folder)
    if best is not None:
        return best["step"]
    saved = store.list_checkpoints(folder)
    return saved[-1][0] if saved else None


def load_version(version):
    """Returns Loaded of a Version. Raises UserError where it cannot be read."""
    if version.engine == CHECKPOINT:
        from serving.engines.checkpoint import load

        return load(version.folder)
    from serving.engines.loaded import load_export

    # Two batches at a time, each on half of the cores: 1.3 times the requests in float32, twice
    # those in int8, whose batches are rows; one client alone waits as long.
    num_streams = min(2, num_cores())
    return load_export(version.folder, functools.partial(open_engine, version, num_streams))


def open_engine(version, num_streams=1):
    """Returns the Engine of a Version that is an export.

    Raises UserError where the package that computes is not installed.
    """
    folder = version.folder
    if version.engine == SAVED_MODEL:
        from serving.engines.saved_model import SavedModelEngine

        return SavedModelEngine(folder / "1", num_streams)
    if version.engine == OPENVINO:
        from serving.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(folder / MODEL_FILE, num_streams)
    file = INT8_FILE if version.engine == ONNX_INT8 else MODEL_FILE
    return OnnxEngine(folder / file, num_streams)


def unreadable_by(version, error):
    """Returns the UserError of an export on which a library failed, as on a damaged file."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UserError(
        f"{version.folder} cannot be read by engine {version.engine} ({reason}); copy or export it "
        "again"
    )
