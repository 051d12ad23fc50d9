# SPDX-License-Identifier: Apache-2.0
"""PyTorch's files (`pytorch_model.bin`): reads the tensors of a pickle without executing it.

Such a file is a program for Python's pickle machine. This reader interprets only the instructions
that `torch.save` writes for a dictionary of tensors. Markers replace functions: nothing that the
file names is imported or called, and other instructions are refused. PyTorch is not needed. There
are two layouts: a zip archive (since PyTorch 1.6) with `data.pkl` and one uncompressed entry for
each storage, and the older sequence of pickles followed by the storages.
"""

import io
import math
import pickletools
import zipfile
from dataclasses import dataclass
from functools import partial

import ml_dtypes  # noqa: F401  (registers bfloat16 with NumPy)
import numpy as np

from common.checkpoints.small_files import begins_with, reading
from common.errors import UserError

MAX_PICKLE_BYTES = 2_000_000  # BERT large has 60,000
MAX_DIRECTORY_BYTES = 4_000_000  # of a zip archive: 60 bytes for each of 400 tensors
MAX_RANK = 8
ZIP_START = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # torch/serialization.py, MAGIC_NUMBER
LEGACY_PROTOCOL = 1001

STORAGES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}


class Refused(UserError):
    """The file has an instruction that a dictionary of tensors does not need."""


@dataclass(frozen=True)
class Storage:
    """A buffer of values. key: str, in the file; size: int, number of values."""

    key: str
    dtype: str
    size: int

    @property
    def num_bytes(self):
        return self.size * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Tensor:
    """A view of a storage; offset and strides count values."""

    storage: Storage
    offset: int
    shape: tuple
    strides: tuple


def is_torch_file(path):
    """Whether a file is PyTorch's, by its name and its first bytes."""
    starts = (ZIP_START, b"\x80\x02")
    return path.suffix in (".bin", ".pt", ".pth") and begins_with(path, starts)


def read(path):
    """Every tensor of a file, none read yet: list of (name, shape, dtype, read).

    Raises:
        UserError: the file is damaged, has no dictionary of tensors, or asks to run code.
    """
    try:
        with reading(path, "it is no PyTorch file, or damaged"):
            open_file = open_zip if begins_with(path, (ZIP_START,)) else open_legacy
            values, read_storage = open_file(path)
            tensors = named_tensors(values)
            for tensor in tensors.values():
                check_bounds(tensor)
    except Refused as refused:
        raise UserError(
            f"{path} {refused}; it was not run. Take the model's safetensors file, or a file that "
            "holds its tensors alone"
        ) from None
    return [
        (name, tensor.shape, tensor.storage.dtype, partial(read_tensor, path, tensor, read_storage))
        for name, tensor in tensors.items()
    ]


def named_tensors(values):
    """The dict of tensors in the unpickled object: the object, or its "state_dict"."""
    if isinstance(values, dict) and isinstance(values.get("state_dict"), dict):
        values = values["state_dict"]
    if not isinstance(values, dict):
        raise ValueError("it holds no dictionary")
    tensors = {
        name: value
        for name, value in values.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    if not tensors:
        raise ValueError("its dictionary holds no tensors")
    return tensors


def check_bounds(tensor):
    """Raises ValueError if a tensor is larger than its storage."""
    numbers = (tensor.offset, *tensor.shape, *tensor.strides)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("a tensor's shape is not of whole numbers")
    if len(tensor.shape) != len(tensor.strides) or len(tensor.shape) > MAX_RANK:
        raise ValueError(f"a tensor has {len(tensor.shape)} axes and {len(tensor.strides)} strides")
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
    count = math.prod(tensor.shape)
    if count and (tensor.offset + last >= tensor.storage.size or count > tensor.storage.size):
        raise ValueError(
            f"a tensor of shape {list(tensor.shape)} does not fit into its {tensor.storage.size} "
            "values"
        )


def read_tensor(path, tensor, read_storage):
    """The values of a tensor, <its dtype>[shape]."""
    with reading(path):
        values = read_storage(tensor.storage)  # [storage size]
    strides = [step * values.itemsize for step in tensor.strides]
    offset = tensor.offset * values.itemsize
    return np.asarray(np.ndarray(tensor.shape, values.dtype, values, offset, strides), order="C")


# ---- The two layouts -----------------------------------------------------------------------------


def open_zip(path):
    """Returns the object of `data.pkl`, and a function that reads the values of a Storage."""
    with open(path, "rb") as file:
        end = zipfile._EndRecData(file)
    if end is None:
        raise ValueError("it ends before its directory")
    directory_size = end[zipfile._ECD_SIZE]  # ZipFile reads it at once
    if directory_size > MAX_DIRECTORY_BYTES:
        raise ValueError(f"its directory has more than {MAX_DIRECTORY_BYTES:,} bytes")
    archive = zipfile.ZipFile(path)
    infos = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in infos if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise ValueError(f"it has {len(pickles)} entries called data.pkl")
    for info in infos.values():
        # torch.save does not compress, so an entry is at most as large as the file.
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise ValueError(f"its entry {info.filename!r:.80} is compressed")
    if sum(info.file_size for info in infos.values()) > path.stat().st_size:
        raise ValueError("its entries are larger than the file")
    if infos[pickles[0]].file_size > MAX_PICKLE_BYTES:
        raise ValueError(f"its data.pkl has more than {MAX_PICKLE_BYTES:,} bytes")
    root = pickles[0].removesuffix("data.pkl")
    is_big = f"{root}byteorder" in infos and archive.read(f"{root}byteorder") == b"big"
    values = unpickle(archive.read(pickles[0]))
    for storage in storages_of(values):
        info = infos.get(f"{root}data/{storage.key}")
        if info is None or info.file_size != storage.num_bytes:
            raise ValueError(f"storage {storage.key!r:.80} is missing, or not as long as it says")

    def read_storage(storage):
        return to_array(archive.read(f"{root}data/{storage.key}"), storage, is_big)

    return values, read_storage


def open_legacy(path):
    """`open_zip` for files from before PyTorch 1.6."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        # Five pickles: magic number, protocol, word sizes, the dictionary, keys of the storages.
        head = file.read(MAX_PICKLE_BYTES)
        stream = io.BytesIO(head)
        if unpickle(stream) != LEGACY_MAGIC or unpickle(stream) != LEGACY_PROTOCOL:
            raise ValueError("it does not begin as one")
        is_big = not expect(dict, unpickle(stream)).get("little_endian", True)
        values, keys = unpickle(stream), unpickle(stream)
        storages = {storage.key: storage for storage in storages_of(values)}
        starts, position = {}, stream.tell()
        for key in keys:  # each: its number of values, 8 bytes, and the values
            storage = storages.get(key)
            file.seek(position)
            count = int.from_bytes(file.read(8), "big" if is_big else "little")
            if storage is None or count != storage.size:
                raise ValueError(f"storage {key!r:.80} is not as long as it says")
            starts[key] = position + 8
            position = starts[key] + storage.num_bytes
    if position > size or set(storages) - set(starts):
        raise ValueError(f"its {size:,} bytes are not as many as it says")

    def read_storage(storage):
        with open(path, "rb") as file:
            file.seek(starts[storage.key])
            return to_array(file.read(storage.num_bytes), storage, is_big)

    return values, read_storage


def storages_of(values):
    return {tensor.storage for tensor in named_tensors(values).values()}


def to_array(content, storage, is_big):
    """<its dtype>[storage size] of the bytes of a storage; is_big: big-endian."""
    array = np.frombuffer(content, storage.dtype)
    if len(array) != storage.size:
        raise ValueError(f"storage {storage.key!r:.80} ends too early")
    return array.byteswap() if is_big else array


# ---- The pickle machine --------------------------------------------------------------------------

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
CONTAINERS = {"EMPTY_DICT": dict, "EMPTY_LIST": list}
NUMBERS_AND_TEXTS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}


def unpickle(stream):
    """The object of a pickle, with Storage and Tensor in place of PyTorch's objects.

    stream: bytes, or a binary file, which is left at the end of the pickle.

    Raises:
        Refused: it is not only a dictionary of tensors.
        ValueError, LookupError, TypeError: it is damaged.
    """
    stack, marks, memo = [], [], {}

    def pop_to_mark():
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    for opcode, value, _ in pickletools.genops(stream):
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            pass
        elif name in NUMBERS_AND_TEXTS:
            stack.append(value)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name == "MARK":
            marks.append(len(stack))
        elif name in CONTAINERS:
            stack.append(CONTAINERS[name]())
        elif name == "TUPLE":
            stack.append(tuple(pop_to_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            length = int(name[-1])
            stack[-length:] = [tuple(stack[-length:])]
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[value] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[value])
        elif name == "GLOBAL":
            stack.append(allowed(value.replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            function, module = stack.pop(), stack.pop()
            stack.append(allowed(f"{module}.{function}"))
        elif name == "BINPERSID":
            stack.append(make_storage(stack.pop()))
        elif name == "REDUCE":
            arguments, function = expect(tuple, stack.pop()), stack.pop()
            if function not in FUNCTIONS.values():
                raise Refused(f"asks to call {function!r:.80}")
            stack.append(function(*arguments))
        elif name in ("APPEND", "APPENDS"):
            items = pop_to_mark() if name == "APPENDS" else [stack.pop()]
            expect(list, stack[-1]).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = pop_to_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            pairs = zip(items[::2], items[1::2], strict=True)
            expect(dict, stack[-1]).update(pairs)
        elif name == "BUILD":  # attributes of a state_dict: the versions of its modules
            stack.pop()
            expect(dict, stack[-1])
        elif name == "STOP":
            return stack.pop()
        else:
            raise Refused(f"asks for pickle's {name}, which a dictionary of tensors does not need")
    raise ValueError("its pickle has no end")


def expect(kind, value):
    if type(value) is not kind:
        raise TypeError(f"a {type(value).__name__} stands where a {kind.__name__} belongs")
    return value


def make_storage(persistent_id):
    """("storage", its type, key, device, number of values, ...) -> Storage."""
    kind, name, key, _, size, *_ = expect(tuple, persistent_id)
    if kind != "storage" or type(size) is not int or size < 0:
        raise ValueError("a storage is described wrongly")
    return Storage(expect(str, key), STORAGES[name], size)


def make_tensor(storage, offset, shape, strides, *_):
    return Tensor(expect(Storage, storage), offset, expect(tuple, shape), expect(tuple, strides))


# What is called in the place of what a file names.
FUNCTIONS = {
    "collections.OrderedDict": dict,
    "torch._utils._rebuild_tensor_v2": make_tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_: expect(Tensor, tensor),
}


def allowed(name):
    """The function that stands for an accepted one, or the name of an accepted type of storage."""
    if name not in FUNCTIONS and name not in STORAGES:
        raise Refused(f"asks to run {name!r:.80}")
    return FUNCTIONS.get(name, name)
