# SPDX-License-Identifier: Apache-2.0
"""`--mode predict --engine`: an export of the checkpoint computes in place of the network."""

from pathlib import Path

from common.checkpoints.small_files import EXPORT_FILE
from common.errors import RunError, UserError
from common.export.decoder import settings_of
from common.params.pretraining import TASK
from common.platform.machine import num_cores
from serving.engines.loaded import read_manifest, read_vocab_of
from serving.sources import SAVED_MODEL, export_beside, open_engine, unreadable_by, version_at

# How rows are made, as export.json has it; lengths may differ, as an engine takes any.
OF_ROWS = ("task", "do_lower_case", "add_special_tokens", "input_mask_is_of_padding")


def open_for(session, model, name, folder=None):
    """Returns the Engine of an export of a Session's checkpoint, with a stream for each core.

    Args:
        model: BaseModel of the session.
        name: of `common/params/serving.ENGINES`, one that reads exports.
        folder: path of the export; None: the one in model_dir.
    Raises:
        UserError: there is no such export, it is not of this checkpoint, or what computes it is not
            installed.
    """
    if model.task == TASK:
        raise UserError(
            f"--engine {name} reads exports, which answer for every token of task: {TASK}; "
            "leave it out, and the checkpoint fills in the masked ones"
        )
    if name != SAVED_MODEL and "gpu" in (session.run.device or "").lower():
        raise UserError(
            f"--engine {name} computes on the CPU, and runconfig.device is "
            f"{session.run.device}; leave one of the two out"
        )
    folder = export_beside(session.model_dir, name) if folder is None else Path(folder).expanduser()
    if not (folder / EXPORT_FILE).is_file():
        raise UserError(
            f"--export_dir {folder} holds no {EXPORT_FILE}, as an export does; name the folder "
            "that --mode export has written"
        )
    version = version_at(folder, name)
    check_same(session, model, folder)
    # TensorFlow's threads are those of the process.
    num_streams = session.run.num_streams if name == SAVED_MODEL else num_cores()
    try:
        return open_engine(version, num_streams)
    except (UserError, RunError, OSError):
        raise
    except Exception as error:  # of a library, on a damaged file
        raise unreadable_by(version, error) from error


def check_same(session, model, folder):
    """Raises UserError where an export is not that of a Session's checkpoint."""
    manifest, checkpoint = read_manifest(folder), session.checkpoint
    advice = "export it again, or name the checkpoint of the export with --checkpoint_path"
    if manifest.get("step") != checkpoint.config.get("step"):
        raise UserError(
            f"{folder} is of step {manifest.get('step')}, and {checkpoint.path} of step "
            f"{checkpoint.config.get('step')}; {advice}"
        )
    here = settings_of(model, session.params.predict_input)
    pairs = {key: (manifest["rows"].get(key), here[key]) for key in OF_ROWS}
    names = list(manifest.get("label_names", ())), list(model.label_names)
    pairs["label_names"] = tuple(map(", ".join, names))
    for key, (there, ours) in pairs.items():
        if there != ours:
            raise UserError(f"{folder} has {key} {there}, and {checkpoint.path} {ours}; {advice}")
    if list(read_vocab_of(folder)) != list(session.vocab):
        raise UserError(
            f"{folder} has another vocabulary than {session.params.predict_input.vocab_file}; "
            f"{advice}"
        )
