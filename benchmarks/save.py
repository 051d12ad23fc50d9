# SPDX-License-Identifier: Apache-2.0
"""Measures how long a checkpoint of BERT-base blocks training, and how long writing it takes.

    python benchmarks/save.py [--folder DIR] [--saves N] [--num_layers N]

The state is AdamW's: every weight, m and v, as float32 variables of TensorFlow. Prints for each
save the seconds that `CheckpointWriter.save` blocks the training thread, and the seconds until
everything is on disk; then the seconds to verify the files.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf

from common.checkpoints import store
from common.checkpoints.names import NOT_OF_A_CLASSIFIER, WEIGHTS
from common.checkpoints.writer import CheckpointWriter

SIZES = {"V": 30522, "P": 512, "S": 2, "D": 768, "F": 3072, "C": 2}  # Devlin et al. 2019


def make_variables(num_layers):
    """Returns {neutral name: variable} of the classifier."""
    variables = {}
    for pattern, axes in WEIGHTS.items():
        if pattern.startswith(NOT_OF_A_CLASSIFIER):
            continue
        for layer in range(num_layers if "{i}" in pattern else 1):
            shape = [SIZES[axis] for axis in axes]
            name = pattern.replace("{i}", str(layer))
            variables[name] = tf.Variable(tf.random.stateless_normal(shape, [layer, len(name)]))
    return variables


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", help="where to save (default: a temporary folder)")
    parser.add_argument("--saves", type=int, default=3)
    parser.add_argument("--num_layers", type=int, default=12)
    args = parser.parse_args()
    weights = make_variables(args.num_layers)
    slots = {
        f"adamw/{slot}/{name}": tf.Variable(tf.ones_like(weight))
        for slot in "mv"
        for name, weight in weights.items()
    }
    size = sum(int(tf.size(v)) * 4 for v in (*weights.values(), *slots.values()))
    print(f"{len(weights) + len(slots)} tensors, {size / 1e6:,.0f} MB")

    def read(variables):
        return {name: variable.read_value() for name, variable in variables.items()}

    folder = Path(args.folder or tempfile.mkdtemp())
    model_dir = folder / f"benchmark-{os.getpid()}"
    model_dir.mkdir(parents=True)
    try:
        writer = CheckpointWriter(model_dir)
        writer.reserve(read(weights) | read(slots))
        time.sleep(1)  # in place of the first steps of a run
        for step in range(1, args.saves + 1):
            start = time.perf_counter()
            writer.save(step, read(weights), read(slots), {"step": step}, ["[PAD]"], keep_max=1)
            blocked = time.perf_counter() - start
            writer.wait()
            total = time.perf_counter() - start
            print(f"save {step}: training blocked {blocked:.2f} s, on disk {total:.2f} s")
        start = time.perf_counter()
        path = store.newest_checkpoint(model_dir)
        print(f"verified at a start: {time.perf_counter() - start:.2f} s ({path.name})")
    finally:
        shutil.rmtree(model_dir, ignore_errors=True)
        if args.folder is None:
            folder.rmdir()


if __name__ == "__main__":
    main()
