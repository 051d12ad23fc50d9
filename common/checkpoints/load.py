# SPDX-License-Identifier: Apache-2.0
"""Recognises the format of a checkpoint, and warm-starts a model from it.

    checkpoint = open_checkpoint(path)
    params = params.complete(checkpoint.config, ...)
    report = load_weights(model, checkpoint, disable_nsp=params.model.disable_nsp)

`formats/__init__.py` has the table of formats. A name `hf://owner/name` becomes a folder first: see
`hub.py`.
"""

import importlib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from common.checkpoints.extension import Extension
from common.checkpoints.formats import FORMATS
from common.checkpoints.layer_choice import chosen
from common.checkpoints.names import KEY_OF_AXIS, axes_of, geometry, num_outputs, pattern_of
from common.checkpoints.small_files import EXPORT_FILE, read_json
from common.errors import UserError, printable
from common.tasks.answer import ROW_HEAD

HUB = "hf://"
FILE_ENDINGS = (".h5", ".bin", ".safetensors", ".mdl", ".ckpt", ".onnx", ".py")  # of no model there
WORD_TABLE, OUTPUT_TABLE = "embeddings/word_embeddings", "mlm/output_embeddings"
# Bias of a head -> the key of the params that removes it.
HEAD_BIAS_KEYS = {
    "mlm/transform/bias": "use_ffn_bias_in_mlm",
    "mlm/output_bias": "use_output_bias_in_mlm",
    "nsp/bias": "use_nsp_bias",
}


@dataclass(frozen=True)
class Checkpoint:
    """A recognised checkpoint, none of its weights in memory yet."""

    path: str
    format: str  # key of FORMATS
    config: dict  # of `huggingface.read_config`, and `path`
    extension: Extension | None = None  # new words that the weights are to have
    layers: tuple[int, ...] | None = None  # the encoder layers that are taken; None: all

    @cached_property
    def weights(self) -> Mapping:
        """Neutral name to tensor: `shape`, and `numpy.asarray` to read it."""
        weights = FORMATS[self.format].module.read_weights(self.path)
        if self.layers is not None:
            weights = chosen(weights, self.layers)
        if self.extension is None:
            return weights
        return {name: self.extension.extended(name, each) for name, each in weights.items()}

    def close(self):
        """Closes the files of `weights`, which opens them again.

        Memory-mapped files count as memory of the process while they are open.
        """
        self.__dict__.pop("weights", None)


def open_checkpoint(path):
    """Recognises the checkpoint at a path and reads its config.

    Args:
        path: str or path-like. A folder or file, a TensorFlow prefix, or `hf://owner/name`.
    Returns:
        Checkpoint.
    Raises:
        UserError: the path does not exist, no format claims it, or it cannot be read.
    """
    path = os.path.expanduser(os.fspath(path))
    if path.startswith(HUB):
        path = importlib.import_module("common.checkpoints.hub").fetch(path)
    refuse_other_export(path)
    for row in FORMATS.values():
        if row.module.is_checkpoint(path):
            return Checkpoint(path, row.name, {**row.module.read_config(path), "path": path})
    if not os.path.exists(path):
        raise UserError(
            f"checkpoint {path}: there is no such file or folder; correct the path{hub_hint(path)}"
        )
    looked_for = "; ".join(f"{row.title}: {row.looks_for}" for row in FORMATS.values())
    raise UserError(
        f"checkpoint {path}: nothing that can be loaded; found {contents_of(path)}. "
        f"Looked for {looked_for}"
    )


def refuse_other_export(path):
    """Raises UserError for an export, or a file of one, in a format that is not loaded here."""
    folder, name = (path, None) if os.path.isdir(path) else os.path.split(path)
    try:
        manifest = read_json(Path(folder) / EXPORT_FILE) or {}
    except UserError:  # another file of that name; what reads it will say so
        return
    format, files = manifest.get("format"), manifest.get("files")
    loadable = [row.export_name for row in FORMATS.values() if row.export_name]
    if not isinstance(format, str) or format in loadable or not isinstance(files, dict):
        return
    if name is None or name in files:
        raise UserError(
            f"checkpoint {path} is an export as {format:.40}, which is not loaded here; take the "
            f"checkpoint that it was made of, or an export of that as {' or '.join(loadable)}"
        )


def hub_hint(path):
    """A clause for a path that looks like the name of a model on Hugging Face's hub; "" if not."""
    if path.endswith(FILE_ENDINGS) or not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", path):
        return ""
    owner = "google-bert/" if path.startswith("bert-") else "owner/"
    return f", or write {HUB}{path if '/' in path else owner + path} for the model of the hub"


def contents_of(path, most=8):
    """The names in a folder, or the size of a file, for a message."""
    if not os.path.isdir(path):
        return f"a file of {os.path.getsize(path):,} bytes"
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        return f"a folder that cannot be listed ({error.strerror})"
    if not names:
        return "an empty folder"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"a folder with {', '.join(names[:most])}{more}"


@dataclass(frozen=True)
class LoadReport:
    """The result of `load_weights`. The dicts are of neutral name to shape, a tuple of int."""

    path: str  # of the checkpoint
    format: str
    loaded: dict = field(default_factory=dict)  # weights of the model from the checkpoint
    fresh: dict = field(default_factory=dict)  # those that keep their initial values
    unused: dict = field(default_factory=dict)  # the checkpoint's without a place in the model
    notes: list = field(default_factory=list)  # further facts as sentences

    def table(self):
        """The report as text: counts, then names; the encoder layers share one row."""
        parts = {"loaded": self.loaded, "fresh": self.fresh, "unused": self.unused}
        lines = [f"checkpoint {self.path} ({self.format})"]
        for title, shapes in parts.items():
            numbers = sum(map(math.prod, shapes.values()))
            lines.append(f"  {title:<7}{count(shapes):>13}{numbers:>15,} parameters")
        lines += [f"  {note}" for note in self.notes]
        for title, shapes in parts.items():
            lines += [f"  {title:<9}{row}" for row in rows_of(shapes)]
        return printable("\n".join(lines))


def count(shapes):
    return f"{len(shapes)} weight{'' if len(shapes) == 1 else 's'}"


def rows_of(shapes, most=6):
    """Names and shapes: one row for all encoder layers, and one for each other module."""
    groups, layers = {}, set()  # groups: title -> {rest of the name: shape}
    for name, shape in shapes.items():
        _, layer = pattern_of(name)
        title, _, rest = name.partition("/")
        if layer is not None:
            layers.add(layer)
            title, rest = "encoder/layer_{i}", name
        groups.setdefault(title, {})[rest] = shape
    rows = []
    for title, members in groups.items():
        if layers:
            title = title.replace("{i}", span_of(layers))
        if len(members) > 2:
            rows.append(f"{title}/...  {count(members)}")
        else:
            tensors = [f"{rest} {list(shape)}".strip() for rest, shape in members.items()]
            rows.append(f"{title}{' ' if '' in members else '/'}{', '.join(tensors)}")
    if len(rows) > most:
        rows[most - 1 :] = [f"and {len(rows) - most + 1} more"]
    return rows


def span_of(layers):
    """{3} -> "3"; {0, 1, 2} -> "{0..2}"."""
    first, last = min(layers), max(layers)
    return str(first) if first == last else f"{{{first}..{last}}}"


def load_weights(model, checkpoint, disable_nsp=False, params_path="the params file"):
    """Assigns a checkpoint's weights to a model: the whole backbone, and what fits of the head.

    A layer of `model.head` comes from the checkpoint if it has one; a layer whose outputs have a
    name there only if it has as many and is of the same task, and is fresh otherwise, as after
    pre-training.

    Args:
        model: BaseModel, built.
        checkpoint: Checkpoint.
        disable_nsp: bool. Leave the whole head fresh.
        params_path: str, the YAML file that a message names.
    Returns:
        LoadReport.
    Raises:
        UserError: weights of the backbone are missing in the checkpoint or have other shapes; the
            message names all of them, and the model is unchanged.
    """
    variables = model.weights_by_name()
    report, sources = match_weights(
        variables, checkpoint, disable_nsp, params_path, model.head, model.task
    )
    for name, source in sources.items():
        variables[name].assign(check_finite(checkpoint.path, name, np.asarray(source)))
    checkpoint.close()
    return report


def check_finite(path, name, array):
    """Returns the array of a weight. Raises UserError where a number of it is NaN or infinite.

    path: of the checkpoint. BERT base takes 0.07 s more.
    """
    if not np.isfinite(array).all():
        raise UserError(
            f"{name} of checkpoint {path} holds numbers that are not finite (NaN or infinity); "
            "take another checkpoint"
        )
    return array


def match_weights(
    variables,
    checkpoint,
    disable_nsp=False,
    params_path="the params file",
    head=ROW_HEAD,
    task=None,
):
    """Finds the tensor that `load_weights` assigns to each weight of a model, without assigning it.

    Args:
        variables: {neutral name: anything with a `shape`}.
        checkpoint, disable_nsp, params_path: as of `load_weights`.
        head, task: of the model.
    Returns:
        LoadReport; {neutral name: tensor} of the weights to load.
    Raises:
        UserError: as `load_weights`.
    """
    fresh, notes = fresh_layers(variables, checkpoint, disable_nsp, head, task)
    notes = [*checkpoint.config.get("notes", ()), *notes]
    weights = checkpoint.weights
    if "mlm" in head and "mlm" not in fresh:
        weights = with_output_table(variables, checkpoint, notes, params_path)
    report = LoadReport(checkpoint.path, checkpoint.format, notes=notes)
    sources, missing, mismatched = {}, [], []
    for name, variable in variables.items():
        shape, source = tuple(variable.shape), weights.get(name)
        if name.split("/")[0] in fresh:
            report.fresh[name] = shape
        elif source is None:
            missing.append(name)
        elif tuple(source.shape) == shape:
            sources[name] = source
        elif name == "embeddings/position_embeddings" and has_more_rows(source.shape, shape):
            sources[name] = np.asarray(source)[: shape[0]]
            report.notes.append(f"{name}: the first {shape[0]} of {source.shape[0]} rows")
        else:
            mismatched.append((name, tuple(source.shape), shape))
    if missing or mismatched:
        raise UserError(refusal(checkpoint, variables, missing, mismatched, params_path))
    report.loaded.update({name: tuple(variables[name].shape) for name in sources})
    for name, tensor in weights.items():
        if name not in report.loaded:
            report.unused[name] = tuple(tensor.shape)
    return report, sources


def fresh_layers(variables, checkpoint, disable_nsp, head, task):
    """The layers of a model's head that keep their initial values, and notes on why."""
    if disable_nsp:
        return set(head), ["model.disable_nsp: the whole head is fresh"]
    fresh, notes, weights = set(), [], checkpoint.weights
    trained = checkpoint.config.get("task", task)
    for layer, outputs in head.items():
        stored, wanted = num_outputs(weights, layer), num_outputs(variables, layer)
        names = {name for name in variables if name.startswith(f"{layer}/")} - {OUTPUT_TABLE}
        lacking = sorted(names - weights.keys())
        if lacking:
            fresh.add(layer)
            lacks = "the checkpoint has none"
            if len(lacking) < len(names):
                keys = [HEAD_BIAS_KEYS[name] for name in lacking if name in HEAD_BIAS_KEYS]
                lacks = f"the checkpoint's lacks {', '.join(lacking)}"
                if len(keys) == len(lacking):
                    lacks += f"; to load the rest, write model.{keys[0]}: false"
            notes.append(f"{layer}: fresh, {lacks}")
        elif outputs and trained != task and task is not None:
            fresh.add(layer)
            notes.append(f"{layer}: fresh, the checkpoint's is for {trained}, not {task}")
        elif outputs and stored == wanted:
            what = f"is a classifier of {wanted} {outputs}" if wanted > 1 else "has one output, too"
            notes.append(f"{layer}: loaded, the checkpoint {what}")
        elif outputs:
            fresh.add(layer)
            has = f"{stored} {outputs}" if stored != 1 else "one output"
            notes.append(f"{layer}: fresh, the checkpoint's has {has}, not {wanted}")
    return fresh, notes


def with_output_table(variables, checkpoint, notes, params_path):
    """The weights of a checkpoint with the table of masked words that a model has, or without one.

    variables, params_path: as of `match_weights`; notes: list, to which one is added. Raises
    UserError where the model shares the word embeddings and the checkpoint's table is another.
    """
    weights = dict(checkpoint.weights)
    if OUTPUT_TABLE in variables:
        if OUTPUT_TABLE not in weights and WORD_TABLE in weights:
            weights[OUTPUT_TABLE] = weights[WORD_TABLE]
            notes.append(f"{OUTPUT_TABLE}: the word embeddings, which the checkpoint shares")
        return weights
    table = weights.pop(OUTPUT_TABLE, None)
    is_known = table is not None and WORD_TABLE in weights
    if is_known and not np.array_equal(np.asarray(table), np.asarray(weights[WORD_TABLE])):
        raise UserError(
            f"checkpoint {checkpoint.path} predicts masked words with a table of its own, which "
            f"differs from its word embeddings; write model.share_embedding_weights: false in "
            f"{params_path}"
        )
    return weights


def has_more_rows(shape, wanted):
    return len(shape) == len(wanted) and shape[0] > wanted[0] and shape[1:] == wanted[1:]


def refusal(checkpoint, variables, missing, mismatched, params_path):
    """The message on weights that a checkpoint lacks or has with another shape than the model."""
    faults: dict[str, list] = {}  # text -> the layers with this fault
    for name in missing:
        pattern, layer = pattern_of(name)
        text = f"{pattern}: not in the checkpoint; {likely_cause(name, checkpoint.weights)}"
        faults.setdefault(text, []).append(layer)
    for name, stored, wanted in mismatched:
        pattern, layer = pattern_of(name)
        text = f"{pattern}: {list(stored)} in the checkpoint, {list(wanted)} in the model; "
        faults.setdefault(text + remedy(name, stored, wanted), []).append(layer)
    lines = [f"checkpoint {checkpoint.path} does not fit the model of {params_path}"]
    for text, layers in faults.items():
        lines.append("  " + (text.replace("{i}", span_of(layers), 1) if "{i}" in text else text))
    if not any(name in variables for name in checkpoint.weights):
        lines.append(f"  none of its {len(checkpoint.weights)} weights belongs to a BERT")
    return "\n".join(lines)


# Module -> the key of the params that removes its bias.
BIAS_KEYS = {
    **dict.fromkeys(("query", "key", "value"), "use_projection_bias_in_attention"),
    "output": "use_ffn_bias_in_attention",
    **dict.fromkeys(("expand", "project"), "use_ffn_bias"),
}


def likely_cause(name, weights):
    """The likely reason why a checkpoint lacks a weight, and what to change."""
    if name.startswith("encoder/final_layer_norm/"):
        return "it is a post-norm network, write model.use_pre_normalization: false"
    if name.startswith("embeddings/layer_norm/") and "encoder/final_layer_norm/gamma" in weights:
        return "it is a pre-norm network, write model.use_pre_normalization: true"
    if name == "embeddings/projection/kernel":
        return "its word embeddings are not factorised, leave model.embedding_size out"
    if name == "embeddings/position_embeddings":
        return (
            "if it was trained without, write model.use_position_embedding: false; if its "
            "positions are sines and cosines, model.position_embedding_type: fixed"
        )
    if name.endswith("/bias"):
        module = name.split("/")[-2]
        key = BIAS_KEYS.get(module)
        others = tuple(f"/{each}/bias" for each in BIAS_KEYS if BIAS_KEYS[each] == key)
        if key is not None and not any(n.endswith(others) for n in weights):
            return f"it was trained without, write model.{key}: false"
    if name == "embeddings/segment_embeddings":
        return "if it was trained without, write model.use_segment_embedding: false"
    _, layer = pattern_of(name)
    num_layers = geometry({name: weights[name].shape for name in weights}).get("num_hidden_layers")
    if layer is not None and num_layers is not None and layer >= num_layers:
        return f"it has {num_layers} layers, write model.num_hidden_layers: {num_layers}"
    return "it is incomplete, take one that was saved whole"


def remedy(name, stored, wanted):
    """The change of keys that gives a weight of the model its shape in the checkpoint."""
    axes = axes_of(name)
    if not len(stored) == len(wanted) == len(axes):
        return "it is of another kind of network"
    changes = {
        KEY_OF_AXIS[axis]: value
        for axis, value, length in zip(axes, stored, wanted, strict=True)
        if value != length and axis in KEY_OF_AXIS
    }
    if not changes:
        return "a network with other than 2 segments cannot be loaded"
    text = "write " + ", ".join(f"{key}: {value}" for key, value in changes.items())
    return text + (", and the vocab_file it was trained with" if "V" in axes else "")
