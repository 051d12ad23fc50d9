# SPDX-License-Identifier: Apache-2.0
"""TFRecord files: the place and the checksum of every record, so that rows are read by position.

A record is its length (8 bytes, little-endian), the checksum of these bytes (4), its content, and
the checksum of that (4). A checksum is the CRC-32C of the bytes, rotated right by 15 bits, plus a
constant (tensorflow/core/lib/hash/crc32c.h). TensorFlow's own reader knows no places, and takes a
file that ends within a header for a whole one.
"""

import contextlib
import functools
import gzip
import hashlib
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import tensorflow as tf

from common.files import delete_leftovers, flush
from common.platform.seal import NotSealed, check_own, make_own
from common.signals import poll

HEADER = struct.Struct("<QI")  # length and its checksum
FOOTER_BYTES = 4  # the checksum of the content
POLYNOMIAL = 0x82F63B78  # Castagnoli's, reflected
MASK_DELTA = 0xA282EAD8
RECORDS_AT_ONCE = 1024
GZIP_MAGIC = b"\x1f\x8b"
COPY_BYTES = 1 << 20


class RecordFault(ValueError):
    """A file is damaged. `record` is the number of the first bad record; the text says what is."""

    def __init__(self, record, text):
        super().__init__(text)
        self.record = record


@functools.cache
def _table():
    """Returns what each value of a byte adds to a CRC-32C: tuple of 256 int."""
    table = range(256)
    for _ in range(8):
        table = [value >> 1 ^ POLYNOMIAL * (value & 1) for value in table]
    return tuple(table)


def checksum(content):
    """Returns the masked CRC-32C of bytes. Takes 0.1 s a megabyte."""
    crc, table = 0xFFFFFFFF, _table()
    for byte in content:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF


def scan(path):
    """Yields the records of a file, many at a time: where each begins, int64 [n], and its content,
    list of n bytes.

    Raises:
        RecordFault: a record is damaged or cut short; after the whole ones before it.
        OSError: the file cannot be read.
    """
    size, place, count = os.path.getsize(path), 0, 0
    batches = tf.data.TFRecordDataset(str(path)).batch(RECORDS_AT_ONCE).as_numpy_iterator()
    while place < size:
        poll()
        try:
            contents, fault = next(batches, np.zeros(0, object)).tolist(), None
        except tf.errors.OpError:  # says the place at best, and loses the records before it
            contents, fault = _until_fault(path, place, count)
        if not contents and fault is None:  # where a file ends within a header, TensorFlow is done
            contents, fault = _until_fault(path, place, count)
        sizes = np.fromiter(map(len, contents), np.int64, len(contents))
        ends = place + np.cumsum(sizes + (HEADER.size + FOOTER_BYTES))
        if contents:
            yield ends - FOOTER_BYTES - sizes, contents
            place = int(ends[-1])
        if fault is not None:
            raise fault
        count += len(contents)


def _until_fault(path, place, count):
    """Returns the whole records from a place on up to the first damaged one, and its RecordFault.

    count: int, the records before the place.
    """
    contents = []
    with open(path, "rb") as file:
        file.seek(place)
        try:
            while True:
                contents.append(_next_record(file, count + len(contents)))
        except RecordFault as fault:
            return contents, fault


def _next_record(file, record):
    """Returns the content of the next record of a file. Raises RecordFault."""
    header = file.read(HEADER.size)
    if len(header) < HEADER.size:
        raise RecordFault(record, f"the file ends {len(header)} bytes after the record before it")
    size, of_size = HEADER.unpack(header)
    if checksum(header[:8]) != of_size:
        what = "its length has a wrong checksum" if record else "the file is no TFRecord file"
        raise RecordFault(record, what)
    content, footer = file.read(size), file.read(FOOTER_BYTES)
    if len(footer) < FOOTER_BYTES:
        found, whole = len(content) + len(footer), size + FOOTER_BYTES
        raise RecordFault(record, f"the file ends within it, after {found:,} of {whole:,} bytes")
    if checksum(content) != int.from_bytes(footer, "little"):
        raise RecordFault(record, "its checksum is not that of its bytes")
    return content


# ---- Compressed files ----------------------------------------------------------------------------


def is_compressed(path):
    """Whether a file is compressed with GZIP, and no TFRecord file whose length looks like that."""
    with open(path, "rb") as file:
        head = file.read(HEADER.size)
    if not head.startswith(GZIP_MAGIC) or len(head) < HEADER.size:
        return head.startswith(GZIP_MAGIC)
    return checksum(head[:8]) != HEADER.unpack(head)[1]


def expanded(path, folder):
    """Returns the path of a copy of a compressed file that is not, made in `folder` unless there.

    Raises:
        RecordFault: the file is damaged; `record` is None.
        OSError: it cannot be read, or the copy cannot be written.
    """
    facts = os.stat(path)
    name = f"{os.path.abspath(path)}|{facts.st_size}|{facts.st_mtime_ns}"
    copy = Path(folder) / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.tfrecord"
    make_own(folder)
    with contextlib.suppress(OSError, NotSealed):
        check_own(copy)
        return copy
    temporary = copy.with_name(f".{copy.name}.{os.getpid()}.tmp")
    delete_leftovers(folder)
    try:
        with gzip.open(path, "rb") as source, open(temporary, "xb") as target:
            while block := source.read(COPY_BYTES):
                poll()
                target.write(block)
        flush(temporary)
        os.replace(temporary, copy)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RecordFault(None, f"it cannot be decompressed: {error}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return copy


# ---- Records by position -------------------------------------------------------------------------


def read_records(paths, files, starts, sizes):
    """Returns the contents of records of several files: list of bytes, of n.

    Args:
        paths: list of path-like.
        files: int [n], the number of each record's file among them.
        starts, sizes: int [n], where its content begins, and how long it is.
    Raises:
        OSError: a file cannot be read.
    """
    contents = [b""] * len(files)
    places = list(zip(starts.tolist(), sizes.tolist(), strict=True))
    for file in np.unique(files).tolist():
        with open(paths[file], "rb", buffering=0) as opened:
            for record in np.flatnonzero(files == file).tolist():
                start, size = places[record]
                contents[record] = os.pread(opened.fileno(), size, start)
    return contents
