# SPDX-License-Identifier: Apache-2.0
"""HDF5 files (Cerebras .mdl, Keras .h5), read with protection against damaged and malicious ones.

A data set can claim to be huge, to lie in another file, or to be spread over several; such data
sets are refused before memory is allocated. HDF5's library can crash on a damaged file (one byte in
the type of an attribute is enough), so a subprocess reads a file first. A file is open only while
it is read, because the library does not notice when it is replaced.
"""

import contextlib
import functools
import math
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np

from common.checkpoints.small_files import ERRORS, reading, unreadable
from common.errors import UserError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MAX_RATIO = 256  # zeros: LZ4 255 to 1, deflate 1,030 to 1; weights shrink by less than a tenth
LZ4 = 32004
INSTALL = "pip install hdf5plugin"
ROOT = Path(__file__).parents[3]
MAX_SECONDS = 600  # for the subprocess; a file of 1 GB takes 3
AGAIN = "copy or download the file again, from a source that you trust"
KINDS = "fiub"  # of NumPy dtypes: numbers and bool


def open_file(path):
    """The open h5py.File. Raises UserError for a file that is no HDF5 file, or damaged."""
    check_survives(path)
    with reading(path, "it is no HDF5 file, or damaged"):
        return h5py.File(path, "r")


def check_survives(path, with_values=False):
    """Raises UserError if HDF5's library crashes on a file. with_values: read its values too."""
    with reading(path):
        stat = os.stat(path)
    if not survives(os.path.abspath(path), (stat.st_mtime_ns, stat.st_size), with_values):
        raise unreadable(path, "it is damaged, so that the library that reads HDF5 crashes on it")


@functools.lru_cache(maxsize=8)
def survives(path, version, with_values):
    """Whether a subprocess can read a file to its end. version: of the file, for the cache."""
    command = [sys.executable, "-m", __spec__.name, path, *["values"] * with_values]
    try:
        subprocess.run(command, cwd=ROOT, capture_output=True, timeout=MAX_SECONDS, check=True)
    except subprocess.SubprocessError:
        return False
    return True


def read_through(path, with_values=False):
    """Reads every attribute and every data set of a file, which is more than the formats read."""
    seen = set()

    def walk(group):
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            return
        seen.add(address)
        with contextlib.suppress(*ERRORS):
            dict(group.attrs)
        for name in group:
            with contextlib.suppress(*ERRORS):
                if not is_link(group, name) and isinstance(group[name], h5py.Group):
                    walk(group[name])
                    continue
                dataset = get_dataset(path, group, name)
                dict(dataset.attrs)
                if with_values:
                    np.asarray(dataset[()])

    with contextlib.suppress(*ERRORS), h5py.File(path, "r") as file:
        if with_values:
            with contextlib.suppress(UserError):
                check_lz4(path, file)
        walk(file)


def is_link(group, name):
    """Whether a member of a group is a link to another place, possibly another file."""
    return not isinstance(group.get(name, getlink=True), h5py.HardLink)


def get_dataset(path, group, name):
    """A member of a group, checked to be a plain h5py.Dataset: see the head of this file.

    path: of the file, for messages.
    """

    def refused(reason):
        return UserError(f"{path}: the data set {name!r:.120} {reason}; {AGAIN}")

    if is_link(group, name):
        raise refused("is a link to elsewhere")
    dataset = group[name]
    if not isinstance(dataset, h5py.Dataset):
        raise refused("is none")
    if dataset.external or dataset.is_virtual:
        raise refused("lies in other files")
    if dataset.dtype.kind not in KINDS:
        raise refused(f"is of type {dataset.dtype}, which is no number")
    shape = dataset.shape
    if shape is None:
        raise refused("is empty of any shape")
    itemsize = dataset.dtype.itemsize
    size, stored = math.prod(shape) * itemsize, dataset.id.get_storage_size()
    ratio = MAX_RATIO if dataset.id.get_create_plist().get_nfilters() else 1
    if size > ratio * stored:
        raise refused(
            f"is of shape {list(shape)}, which takes {size:,} bytes, but the file holds only "
            f"{stored:,} for it"
        )
    if dataset.chunks and math.prod(dataset.chunks) * itemsize > 2 * size + 1_000_000:
        raise refused(f"is cut into pieces of shape {list(dataset.chunks)}, larger than itself")
    return dataset


def read_dataset(path, name, dtype=None):
    """The values of a data set. name: str, its path; dtype: str that the bits mean, or None."""
    group, _, name = f"/{name}".rpartition("/")
    with open_file(path) as file, reading(path):
        values = np.asarray(get_dataset(path, file[group or "/"], name)[()])
    return values if dtype is None else values.view(np.dtype(dtype))


def check_lz4(path, group):
    """Loads the LZ4 filter of HDF5 if a data set of a group needs it, or says what to install."""
    filters = (get_dataset(path, group, name).id.get_create_plist() for name in group)
    if not any(f.get_filter(i)[0] == LZ4 for f in filters for i in range(f.get_nfilters())):
        return
    with contextlib.suppress(ImportError):
        import hdf5plugin  # noqa: F401  (registers the filter)
    if not h5py.h5z.filter_avail(LZ4):
        raise UserError(
            f"{path} is compressed with LZ4, which h5py alone cannot read; install the package "
            f"that can: {INSTALL}"
        )


if __name__ == "__main__":
    read_through(sys.argv[1], with_values="values" in sys.argv[2:])
