# SPDX-License-Identifier: Apache-2.0
"""Keras weights files: `save_weights("x.weights.h5")` of this project's model.

Each layer has a group named after the Python attribute with the layer. Its group `vars` has the
numbered variables, and the layer's name, which is the neutral one, as an attribute.
"""

from functools import partial
from pathlib import Path

import h5py

from common.checkpoints.containers import hdf5
from common.checkpoints.names import StoredTensor, axes_of, parts_of, weights_of
from common.checkpoints.small_files import (
    begins_with,
    export_beside,
    network_config,
    reading,
)
from common.checkpoints.vocab import write_vocab
from common.errors import UserError

TABLES = ("word_embeddings", "position_embeddings", "segment_embeddings")


def is_checkpoint(path):
    """An HDF5 file that no other format claims, or its name."""
    return find_file(path) is not None


def find_file(path):
    """The file of a path, as Path; None if there is none."""
    path = Path(path)
    if path.is_dir():
        files = [file for file in path.glob("*.weights.h5") if file.is_file()]
        return files[0] if len(files) == 1 else None
    if not path.is_file():
        return None
    is_hdf5 = path.suffix in (".h5", ".hdf5") or begins_with(path, hdf5.SIGNATURE)
    return path if is_hdf5 else None


def read_config(path):
    """Heads, GELU, epsilon and the variants of the network come from a `params.yaml` beside it."""
    path = find_file(path)
    words = "embeddings/vars/0, as save_weights of Keras 3 writes this project's model"
    config, _ = network_config("ours", path, weights_of(path, list_tensors(path)), words)
    return config | export_beside(path.parent)


def read_weights(path):
    path = find_file(path)
    hdf5.check_survives(path, with_values=True)
    return weights_of(path, list_tensors(path))


def list_tensors(path):
    path = find_file(path)
    tensors, seen = [], set()

    def walk(group, names):
        """group: h5py.Group; names: tuple of str, neutral names of the enclosing layers."""
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            raise UserError(f"{path}: the group {group.name!r:.120} lies in itself; {hdf5.AGAIN}")
        seen.add(address)
        children = {}
        for key in group.keys():  # noqa: SIM118  (not a dict)
            if hdf5.is_link(group, key):
                raise UserError(f"{path}: {group.name}/{key} is a link to elsewhere; {hdf5.AGAIN}")
            if isinstance(group[key], h5py.Group):
                children[key] = group[key]
        variables = children.pop("vars", None)
        if variables is not None:
            name = variables.attrs.get("name")
            if group.name != "/" and isinstance(name, str):
                names = (*names, name)
            add_variables(variables, names)
        for child in children.values():
            walk(child, names)

    def add_variables(variables, names):
        keys = list(variables.keys())
        datasets = {key: hdf5.get_dataset(path, variables, key) for key in keys}
        module = "/".join(names)
        name_parts = {"embeddings": tables_of, "mlm": of_masked_lm}.get(module)
        tables = name_parts(datasets) if name_parts else {}
        parts = parts_of(module)  # 0 is the kernel, 1 the bias
        for key, dataset in datasets.items():
            part = tables.get(key, parts[int(key)] if key in ("0", "1") else key)
            weight = f"{module}/{part}" if axes_of(f"{module}/{part}") else None
            name = dataset.name.removeprefix("/")
            read = partial(hdf5.read_dataset, path, name)
            is_state = name.startswith("optimizer/")
            dtype = dataset.dtype.name
            tensors.append(StoredTensor(name, dataset.shape, dtype, read, weight, is_state))

    with hdf5.open_file(path) as file, reading(path):
        walk(file, ())
    return tensors


def tables_of(datasets):
    """{number: name} of the embedding tables; missing tables have no number."""
    keys = sorted(datasets)
    if len(keys) == 2 and datasets[keys[1]].shape[:1] == (2,):
        return {keys[0]: TABLES[0], keys[1]: TABLES[2]}
    return dict(zip(keys, TABLES, strict=False))


def of_masked_lm(datasets):
    """{number: name} of the head of masked words, which may lack its table and its bias."""
    names = {1: "output_bias", 2: "output_embeddings"}
    return {key: names.get(len(each.shape), key) for key, each in datasets.items()}


# ---- Writing -------------------------------------------------------------------------------------

WEIGHTS_FILE = "model.weights.h5"


def check(params, quantize):
    """Any network can be written."""


def write(classifier, folder):
    """Writes model.weights.h5, params.yaml and vocab.txt."""
    classifier.model.save_weights(folder / WEIGHTS_FILE)
    (folder / "params.yaml").write_text(classifier.params_text, "utf-8", newline="\n")
    write_vocab(folder, classifier.vocab)
    return []


def usage(classifier):
    return """
It is for this project: give this folder as `--checkpoint_path`, to train from, to evaluate or to
predict. Or, for the network that `params.yaml` describes:

```python
model = make_model(params)  # model.py
model.load_weights("model.weights.h5")
```

A layer's group in the file is the path of the attribute that holds it, and `vars/0`, `vars/1` are
its kernel and bias (gamma and beta of a layer norm). Kernels are [in, out].
"""
