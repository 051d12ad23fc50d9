# SPDX-License-Identifier: Apache-2.0
"""What an engine's `load` gives: the network, and what is known of its rows."""

from dataclasses import dataclass
from typing import Any

from common.checkpoints import tokenizer_json
from common.checkpoints.small_files import EXPORT_FILE, read_json
from common.errors import UserError
from common.export.decoders.vocabulary import VOCAB_TXT, read_entries
from common.params.pretraining import TASK


@dataclass(frozen=True)
class Loaded:
    """A network that can answer."""

    settings: dict  # of `common/export/decoder.settings_of`, and the task's label names
    vocab: list  # of str, or LibraryVocab
    texts: tuple  # names of the texts of a row
    engine: Any  # `run(features)`, see `engines/__init__.py`
    step: int | None = None  # of its training
    session: Any = None  # Session and BaseModel of our own checkpoint
    model: Any = None


def read_manifest(folder):
    """Returns export.json of an export. Raises UserError where it is none that can be served."""
    manifest = read_json(folder / EXPORT_FILE)
    rows = manifest.get("rows") if isinstance(manifest, dict) else None
    if not isinstance(rows, dict):
        raise UserError(
            f"{folder / EXPORT_FILE} does not say how its rows are made, as exports of an earlier "
            "version do not; export it again"
        )
    if rows.get("task") == TASK:
        raise UserError(
            f"{folder} is an export of task: {TASK}, whose answers are of every token; the server "
            "reads its checkpoint, which answers for the masked ones"
        )
    return manifest


def read_vocab_of(folder):
    """Returns the vocabulary of an export: list of str, or LibraryVocab. folder: Path."""
    path = folder / VOCAB_TXT
    if path.is_file():
        return read_entries(path)
    return tokenizer_json.read_vocab(folder / tokenizer_json.NAME)


def load_export(folder, engine):
    """Returns Loaded of an export. folder: Path; engine: () -> what answers, made last."""
    manifest = read_manifest(folder)
    settings, vocab, texts = settings_of_export(folder, manifest)
    return Loaded(settings, vocab, texts, engine(), manifest.get("step"))


def settings_of_export(folder, manifest):
    """Returns the settings and the vocabulary of an export, and the names of its texts."""
    settings = dict(manifest["rows"])
    texts = tuple(settings.pop("texts"))
    known = {key: manifest[key] for key in ("label_names", "thresholds") if key in manifest}
    return {**settings, **known}, read_vocab_of(folder), texts
