# SPDX-License-Identifier: Apache-2.0
"""Exports a trained classifier in the format of another program; the folder is complete or absent.

    classifier = Classifier(model, params, vocab, text_features, metrics, step)
    export("saved_model", classifier, "model_dir/export/saved_model")

`formats.py` has the table of formats, `common/checkpoints/formats/__init__.py` what each offers.
"""

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

from common.checkpoints.small_files import EXPORT_FILE, write_json
from common.errors import RunError, UserError
from common.export.formats import EXPORT_FORMATS
from common.export.model_card import model_card, params_text, versions
from common.files import sha256


@dataclass(frozen=True)
class Classifier:
    """A trained network and the facts about it."""

    model: Any  # BaseModel, built, with the weights to export, in float32 after any training
    params: Any  # complete Params: `model` and `predict_input` are read, the rest is for the card
    vocab: list[str]  # the entry of each id
    # With attribute `texts_per_row`, K: texts <string>[B, K] -> {"input_ids", "input_mask",
    # "segment_ids"}: <int32>[B, T], as TensorFlow operations.
    text_features: Callable
    metrics: dict[str, float] = field(default_factory=dict)  # of these weights; empty: none
    step: int | None = None  # the global step of the weights
    quantize: str | None = None  # one of onnx.QUANTIZATIONS
    data: str = ""  # a description of its rows
    trained_with: dict | None = None  # {section: {key: value}}, the params of its training

    @property
    def label_names(self):
        """tuple of str, the name of each class."""
        return self.model.label_names

    @cached_property
    def weights(self):
        """{neutral name: <float32> array}, as in `common/checkpoints/names.py`."""
        variables = self.model.weights_by_name()
        return {name: np.asarray(variable.value) for name, variable in variables.items()}

    @property
    def params_text(self):
        """The params as YAML, without the places of the machine they were used on."""
        return params_text(yaml.safe_load(self.params.to_yaml()))

    @property
    def answer(self):
        """Answer of the task."""
        return self.model.answer

    @property
    def text_names(self):
        """The names of the texts of a row: ("text",) or ("text_a", "text_b")."""
        return ("text",) if self.text_features.texts_per_row == 1 else ("text_a", "text_b")

    @property
    def mask_meaning(self):
        """The meaning of the feature input_mask, for people."""
        if self.params.predict_input.invert_mask:
            return "1 on PADDING, 0 on tokens"
        return "1 on tokens, 0 on padding"

    @property
    def description(self):
        """A description in one line."""
        cfg = self.params.model
        network = f"{cfg.num_hidden_layers} layers of {cfg.hidden_size}"
        labels = f": {', '.join(self.label_names)}" if self.answer.has_probabilities else ""
        return f"BERT {self.answer.kind}, {network}{labels}"


def check_format(format, params, quantize=None):
    """Raises UserError if a format cannot hold a network, before it is trained or written.

    format: key of EXPORT_FORMATS. quantize: None or one of onnx.QUANTIZATIONS.
    """
    if format not in EXPORT_FORMATS:
        raise UserError(f"export_format is {format!r}; available: {', '.join(EXPORT_FORMATS)}")
    if quantize is not None and format != "onnx":
        raise UserError(
            f"quantize is {quantize}, which is for export_format onnx, not {format}; leave it out"
        )
    EXPORT_FORMATS[format].module.check(params, quantize)


def export(format, classifier, export_dir, score=None):
    """Writes a Classifier and its model card into a folder that appears when it is complete.

    Args:
        format: key of EXPORT_FORMATS.
        export_dir: path-like. An earlier export there is replaced.
        score: callable on the folder with the written files -> {file: {metric: float}}, for the
            model card; or None.
    Returns:
        Path of the folder; list of str, notes on what the format does not hold.
    Raises:
        UserError: the format cannot hold this network, a package is missing, or the folder holds
            other files.
        RunError: it cannot be written. An earlier export is intact.
    """
    check_format(format, classifier.params, classifier.quantize)
    import tensorflow as tf  # here, since `check_format` does not need it: 4 s
    from safetensors import SafetensorError

    module = EXPORT_FORMATS[format].module
    export_dir = Path(export_dir).expanduser().resolve()
    _check_folder(export_dir)
    temporary = export_dir.with_name(f".{export_dir.name}.{os.getpid()}.tmp")
    try:
        for left_over in export_dir.parent.glob(f".{glob.escape(export_dir.name)}.*.tmp"):
            shutil.rmtree(left_over, ignore_errors=True)  # of killed exports
        temporary.mkdir(parents=True)
        notes = module.write(classifier, temporary)
        scores = {} if score is None else score(temporary)
        files = _files_of(temporary)
        card = model_card(format, classifier, files, scores, notes, module.usage(classifier))
        (temporary / "README.md").write_text(card, "utf-8", newline="\n")
        manifest = {
            "format": format,
            "label_names": classifier.label_names,
            "step": classifier.step,
            "do_lower_case": classifier.params.predict_input.do_lower,
            "metrics": classifier.metrics,
            "metrics_of_files": scores,
            "notes": notes,
            "versions": versions(),
            "files": files,
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
            "make room, or choose another --export_dir"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return export_dir, notes


def _check_folder(export_dir):
    """Raises UserError if the folder has files that no export wrote."""
    if not export_dir.exists() or (export_dir / EXPORT_FILE).is_file():
        return
    if not export_dir.is_dir():
        raise UserError(f"export_dir {export_dir} is a file; give a folder")
    names = sorted(os.listdir(export_dir))
    if names:
        raise UserError(
            f"export_dir {export_dir} holds files that no export wrote ({', '.join(names[:3])}"
            f"{', ...' if len(names) > 3 else ''}); give an empty or a new folder"
        )


def _files_of(folder):
    """{path below the folder: {"size", "sha256"}} of every file."""
    return {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _put_in_place(temporary, export_dir):
    """Renames a folder, then deletes the folder that it replaces."""
    replaced = temporary.with_name(f"{temporary.name.removesuffix('.tmp')}.replaced.tmp")
    if export_dir.exists():
        os.replace(export_dir, replaced)
    try:
        os.replace(temporary, export_dir)
    except OSError:
        if replaced.exists():
            os.replace(replaced, export_dir)
        raise
    shutil.rmtree(replaced, ignore_errors=True)
