# SPDX-License-Identifier: Apache-2.0
"""Exports a trained classifier in the format of another program; the folder is complete or absent.

    classifier = Classifier(model, params, vocab, text_features, metrics, step)
    export("saved_model", classifier, "model_dir/export/saved_model")

`formats.py` has the table of formats, `common/checkpoints/formats/__init__.py` what each offers.
"""

import contextlib
import glob
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from common.checkpoints.small_files import EXPORT_FILE, read_json, write_json
from common.errors import RunError, UserError
from common.export.decoder import settings_of
from common.export.formats import EXPORT_FORMATS
from common.export.model_card import model_card, params_text, versions
from common.files import TEMPORARY, held, is_abandoned, sha256

CARD = "README.md"
MAX_FILE_BYTES = 2**31 - 1  # of a protocol buffer, and of a FlatBuffer
REPLACED = ".replaced.tmp"  # end of the name of the export that is about to be replaced


@dataclass(frozen=True)
class Classifier:
    """A trained network and the facts about it."""

    model: Any  # BaseModel, built, with the weights to export, in float32 after any training
    params: Any  # complete Params: `model` and `predict_input` are read, the rest is for the card
    vocab: list[str]  # the entry of each id
    # With attribute `texts_per_row`, K: texts <string>[B, K] -> {"input_ids", "input_mask",
    # "segment_ids"}: <int32>[B, T], as TensorFlow operations where its `in_graph` is not False.
    text_features: Callable
    metrics: dict[str, float] = field(default_factory=dict)  # of these weights; empty: none
    step: int | None = None  # the global step of the weights
    quantize: str | None = None  # one of the format's `quantizations`
    data: str = ""  # a description of its rows
    trained_with: dict | None = None  # {section: {key: value}}, the params of its training
    evaluation: dict = field(default_factory=dict)  # what `metrics` are of: EVALUATION_FACTS
    per_class: list = field(default_factory=list)  # the figures of each class, as in a report
    calibration: list = field(default_factory=list)  # (name, text) of `fold_calibration`

    @property
    def label_names(self):
        """tuple of str, the name of each class."""
        return self.model.label_names

    @cached_property
    def weights(self):
        """{neutral name: <float32> array}, as in `common/checkpoints/names.py`."""
        variables = self.model.weights_by_name()
        return {name: np.asarray(variable.value) for name, variable in variables.items()}

    def check_size(self, what):
        """Raises UserError where the weights do not fit into 2 GB. what: "an ONNX file"."""
        size = sum(weight.nbytes for weight in self.weights.values())
        if size > MAX_FILE_BYTES - 2**20:
            raise UserError(
                f"the weights have {size:,} bytes, and {what} holds {MAX_FILE_BYTES:,}; "
                "export them as saved_model"
            )

    @property
    def params_text(self):
        """The params as YAML, without the places of the machine they were used on."""
        return params_text(yaml.safe_load(self.params.to_yaml()))

    @property
    def answer(self):
        """Answer of the task."""
        return self.model.answer

    @property
    def takes_texts(self):
        """Whether a graph can have the tokenizer; else exports take ids."""
        return getattr(self.text_features, "in_graph", True)

    @property
    def vocab_name(self):
        """The name of the file of the vocabulary beside an export."""
        return "vocab.txt" if self.takes_texts else "tokenizer.json"

    @property
    def text_names(self):
        """The names of the texts of a row: ("text",) or ("text_a", "text_b")."""
        return ("text",) if self.text_features.texts_per_row == 1 else ("text_a", "text_b")

    @property
    def example(self):
        """A row to show in the card: a tuple of str, which no user's data are taken for."""
        example = self.answer.example
        is_of_task = len(example) == self.text_features.texts_per_row
        return example if is_of_task else ("the first text", "the second text")

    @property
    def mask_meaning(self):
        """The meaning of the feature input_mask, for people."""
        if self.params.predict_input.invert_mask:
            return "1 on PADDING, 0 on tokens"
        return "1 on tokens, 0 on padding"

    @property
    def settings(self):
        """{name: value for JSON} of what a program that makes rows and reads answers must know."""
        data = self.params.predict_input
        return {
            **self.model.checkpoint_config(),
            "max_sequence_length": data.max_sequence_length,
            "do_lower_case": data.do_lower,
            "add_special_tokens": data.add_special_tokens,
            "input_mask": self.mask_meaning,
        }

    @property
    def description(self):
        """A description in one line."""
        cfg = self.params.model
        network = f"{cfg.num_hidden_layers} layers of {cfg.hidden_size}"
        labels = f": {', '.join(self.label_names)}" if self.answer.probabilities else ""
        return f"{cfg.family.title} {self.answer.kind}, {network}{labels}"


def check_format(format, params, task, quantize=None):
    """Raises UserError if a format cannot hold a network, before it is trained or written.

    format: key of EXPORT_FORMATS. task: BaseModel, or its class. quantize: None or one of
    the format's `quantizations`.
    """
    if format not in EXPORT_FORMATS:
        raise UserError(f"export_format is {format!r}; available: {', '.join(EXPORT_FORMATS)}")
    if format not in task.export_formats:
        possible = ", ".join(task.export_formats)
        advice = f"write one of {possible}" if possible else "no format can hold its answers"
        raise UserError(f"export_format is {format}, but the task is {params.task}; {advice}")
    possible = EXPORT_FORMATS[format].quantizations
    if quantize is not None and not possible:
        able = " and ".join(name for name, row in EXPORT_FORMATS.items() if row.quantizations)
        raise UserError(
            f"quantize is {quantize}, which is for export_format {able}, not {format}; leave it out"
        )
    if quantize is not None and quantize not in possible:
        raise UserError(f"quantize is {quantize!r}; available: {', '.join(possible)}")
    EXPORT_FORMATS[format].module.check(params, quantize)


def export(format, classifier, export_dir, score=None):
    """Writes a Classifier and its model card into a folder that appears when it is complete.

    Args:
        format: key of EXPORT_FORMATS.
        export_dir: path-like. An earlier export there is replaced, see `check_folder`.
        score: callable on the folder with the written files -> {file: {metric: float}}, for the
            model card; or None.
    Returns:
        Path of the folder; list of str, notes on what the format does not hold.
    Raises:
        UserError: the format cannot hold this network, a package is missing, or the folder holds
            other files, or files of an export that have changed.
        RunError: it cannot be written. An earlier export is intact.
    """
    check_format(format, classifier.params, classifier.model, classifier.quantize)
    import tensorflow as tf  # here, since `check_format` does not need it: 4 s
    from safetensors import SafetensorError

    module = EXPORT_FORMATS[format].module
    export_dir = Path(os.path.expanduser(export_dir)).resolve()
    try:
        with _temporary_folder(export_dir) as temporary:
            notes = module.write(classifier, temporary)
            scores = {} if score is None else score(temporary)
            files = _files_of(temporary)
            card = model_card(format, classifier, files, scores, notes, module.usage(classifier))
            (temporary / CARD).write_text(card, "utf-8", newline="\n")
            manifest = {
                "format": format,
                **classifier.model.checkpoint_config(),
                "step": classifier.step,
                "do_lower_case": classifier.params.predict_input.do_lower,
                "rows": {
                    "texts": classifier.text_names,
                    "max_position_embeddings": classifier.params.model.max_position_embeddings,
                    **settings_of(classifier.model, classifier.params.predict_input),
                },
                "metrics": classifier.metrics,
                "evaluation": classifier.evaluation,
                "metrics_of_files": scores,
                "notes": notes,
                "versions": versions(),
                "files": _files_of(temporary),
            }
            write_json(temporary / EXPORT_FILE, manifest)
            for file in temporary.rglob("*"):
                if file.is_file():  # safetensors and h5py set other modes
                    shutil.copymode(temporary / EXPORT_FILE, file)
            _put_in_place(temporary, export_dir)
    except (OSError, SafetensorError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise RunError(
            f"export to {export_dir} could not be written: {reason}; "
            "make room, or choose another folder"
        ) from error
    return export_dir, notes


def check_folder(export_dir):
    """Raises UserError if the folder has anything but an export, as its export.json lists it.

    An export replaces the whole folder. export_dir: path-like, which may not exist.
    """
    export_dir = Path(export_dir)
    if export_dir.exists() and not export_dir.is_dir():
        raise UserError(f"{export_dir} is a file; give an export a folder")
    files = (path for path in export_dir.rglob("*") if path.is_symlink() or not path.is_dir())
    try:
        listed = (read_json(export_dir / EXPORT_FILE) or {})["files"]
        digests = {name: of["sha256"] for name, of in listed.items()} | {EXPORT_FILE: None}
        card = export_dir / CARD
        if CARD not in digests and card.is_file() and not card.is_symlink():
            # Exports of earlier versions do not list their card, which has the digests of the rest.
            text = card.read_text("utf-8")
            if digests.keys() > {EXPORT_FILE} and all(d in text for d in digests.values() if d):
                digests[CARD] = sha256(card)
    except (OSError, ValueError, UserError, KeyError, TypeError, AttributeError):  # of no export
        digests = {}
    for path in sorted(files) if digests else files:  # of no export the first, of a whole disk
        name = path.relative_to(export_dir).as_posix()
        fault = "which no export wrote"
        if name in digests and not path.is_symlink():
            if name == EXPORT_FILE or sha256(path) == digests[name]:
                continue
            fault = "which has changed since it was exported"
        raise UserError(
            f"{export_dir} holds {name}, {fault}: an export replaces its whole folder. "
            "Move the file away, or give an empty or a new folder"
        )


def _files_of(folder):
    """{path below the folder: {"size", "sha256"}} of every file."""
    return {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / EXPORT_FILE
    }


@contextlib.contextmanager
def _temporary_folder(export_dir):
    """A folder beside export_dir, deleted at the end, and by a later export after a kill."""
    temporary = export_dir.parent / f".{export_dir.name}.{os.getpid()}.tmp"  # of /, too
    with contextlib.ExitStack() as stack:
        export_dir.parent.mkdir(parents=True, exist_ok=True)
        with held(export_dir.parent, waits=True):
            check_folder(export_dir)
            for left_over in export_dir.parent.glob(f".{glob.escape(export_dir.name)}.*.tmp"):
                if _is_of_killed_export(left_over):
                    _finish(left_over, export_dir)
            temporary.mkdir()
            (temporary / EXPORT_FILE).touch()  # by which a later export knows it
            stack.enter_context(held(temporary))
            stack.callback(shutil.rmtree, temporary, ignore_errors=True)
        yield temporary


def _finish(left_over, export_dir):
    """Deletes what a killed export left, or puts back what it was about to replace."""
    if left_over.name.endswith(REPLACED) and not export_dir.exists():
        os.replace(left_over, export_dir)
    else:
        shutil.rmtree(left_over, ignore_errors=True)


def _is_of_killed_export(folder):
    return (
        TEMPORARY.fullmatch(folder.name.replace(REPLACED, ".tmp"))
        and (folder / EXPORT_FILE).is_file()
        and is_abandoned(folder)
    )


def _put_in_place(temporary, export_dir):
    """Renames a folder, then deletes the export that it replaces, of another process perhaps."""
    replaced = temporary.with_name(temporary.name.removesuffix(".tmp") + REPLACED)
    with held(export_dir.parent, waits=True):
        check_folder(export_dir)
        if export_dir.exists():
            os.replace(export_dir, replaced)
        try:
            os.replace(temporary, export_dir)
        except OSError:
            if replaced.exists():
                os.replace(replaced, export_dir)
            raise
        shutil.rmtree(replaced, ignore_errors=True)
