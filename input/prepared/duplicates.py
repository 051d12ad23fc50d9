# SPDX-License-Identifier: Apache-2.0
"""Exact duplicates in a corpus: documents, and long lines, that stand in it twice or more.

Each shard has a file of hashes, sorted. They are merged range after range, so that memory does not
grow with the corpus: MAX_MERGED hashes at once, 16 bytes each, while 16 bytes a line lie on disk.
Hashes have 64 bits: among 10^9 lines the chance of one that is wrongly taken for a duplicate is 3%.
"""

import hashlib
import heapq
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.files import write_whole
from common.signals import poll

ENTRY = np.dtype([("hash", "<u8"), ("place", "<i8")])
KINDS = ("documents", "lines")
MAX_MERGED = 2_000_000
NUM_EXAMPLES = 5  # of each kind


@dataclass(frozen=True)
class Repeated:
    """The duplicates of one kind."""

    kind: str  # of KINDS
    number: int  # those that are the same as an earlier one
    total: int  # all that were looked at
    examples: list[tuple[int, int, int]]  # (times, shard, place of the first), most often first


class Hashes:
    """Collects the hashes of a shard.

    min_line: int. Lines of fewer characters are not looked at.
    """

    def __init__(self, min_line):
        self.min_line = min_line
        self.entries = {kind: [] for kind in KINDS}

    def add(self, document):
        """Adds a Document with the places of its lines."""
        self.entries["documents"].append((_hash(b"\n".join(document.lines)), document.place))
        lines = zip(document.lines, document.places, strict=True)
        self.entries["lines"] += [
            (_hash(line), place) for line, place in lines if self._is_long(line)
        ]

    def _is_long(self, line):
        most = len(line)  # characters: each takes a byte or more
        return most >= self.min_line and (line.isascii() or len(line.decode()) >= self.min_line)

    def write(self, folder, shard):
        for kind, entries in self.entries.items():
            array = np.sort(np.array(entries, ENTRY), order=["hash", "place"])
            write_whole(_hashes_of(folder, kind, shard), array.tobytes())


def are_hashed(folder, shard):
    return all(_hashes_of(folder, kind, shard).exists() for kind in KINDS)


def find_repeated(folder, num_shards):
    """Merges the hashes of all shards, and keeps for each what `repeated_in` returns.

    Of equal ones the first, by shard and place, is none. Returns list of Repeated.
    """
    for path in Path(folder).glob("repeated-*"):
        path.unlink()
    return [_merge(folder, kind, num_shards) for kind in KINDS]


def repeated_in(folder, shard):
    """Returns the places of a shard's duplicates: {kind: set of int}."""
    found = {}
    for kind in KINDS:
        path = _repeated_of(folder, kind, shard)
        found[kind] = set(np.fromfile(path, "<i8").tolist()) if path.exists() else set()
    return found


def delete_hashes(folder):
    for pattern in ("hashes-*", "repeated-*"):
        for path in Path(folder).glob(pattern):
            path.unlink()


def _hash(text):
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _hashes_of(folder, kind, shard):
    return Path(folder, f"hashes-{kind}-{shard:05d}")


def _repeated_of(folder, kind, shard):
    return Path(folder, f"repeated-{kind}-{shard:05d}")


def _merge(folder, kind, num_shards):
    sizes = [_hashes_of(folder, kind, shard).stat().st_size for shard in range(num_shards)]
    total = sum(sizes) // ENTRY.itemsize
    number, examples = 0, []
    bounds = np.linspace(0, 2.0**64, -(-total // MAX_MERGED) + 1)[1:-1]
    places = [0] * num_shards  # where the next range begins in each shard
    for upper in [*(int(bound) for bound in bounds), None]:
        poll()
        parts = []
        for shard in range(num_shards):
            if sizes[shard]:
                part = _next_range(_hashes_of(folder, kind, shard), places[shard], upper)
                places[shard] += len(part)
                parts.append((shard, part))
        if parts:
            number += _keep_repeated(folder, kind, parts, examples)
    return Repeated(kind, number, total, sorted(examples, reverse=True))


def _next_range(path, start, upper):
    """Returns the entries of a file from `start` on whose hashes are below `upper`, or all."""
    entries = np.memmap(path, ENTRY, mode="r")
    end = len(entries) if upper is None else np.searchsorted(entries["hash"], np.uint64(upper))
    return np.array(entries[start:end])


def _keep_repeated(folder, kind, parts, examples):
    """Appends the places of duplicates to the files of their shards. Returns how many there are.

    parts: list of (shard, entries), in order; examples: heap of (times, shard, place).
    """
    hashes = np.concatenate([entries["hash"] for _, entries in parts])
    places = np.concatenate([entries["place"] for _, entries in parts])
    shards = np.repeat([shard for shard, _ in parts], [len(entries) for _, entries in parts])
    order = np.argsort(hashes, kind="stable")  # so that the first of the corpus comes first
    hashes, places, shards = hashes[order], places[order], shards[order]
    is_first = np.concatenate([[True], hashes[1:] != hashes[:-1]])[: len(hashes)]
    for shard in np.unique(shards[~is_first]).tolist():
        with open(_repeated_of(folder, kind, shard), "ab") as file:
            file.write(places[~is_first & (shards == shard)].astype("<i8").tobytes())
    firsts = np.flatnonzero(is_first)
    times = np.diff([*firsts, len(hashes)])
    for place in np.argsort(-times, kind="stable")[:NUM_EXAMPLES].tolist():
        if times[place] > 1:
            at = firsts[place]
            heapq.heappush(examples, (int(times[place]), int(shards[at]), int(places[at])))
            if len(examples) > NUM_EXAMPLES:
                heapq.heappop(examples)
    return int(len(hashes) - len(firsts))
