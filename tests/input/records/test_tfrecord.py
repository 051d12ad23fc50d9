# SPDX-License-Identifier: Apache-2.0
"""input/records/tfrecord.py: places and faults of records, against TensorFlow's writer."""

import gzip
import os
import struct

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from input.records.tfrecord import (
    RECORDS_AT_ONCE,
    RecordFault,
    checksum,
    expanded,
    is_compressed,
    read_records,
    scan,
)


def write(path, contents, compression=None):
    """A file as TensorFlow's own writer makes it."""
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for content in contents:
            writer.write(content)
    return path


def read_until_fault(path):
    """The contents that `scan` gives, and its RecordFault or None."""
    contents = []
    try:
        for _, some in scan(path):
            contents += some
    except RecordFault as fault:
        return contents, fault
    return contents, None


@settings(max_examples=20)
@given(st.lists(st.binary(max_size=300), max_size=30))
def test_places_lead_to_what_tensorflow_wrote(tmp_path_factory, contents):
    path = write(tmp_path_factory.mktemp("records") / "a.tfrecord", contents)
    places = [
        (start, content)
        for starts, some in scan(path)
        for start, content in zip(starts.tolist(), some, strict=True)
    ]
    assert [content for _, content in places] == contents
    order = np.random.default_rng(0).permutation(len(contents))
    starts = np.array([places[i][0] for i in order], int)
    sizes = np.array([len(contents[i]) for i in order], int)
    files = np.zeros(len(order), int)
    assert read_records([path], files, starts, sizes) == [contents[i] for i in order]


def test_more_records_than_are_read_at_once(tmp_path):
    contents = [b"%d" % number for number in range(2 * RECORDS_AT_ONCE + 3)]
    path = write(tmp_path / "a.tfrecord", contents)
    assert read_until_fault(path) == (contents, None)


# RFC 3720, appendix B.4, and the mask of tensorflow/core/lib/hash/crc32c.h: rotated right by 15,
# plus 0xa282ead8.
@pytest.mark.parametrize(
    "content, crc",
    [(bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E)],
)
def test_the_checksum_is_the_masked_crc_32c(content, crc):
    masked = ((crc >> 15) | (crc << 17 & 0xFFFFFFFF)) + 0xA282EAD8 & 0xFFFFFFFF
    assert checksum(content) == masked


# Each record has a header of 12 bytes, 7 of content and a footer of 4: 23 bytes.
WHOLE = [b"content", b"another", b"seventy", b"records"]


# In the length, its checksum, the content and its checksum of the first and the third record.
@pytest.mark.parametrize("position", [0, 9, 13, 22, 46, 53, 56, 64, 66])
def test_a_flipped_bit_is_found_in_its_record(position, tmp_path):
    path = write(tmp_path / "a.tfrecord", WHOLE)
    damaged = bytearray(path.read_bytes())
    damaged[position] ^= 1 << position % 8
    path.write_bytes(damaged)
    contents, fault = read_until_fault(path)
    assert contents == WHOLE[: position // 23]
    assert fault.record == position // 23


@pytest.mark.parametrize("size", [0, 1, 11, 22, 23, 24, 34, 35, 41, 45, 46, 91])
def test_a_file_that_is_cut_short_gives_its_whole_records_and_says_so(size, tmp_path):
    path = write(tmp_path / "a.tfrecord", WHOLE)
    path.write_bytes(path.read_bytes()[:size])
    contents, fault = read_until_fault(path)
    assert contents == WHOLE[: size // 23]
    if size % 23 == 0:
        assert fault is None
    else:
        assert fault.record == size // 23
        assert "the file ends" in str(fault)


def test_a_file_of_another_kind_is_told_from_a_damaged_one(tmp_path):
    path = tmp_path / "a.tfrecord"
    path.write_bytes(b"[CLS] no record at all [SEP]\n" * 3)
    assert str(read_until_fault(path)[1]) == "the file is no TFRecord file"


# ---- Compressed files ----------------------------------------------------------------------------


def test_a_compressed_file_is_expanded_once(tmp_path):
    plain = write(tmp_path / "a.tfrecord", WHOLE)
    compressed = write(tmp_path / "b.tfrecord", WHOLE, "GZIP")
    assert (is_compressed(plain), is_compressed(compressed)) == (False, True)
    copy = expanded(compressed, tmp_path / "cache")
    assert copy.read_bytes() == plain.read_bytes()
    first = os.stat(copy).st_mtime_ns
    assert os.stat(expanded(compressed, tmp_path / "cache")).st_mtime_ns == first


def test_a_plain_file_whose_length_looks_like_gzip_is_not_expanded(tmp_path):
    size = struct.unpack("<Q", b"\x1f\x8b\x08\0\0\0\0\0")[0]  # 559,903 bytes
    path = write(tmp_path / "a.tfrecord", [bytes(size)])
    assert path.read_bytes().startswith(b"\x1f\x8b\x08")
    assert not is_compressed(path)
    assert [len(content) for content in read_until_fault(path)[0]] == [size]


@pytest.mark.parametrize("cut", [5, 15, 30])
def test_a_compressed_file_that_is_cut_short_is_a_fault_and_leaves_no_copy(cut, tmp_path):
    path = tmp_path / "a.tfrecord"
    path.write_bytes(gzip.compress(os.urandom(100))[:cut])
    with pytest.raises(RecordFault, match="cannot be decompressed"):
        expanded(path, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_changed_file_is_expanded_again(tmp_path):
    path = write(tmp_path / "a.tfrecord", WHOLE, "GZIP")
    first = expanded(path, tmp_path / "cache")
    write(path, WHOLE[:2], "GZIP")
    os.utime(path, ns=(1, 1))
    second = expanded(path, tmp_path / "cache")
    assert read_until_fault(second) == (WHOLE[:2], None)
    assert read_until_fault(first) == (WHOLE, None)
