# SPDX-License-Identifier: Apache-2.0
"""The `.index` file of a TensorFlow checkpoint: its tensors and their places in the data files.

TensorFlow ends the process on some damaged indices, so this module reads and checks them first. It
also lists tensors without importing TensorFlow. An index is a table of sorted keys in blocks
(LevelDB's format, tensorflow/core/lib/io/table_format.txt); the values are messages of
tensor_bundle.proto.
"""

import math
from dataclasses import dataclass

FOOTER_BYTES = 48
MAGIC = bytes.fromhex("57fb808b247547db")  # table_format.txt
MAX_RANK = 8
# types.proto
DTYPES = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "string",
    9: "int64", 10: "bool", 14: "bfloat16", 17: "uint16", 19: "float16", 22: "uint32", 23: "uint64",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A variable: the bytes [offset, offset + size) of data file `shard`, and their checksum."""

    shape: tuple
    dtype: str
    shard: int
    offset: int
    size: int
    checksum: int


def read_index(content):
    """The number of data files, and {variable name: Entry} in the order of the names.

    content: bytes of the index.

    Raises:
        ValueError: it is damaged, or has compressed blocks, sliced variables or big-endian numbers,
            which a checkpoint of BERT does not have.
    """
    footer = content[-FOOTER_BYTES:]
    if len(footer) < FOOTER_BYTES or not footer.endswith(MAGIC):
        raise ValueError("it is not a checkpoint's index, or cut off")
    position = 0
    for _ in range(3):  # offset and size of the meta index, offset of the index of blocks
        offset, position = varint(footer, position)
    size, _ = varint(footer, position)
    entries = {}
    for _, handle in block_at(content, offset, size):
        offset, position = varint(handle, 0)
        size, _ = varint(handle, position)
        for key, value in block_at(content, offset, size):
            if key in entries:
                raise ValueError("it has a name twice")
            entries[key] = value
    if b"" not in entries:
        raise ValueError("it has no header")
    header = fields(entries.pop(b""), {1: int, 2: int, 3: bytes})
    if header.get(2, 0) != 0:
        raise ValueError("its numbers are big-endian")
    num_shards = header.get(1, 0)
    if not 1 <= num_shards <= 99_999:
        raise ValueError(f"it says that there are {num_shards} data files")
    fields(header.get(3, b""), {1: int, 2: int})
    return num_shards, {key.decode(): entry_of(value) for key, value in entries.items()}


def entry_of(message):
    """Entry of a BundleEntryProto. message: bytes."""
    values = fields(message, {1: int, 2: bytes, 3: int, 4: int, 5: int, 6: "fixed32"})
    shape = tuple(
        fields(dim, {1: int}).get(1, 0)
        for _, dim in all_fields(values.get(2, b""), {2: bytes})  # TensorShapeProto: only dims
    )
    if len(shape) > MAX_RANK or math.prod(max(n, 1) for n in shape) >= 2**62:
        raise ValueError(f"a variable is of shape {list(shape)}"[:200])
    dtype = DTYPES.get(values.get(1, 0))
    if dtype is None:
        raise ValueError(f"a variable is of TensorFlow's type {values.get(1, 0)}")
    checksum = int.from_bytes(values.get(6, b""), "little")
    return Entry(shape, dtype, values.get(3, 0), values.get(4, 0), values.get(5, 0), checksum)


# ---- The table -----------------------------------------------------------------------------------


def block_at(content, offset, size):
    """The (key, value) pairs of a block, as a list of pairs of bytes."""
    block, trailer = content[offset : offset + size], content[offset + size : offset + size + 5]
    if len(trailer) < 5 or size < 4:
        raise ValueError("a block lies outside the file")
    if trailer[0] != 0:
        raise ValueError("its blocks are compressed")
    if masked(crc32c(block + trailer[:1])) != int.from_bytes(trailer[1:], "little"):
        raise ValueError("a checksum is wrong")
    num_restarts = int.from_bytes(block[-4:], "little")
    end = size - 4 - 4 * num_restarts
    if end < 0:
        raise ValueError("a block is too short")
    pairs, key, position = [], b"", 0
    while position < end:
        shared, position = varint(block, position)
        unshared, position = varint(block, position)
        length, position = varint(block, position)
        stop = position + unshared + length
        if shared > len(key) or stop > end:
            raise ValueError("a block's entry is damaged")
        key = key[:shared] + block[position : position + unshared]
        pairs.append((key, block[position + unshared : stop]))
        position = stop
    return pairs


def crc32c(content):
    """Castagnoli's checksum, RFC 3720 appendix B.4."""
    value = 0xFFFFFFFF
    for byte in content:
        value = CRC_TABLE[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


def crc_of_byte(value):
    for _ in range(8):
        value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value


CRC_TABLE = [crc_of_byte(byte) for byte in range(256)]


def masked(crc):
    """The stored form of a checksum (crc32c.h), for data that itself contains checksums."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


# ---- Protocol buffers ----------------------------------------------------------------------------


def varint(content, position):
    """An unsigned number with 7 bits in each byte. Returns it and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(content):
            break
        byte = content[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value & (2**64 - 1), position
    raise ValueError("a number is cut off")


def all_fields(message, kinds):
    """The (number, value) pairs of a message.

    kinds: dict of field number to int, bytes or "fixed32"; any other field is refused.
    """
    pairs, position = [], 0
    while position < len(message):
        tag, position = varint(message, position)
        number, wire = tag >> 3, tag & 7
        kind = kinds.get(number)
        if wire == 0 and kind is int:
            value, position = varint(message, position)
        elif wire == 5 and kind == "fixed32" and position + 4 <= len(message):
            value, position = message[position : position + 4], position + 4
        elif wire == 2 and kind is bytes:
            length, position = varint(message, position)
            value, position = message[position : position + length], position + length
            if position > len(message):
                raise ValueError("a message is cut off")
        else:
            raise ValueError(f"a message has a field {number} that is not expected")
        pairs.append((number, value))
    return pairs


def fields(message, kinds):
    """`all_fields` as a dict; a repeated field is refused."""
    pairs = all_fields(message, kinds)
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a message has a field twice")
    return dict(pairs)
