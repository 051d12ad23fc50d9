# SPDX-License-Identifier: Apache-2.0
"""registry/NAME/<version>/: models to keep, in numbered versions, with aliases.

A version is a folder that every mode reads as a model_dir: the chosen checkpoint alone, params.yaml
and the record of where it came from. An alias, such as `champion`, is a file beside the versions
with the number of one. Versions are never written again.
"""

import contextlib
import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

from common.checkpoints.artefact import copy_artefact
from common.checkpoints.versions import versions
from common.errors import UserError
from common.files import write_whole
from experiments.experiment import NAME
from experiments.run_folder import read_run

ORIGIN = "origin.json"  # of a version: the run, its checkpoint, figures and params' hash


def promote(folder, target, registry):
    """Copies the chosen checkpoint of a run into the registry.

    Args:
        folder: path of the run's model_dir.
        target: str, NAME or NAME@ALIAS.
        registry: path. Made if absent.
    Returns:
        Path of the version; alias, str or None.
    Raises:
        UserError: the run has no checkpoint, or the name is none.
    """
    name, at, alias = target.partition("@")
    for part in (name, alias) if at else (name,):
        if not NAME.fullmatch(part) or (part == alias and part.isdigit()):
            raise UserError(
                f"{target!r} is no name for the registry; write NAME or NAME@ALIAS, of letters, "
                "digits, `.`, `_` and `-`; an alias is no number"
            )
    run = read_run(folder)
    place = Path(registry) / name
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{place} cannot be made: {error.strerror}; choose another --registry"
        ) from None
    temporary = place / f".{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        checkpoint = copy_artefact(run.path, temporary)
        origin = {
            "run": str(run.path.absolute()),
            "run_id": run.record.get("id"),
            "program": run.record.get("program"),
            "checkpoint": checkpoint.name,
            "figures": run.figures,
            "promoted": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_whole(temporary / ORIGIN, json.dumps(origin, indent=2) + "\n")
        version = put_in_place(temporary, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):  # of a name that has no version yet
            place.rmdir()
    if alias:
        write_whole(place / alias, f"{version.name}\n")
    return version, alias or None


def put_in_place(temporary, place):
    """Renames a folder to the next free number. Returns its Path."""
    while True:
        version = place / str(max([0, *versions(place)]) + 1)
        try:
            version.mkdir()  # of two promotions at once each has a number of its own
        except FileExistsError:
            continue
        os.replace(temporary, version)  # an empty folder gives way
        return version
