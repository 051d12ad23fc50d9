# SPDX-License-Identifier: Apache-2.0
"""Writes PyTorch's files without PyTorch, in its two layouts, as torch/serialization.py does."""

import pickle
import struct
import sys
import types
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

TYPES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


class Stored:
    """A storage. array: NumPy array of one axis."""

    def __init__(self, array):
        self.array = array


@dataclass
class Rebuilt:
    """A tensor: a view of a Stored."""

    storage: Stored
    offset: int
    shape: tuple
    strides: tuple


@contextmanager
def names_of_torch():
    """Lets pickle write PyTorch's names, which it looks up, without PyTorch."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2():
        pass

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    for name in TYPES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    before = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules |= {"torch": torch, "torch._utils": utils}
    try:
        yield torch, _rebuild_tensor_v2
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


def pickled(values, protocol, extra):
    """Returns the pickle, and {key: array} of its storages. extra: rest of a persistent id."""
    import io

    keys, storages, kept = {}, {}, []
    with names_of_torch() as (torch, rebuild):

        class Pickler(pickle.Pickler):
            def persistent_id(self, value):
                if not isinstance(value, Stored):
                    return None
                key = keys.setdefault(id(value), str(len(keys)))
                storages[key] = value.array
                kind = getattr(torch, TYPES[value.array.dtype.name])
                return ("storage", kind, key, "cpu", value.array.size, *extra)

            def reducer_override(self, value):
                if isinstance(value, np.ndarray):
                    steps = tuple(s // value.itemsize for s in value.strides)
                    value = Rebuilt(Stored(value.ravel()), 0, value.shape, steps)
                    kept.append(value)  # so that no two have the same id
                if isinstance(value, Rebuilt):
                    view = (value.storage, value.offset, value.shape, value.strides)
                    return rebuild, (*view, False, {})
                return NotImplemented

        stream = io.BytesIO()
        Pickler(stream, protocol).dump(values)
    return stream.getvalue(), storages


def save_zip(path, values, protocol=2, compression=zipfile.ZIP_STORED):
    """torch.save since 1.6. values: what to save; NumPy arrays become tensors."""
    content, storages = pickled(values, protocol, ())
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", "little")
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())


def save_legacy(path, values):
    """torch.save before 1.6."""
    content, storages = pickled(values, 2, (None,))
    sizes = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    with open(path, "wb") as file:
        for head in (0x1950A86A20F9469CFC6C, 1001, sizes):
            file.write(pickle.dumps(head, 2))
        file.write(content + pickle.dumps(sorted(storages), 2))
        for key in sorted(storages):
            file.write(struct.pack("<q", storages[key].size) + storages[key].tobytes())
