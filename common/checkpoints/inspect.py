# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint is and holds, as text, without reading its weights: `--mode inspect`."""

import importlib
import math
from pathlib import Path

from common.checkpoints import store
from common.checkpoints.formats.huggingface import read_safetensors
from common.checkpoints.load import FORMATS, open_checkpoint
from common.checkpoints.names import StoredTensor, axes_of
from common.checkpoints.small_files import NETWORK_KEYS
from common.errors import printable
from common.params import COMPUTED_KEYS

TITLES = {
    "huggingface": "Hugging Face",
    "ours": "this project's own",
    "cerebras_mdl": "Cerebras .mdl",
    "keras_h5": "Keras weights",
    "cerebras_tf": "Cerebras TensorFlow",
    "google_tf1": "Google TF1",
}


def inspect_checkpoint(path):
    """Describes a checkpoint: format, network, step, and every tensor with its neutral name.

    Args:
        path: whatever `open_checkpoint` takes.
    Returns:
        str of many lines.
    Raises:
        UserError: there is nothing to load at the path, or it cannot be read.
    """
    checkpoint = open_checkpoint(path)
    config, tensors = checkpoint.config, list_tensors(checkpoint)
    weights = [tensor for tensor in tensors if not tensor.is_state]
    state = [tensor for tensor in tensors if tensor.is_state]
    network = [(key, config.get(key)) for key in (*NETWORK_KEYS, "do_lower_case")]
    network += [(key, config[key]) for key in COMPUTED_KEYS if key in config]
    rows = [
        ("format", TITLES[checkpoint.format]),
        ("family", config.get("family")),
        *((key, "not said" if value is None else value) for key, value in network),
        ("label_names", ", ".join(config.get("label_names") or ()) or "none"),
        ("vocab_file", config.get("vocab_file") or "none"),
        ("training step", f"{config['step']:,}" if "step" in config else "not said"),
        ("weights", summary(weights)),
        ("training state", summary(state)),
    ]
    lines = [f"checkpoint {checkpoint.path}"]
    lines += [f"  {title:<24}{value}" for title, value in rows]
    lines += ["", *table(weights)]
    if state:
        lines += ["", "training state", *table(state)]
    return printable("\n".join(lines))


def list_tensors(checkpoint):
    """Every tensor of a Checkpoint, as a list of StoredTensor."""
    if checkpoint.format != "ours":
        return importlib.import_module(FORMATS[checkpoint.format]).list_tensors(checkpoint.path)
    folder = Path(checkpoint.config["vocab_file"]).parent  # of a model_dir, the newest
    tensors = []
    for file in (store.WEIGHTS, store.STATE):
        if not (folder / file).is_file():
            continue
        for name, shape, dtype, read in read_safetensors(folder / file):
            is_state = file == store.STATE
            weight = name if not is_state and axes_of(name) else None
            tensors.append(StoredTensor(name, shape, dtype, read, weight, is_state))
    return tensors


def summary(tensors):
    """`48 tensors, 181,098 numbers, 724.4 kB`."""
    if not tensors:
        return "none"
    numbers = sum(math.prod(tensor.shape) for tensor in tensors)
    size = in_bytes(sum(tensor.num_bytes for tensor in tensors))
    return f"{len(tensors)} tensor{'s' * (len(tensors) > 1)}, {numbers:,} numbers, {size}"


def table(tensors):
    """A line for each tensor: shape and type in the file, size, name, neutral name."""
    rows = [
        (str(list(t.shape)), t.dtype, in_bytes(t.num_bytes), t.name, t.weight or "-")
        for t in tensors
    ]
    head = ("shape", "type", "size", "name in the file", "neutral name")
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = []
    for row in (head, *rows):
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)]
        cells[2] = f"{row[2]:>{widths[2]}}"
        lines.append("  ".join(cells).rstrip())
    return lines


def in_bytes(size):
    """12345 -> "12.3 kB"; 1 kB are 1,000 bytes."""
    if size < 1000:
        return f"{size} B"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.95 or unit == "GB":
            break
    return f"{size:,.1f} {unit}"
