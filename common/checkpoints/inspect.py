# SPDX-License-Identifier: Apache-2.0
"""Describes a checkpoint as text, without reading its weights: `--mode inspect`."""

import math

from common.checkpoints.formats import FORMATS
from common.checkpoints.load import open_checkpoint
from common.checkpoints.small_files import NETWORK_KEYS
from common.console import counted
from common.errors import printable
from common.params import COMPUTED_KEYS
from common.params.families import ROTARY


def inspect_checkpoint(path):
    """Describes a checkpoint: format, network, step, and every tensor with its neutral name.

    path: whatever `open_checkpoint` takes, and raises UserError on.
    """
    checkpoint = open_checkpoint(path)
    config, format = checkpoint.config, FORMATS[checkpoint.format]
    tensors = format.module.list_tensors(checkpoint.path)
    weights = [tensor for tensor in tensors if not tensor.is_state]
    state = [tensor for tensor in tensors if tensor.is_state]
    network_keys = [key for key in NETWORK_KEYS if key in config or key not in ROTARY]
    keys = (*network_keys, "do_lower_case", *(key for key in COMPUTED_KEYS if key in config))
    rows = [
        ("format", format.title),
        ("family", config.get("family")),
        *((key, "not said" if config.get(key) is None else config[key]) for key in keys),
        ("task", config.get("task") or "not said"),
        ("label_names", ", ".join(config.get("label_names") or ()) or "none"),
        ("vocab_file", config.get("vocab_file") or "none"),
        ("training step", f"{config['step']:,}" if "step" in config else "not said"),
        ("weights", summary(weights)),
        ("training state", summary(state)),
        *(("note", note) for note in config.get("notes", ())),
    ]
    lines = [f"checkpoint {checkpoint.path}"]
    lines += [f"  {title:<24}{value}" for title, value in rows]
    lines += ["", *table(weights)]
    if state:
        lines += ["", "training state", *table(state)]
    return printable("\n".join(lines))


def summary(tensors):
    """`48 tensors, 181,098 numbers, 724.4 kB`."""
    if not tensors:
        return "none"
    numbers = sum(math.prod(tensor.shape) for tensor in tensors)
    size = in_bytes(sum(tensor.num_bytes for tensor in tensors))
    return f"{counted(len(tensors), 'tensor')}, {counted(numbers, 'number')}, {size}"


def table(tensors):
    """A line for each tensor: shape and type in the file, size, name, neutral name."""
    rows = [
        (str(list(t.shape)), t.dtype, in_bytes(t.num_bytes), t.name, t.weight or "-")
        for t in tensors
    ]
    head = ("shape", "type", "size", "name in the file", "neutral name")
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    form = "  ".join(f"{{:{'>' if i == 2 else '<'}{width}}}" for i, width in enumerate(widths))
    return [form.format(*row).rstrip() for row in (head, *rows)]


def in_bytes(size):
    """12345 -> "12.3 kB"; 1 kB are 1,000 bytes."""
    if size < 1000:
        return f"{size} B"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.95 or unit == "GB":
            break
    return f"{size:,.1f} {unit}"
