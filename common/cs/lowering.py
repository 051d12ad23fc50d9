# SPDX-License-Identifier: Apache-2.0
"""The output of the vendor's front-end compiler: two MLIR files, whose operations are counted."""

import re
import shutil
from collections import Counter
from pathlib import Path

FILES = ("torch.mlir", "cirh.mlir")
# An operation follows " = ", with or without quotes; constants are not counted.
_OPERATION = re.compile(r' = "?(?:torch\.aten|cirh)\.([A-Za-z0-9_.]+)')


def keep_files(artifacts, folder):
    """Moves the MLIR files of the latest program from the SDK's artifacts into a folder.

    Returns {name of FILES: Path}, of the files that exist.
    """
    moved = {}
    for name in FILES:
        paths = sorted(Path(artifacts).glob(f"executors/[0-9]*/{name}"))
        if paths:
            moved[name] = Path(shutil.move(paths[-1], Path(folder) / name))
    return moved


def count_operations(path):
    """Returns a Counter of the operations in an MLIR file, without their dialect."""
    with open(path, encoding="utf-8", errors="replace") as file:
        counts = Counter(match[1] for line in file if (match := _OPERATION.search(line)))
    counts.pop("Const", None)
    return counts


def shortened(counts, most=8):
    """Returns a Counter as text: `Mul 447, Add 208, ... (24 kinds)`."""
    text = ", ".join(f"{name} {count:,}" for name, count in counts.most_common(most))
    return text + (f", ... ({len(counts)} kinds)" if len(counts) > most else "")
