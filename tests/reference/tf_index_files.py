# SPDX-License-Identifier: Apache-2.0
"""Writes the index of a TensorFlow checkpoint without TensorFlow, right ones and wrong ones."""

import struct

from common.checkpoints.containers.tf_index import crc32c, masked


def varint(value):
    """A whole number as protocol buffers have it."""
    content = b""
    while value > 0x7F:
        content, value = content + bytes([value & 0x7F | 0x80]), value >> 7
    return content + bytes([value])


def table_of(pairs):
    """An index of one block, as TensorFlow's BundleWriter writes it. pairs: of bytes, sorted."""

    def block(pairs):
        lines = b"".join(varint(0) + varint(len(k)) + varint(len(v)) + k + v for k, v in pairs)
        content = lines + struct.pack("<LL", 0, 1)
        return content + b"\0" + struct.pack("<L", masked(crc32c(content + b"\0")))

    data, meta = block(pairs), block([])
    handle = varint(0) + varint(len(data) - 5)
    index = block([(pairs[-1][0], handle)])
    footer = varint(len(data)) + varint(len(meta) - 5)
    footer += varint(len(data) + len(meta)) + varint(len(index) - 5)
    return data + meta + index + footer.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")
