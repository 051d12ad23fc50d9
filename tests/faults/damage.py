# SPDX-License-Identifier: Apache-2.0
"""Damages every kind of file that a run reads again, and asks the project what it says of it.

    python tests/faults/damage.py --damages 2000

A bit is flipped, bytes are replaced, taken out, put in or cut off, or the file is removed. Each has
to be detected by what a start calls, or to leave a meaning that is the same (a blank less in a
manifest, a changed comment in a params file). The first that is neither ends the script.
"""

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from common import params as schema
from common.checkpoints import store
from common.checkpoints.formats import ours
from common.errors import UserError
from utils import changes_from, get_params, save_params

ROOT = Path(__file__).resolve().parents[2]
NUM_RECORDS = 12


def damaged(generator, content):
    """Returns (how, bytes or None where the file is removed)."""
    how = generator.choice(("flipped", "flipped", "replaced", "cut", "inserted", "end", "removed"))
    content = bytearray(content)
    place = generator.randrange(len(content))
    length = generator.randrange(1, 9)
    if how == "flipped":
        content[place] ^= 1 << generator.randrange(8)
    elif how == "replaced":
        content[place : place + length] = generator.randbytes(len(content[place : place + length]))
    elif how == "cut":
        del content[place : place + length]
    elif how == "inserted":
        content[place:place] = generator.randbytes(length)
    elif how == "end":
        del content[place:]
    return how, None if how == "removed" else bytes(content)


class Checkpoints:
    """Of two checkpoints the newer is damaged: the older is to be taken, with a reason."""

    def __init__(self, folder):
        generator = np.random.default_rng(0)
        for step in (1, 2):
            tensors = {name: generator.normal(size=(5, 7)).astype(np.float32) for name in "ab"}
            config = {"hidden_size": 4, "label_names": ["good", "bad"], "step": step}
            arguments = (tensors, {"adam/a": tensors["a"]}, config, ["[PAD]", "joy"])
            self.path = ours.save_checkpoint(folder, step, *arguments)
        self.model_dir = folder
        self.files = [self.path / name for name in sorted(p.name for p in self.path.iterdir())]
        self.manifest = json.loads((self.path / store.MANIFEST).read_bytes())

    def is_detected(self, file):
        told = []
        newest = store.newest_checkpoint(self.model_dir, on_skip=told.append)
        if newest == self.path:
            return False
        try:
            ours.read_config(self.path)
        except UserError:
            return newest.name == "checkpoint-1" and len(told) == 1
        return not (self.path / store.MANIFEST).exists()  # then it is no checkpoint of ours

    def is_same(self, file):
        return file.name == store.MANIFEST and json.loads(file.read_bytes()) == self.manifest


class TokenCache:
    """A damaged cache is to be made anew."""

    def __init__(self, folder):
        from common.platform.seal import write_sealed
        from input import token_cache
        from input.token_cache import Tokens

        tokens = Tokens(
            np.arange(60, dtype=np.int32),
            np.arange(0, 61, 3, dtype=np.int64),
            {"labels": np.zeros(20, np.int32)},
            texts_per_row=1,
        )
        self.read = token_cache._read
        self.files = [folder / "split.safetensors"]
        write_sealed(self.files[0], token_cache._serialized(tokens), "fingerprint")

    def is_detected(self, file):
        return self.read(file, 1, "fingerprint", vocab_size=60) is None

    def is_same(self, file):
        return False


class Records:
    """A damaged TFRecord file is to be named, and none of its rows read as another."""

    def __init__(self, folder):
        import tensorflow as tf
        from tensorflow_datasets.core import FileFormat

        from input.sources.processors import TfdsSource

        self.errors = tf.errors.OpError
        path = folder / "split.tfrecord"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for row in range(NUM_RECORDS):
                writer.write(f"row {row} of a split".encode())
        self.files = [path]
        # What TfdsSource.damages asks of TensorFlow Datasets; preparing a data set takes seconds.
        info = SimpleNamespace(filepaths=[path], shard_lengths=[NUM_RECORDS])
        info.file_format = FileFormat.TFRECORD
        self.dataset = TfdsSource.__new__(TfdsSource)
        self.dataset._builder, self.dataset._counted = SimpleNamespace(info=info), {}
        self.dataset._split_info = lambda split: info

    def is_detected(self, file):
        return len(self.dataset.damages("train")) == 1

    def is_same(self, file):
        # What is behind the last record that the split has is not read.
        return not self.dataset.damages("train") and self.reads_what_was_written(file)

    def reads_what_was_written(self, file):
        import tensorflow as tf

        rows = list(tf.data.TFRecordDataset(str(file)).take(NUM_RECORDS).as_numpy_iterator())
        return rows == [f"row {row} of a split".encode() for row in range(NUM_RECORDS)]


class Params:
    """A changed value is told when the run is resumed: params.yaml in model_dir has it."""

    def __init__(self, folder):
        given = folder / "given.yaml"
        source = ROOT / "configs" / "params_bert_tiny.yaml"
        given.write_bytes(source.read_bytes())
        self.params = get_params(given)
        save_params(self.params, folder)
        self.record = folder / "params.yaml"
        self.values = given_values(yaml.safe_load(self.record.read_bytes()), schema.Params)
        self.files = [given, self.record]

    def is_detected(self, file):
        if file == self.record:
            return not file.exists() or bool(changes_from(file, self.params))
        try:
            return bool(changes_from(self.record, get_params(file)))
        except UserError:
            return True

    def is_same(self, file):
        if file == self.record:
            return given_values(yaml.safe_load(file.read_bytes()), schema.Params) == self.values
        return get_params(file) == self.params


def given_values(tree, section=None):
    """The values of a params file without what says no more than a file without the key.

    That is null, whatever the key is called now, and what the key's default is.
    """
    if not isinstance(tree, dict):
        return tree
    fields = getattr(section, "model_fields", {})
    kept = {}
    for key, value in tree.items():
        field = fields.get(key)
        if value is None or (field is not None and value == field.default):
            continue
        annotation = None if field is None else field.annotation
        kinds = (annotation, *get_args(annotation))
        kept[key] = given_values(
            value, next((k for k in kinds if hasattr(k, "model_fields")), None)
        )
    return kept


KINDS = {
    "checkpoint": Checkpoints,
    "token cache": TokenCache,
    "TFRecord": Records,
    "params": Params,
}


def damage_all(count, seed, folder):
    """Makes `count` damages, file after file. Returns Counter of "<kind>, <what came of it>"."""
    results = Counter()
    generator = random.Random(seed)
    kinds = {}
    for name, make in KINDS.items():
        (folder / name).mkdir()
        kinds[name] = make(folder / name)
    files = [(name, kind, file) for name, kind in kinds.items() for file in kind.files]
    for number in range(count):
        name, kind, file = files[number % len(files)]
        content = file.read_bytes()
        how, new = damaged(generator, content)
        while new == content:
            how, new = damaged(generator, content)
        if new is None:
            file.unlink()
        else:
            file.write_bytes(new)
        place = f"{name}, {file.name}"
        if kind.is_detected(file):
            results[f"{place}: detected"] += 1
        elif new is not None and kind.is_same(file):
            results[f"{place}: the same meaning"] += 1
        else:
            raise AssertionError(f"damage {number} of seed {seed}: {place}, {how}: not detected")
        file.write_bytes(content)
        if kind.is_detected(file):
            raise AssertionError(f"{place} is refused although it is whole")
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--damages", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = damage_all(args.damages, args.seed, Path(folder))
    print(f"{args.damages:,} damages: each detected, or without a meaning of its own")
    for result, count in sorted(results.items()):
        print(f"  {count:6,d}  {result}")


if __name__ == "__main__":
    main()
