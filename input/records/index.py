# SPDX-License-Identifier: Apache-2.0
"""The index of a file of records: where each stands, and how many tokens it has.

A file is read whole once, when its index is made. Later runs read of it, and of the index, 20 bytes
a record, what they need.
"""

import base64
import contextlib
import hashlib
import json
import os
import zlib
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from common.console import log
from common.errors import UserError
from common.files import write_whole
from common.platform.seal import NotSealed, check_own, make_own, read_sealed, write_sealed
from input.records.tfrecord import RecordFault, expanded, is_compressed, scan

VERSION = 2  # raise it with any change of what is kept
ENTRY = np.dtype(
    [("start", "<i8"), ("size", "<u4"), ("record", "<u4"), ("first", "<u2"), ("second", "<u2")]
)
MAX_TOKENS = np.iinfo(np.uint16).max
MAX_COUNTED_ID = 1 << 22  # larger ones are in no vocabulary, and a table of them in no memory
MAX_KEPT = 1000  # faults, and unknown tokens, that an index lists


@dataclass
class Findings:
    """What the records of a file hold. A place is [value, record], of the largest value."""

    num_records: int = 0
    content: str = ""  # hash of all records
    names: dict = field(default_factory=dict)  # of the decoder
    largest_id: list = field(default_factory=lambda: [-1, -1])
    longest: list = field(default_factory=lambda: [-1, -1])
    most_masked: list = field(default_factory=lambda: [-1, -1])
    densest: float = 0.0  # the largest share of a record's tokens that is to be predicted
    length_counts: list = field(default_factory=lambda: [0])  # records of 0, 1, ... tokens
    faults: list = field(default_factory=list)  # [record, text], the first ones
    num_faults: int = 0
    token_counts: str = ""  # how often each id occurs: base64 of packed int64
    num_unknown: int = 0  # tokens that the vocabulary lacks
    unknown: dict = field(default_factory=dict)  # {token: how often}, the most frequent ones

    @property
    def num_tokens(self):
        return sum(length * count for length, count in enumerate(self.length_counts))

    def add_lengths(self, lengths):
        counts = np.bincount(lengths, minlength=len(self.length_counts))
        counts[: len(self.length_counts)] += self.length_counts
        self.length_counts = counts.tolist()

    def counts_of_tokens(self, size):
        """Returns how often each id occurs before masking, int64 [size]."""
        counts = np.zeros(size, np.int64)
        found = np.frombuffer(zlib.decompress(base64.b64decode(self.token_counts)), "<i8")
        counts[: len(found)] = found[:size]
        return counts

    def add_faults(self, faults):
        self.num_faults += len(faults)
        self.faults += [list(fault) for fault in faults[: MAX_KEPT - len(self.faults)]]


@dataclass(frozen=True)
class FileIndex:
    """The usable records of a file.

    Attributes:
        path: the file, for messages.
        readable: the file whose places `entries` have: another one if it is compressed.
        findings: Findings.
    """

    path: Path
    readable: Path
    findings: Findings
    _entries: np.ndarray | Path  # the file that has them, unless it cannot be kept

    @property
    def num_usable(self):
        return sum(self.findings.length_counts)

    def entries(self, rows):
        """Returns the ENTRY of some usable records. rows: int [n], numbers among these."""
        if isinstance(self._entries, np.ndarray):
            return self._entries[rows]
        # Mapped anew each time, because the pages of a map count as memory of the process.
        return np.asarray(np.memmap(self._entries, ENTRY, mode="r")[rows])


def open_index(path, decoder, folder):
    """Returns the FileIndex of a file, made unless the cache has it.

    Args:
        path: Path of the file.
        decoder: StaticDecoder or DynamicDecoder.
        folder: Path of the cache. If it cannot be written, nothing is kept.
    Raises:
        UserError: the file cannot be read, or holds other records than the decoder reads.
    """
    try:
        facts = os.stat(path)
        readable = _expanded(path, folder) if is_compressed(path) else path
        state = f"{os.path.abspath(path)}|{facts.st_size}|{facts.st_mtime_ns}"
        name = hashlib.sha256(f"{VERSION}|{decoder.settings}|{state}".encode()).hexdigest()[:32]
        findings, entries = _read(folder, name), folder / f"{name}.entries"
        if findings is None:
            findings, entries = _make(path, readable, decoder)
            if os.stat(path).st_mtime_ns != facts.st_mtime_ns:
                raise UserError(
                    f"{path} changed while it was read; start again when the program that writes "
                    "it has finished"
                )
            with contextlib.suppress(OSError):  # without a cache on a read-only or full disk
                entries = _write(folder, name, findings, entries)
        return FileIndex(path, Path(readable), findings, entries)
    except RecordFault as fault:
        raise UserError(f"{path} cannot be used: {fault}; copy it there again") from None
    except OSError as error:
        raise UserError(f"{error.filename or path} cannot be read: {error.strerror}") from None


def _expanded(path, folder):
    try:
        return expanded(path, folder)
    except OSError as error:
        raise UserError(
            f"{path} is compressed, and cannot be expanded in {folder}: {error.strerror}; write "
            "the cache_dir where there is room"
        ) from None


def _make(path, readable, decoder):
    """Returns Findings and entries, array of ENTRY, of a file, which is read whole."""
    findings, digest = Findings(), hashlib.sha256()
    entries, unknown, tokens = [], Counter(), np.zeros(0, np.int64)
    try:
        for starts, contents in scan(readable):
            if not findings.names and not findings.num_records:
                findings.names = _names(path, decoder, contents[0])
            for content in contents:
                digest.update(len(content).to_bytes(8, "little"))
                digest.update(content)
            checked = decoder.check(contents, findings.names)
            usable, is_usable = _usable(starts, contents, checked, findings)
            entries.append(usable)
            unknown.update(checked.unknown)
            tokens = _added(tokens, checked.ids[is_usable])
    except RecordFault as fault:
        if fault.record == 0:
            raise
        rest = f"and the rest of the file: {fault}"
        findings.add_faults([(fault.record, rest)])
        digest.update(rest.encode())
    findings.content = digest.hexdigest()
    packed = zlib.compress(tokens.astype("<i8").tobytes())
    findings.token_counts = base64.b64encode(packed).decode()
    findings.unknown = dict(unknown.most_common(MAX_KEPT))
    findings.num_unknown = unknown.total()
    return findings, np.concatenate([np.zeros(0, ENTRY), *entries])


def _names(path, decoder, content):
    try:
        return decoder.names(content)
    except ValueError as error:
        raise UserError(f"{path}: its first record {error}") from None


def _added(counts, ids):
    """Returns counts of ids, int64 [any], with those of an array, in which -1 is none."""
    more = np.bincount(
        ids[(ids >= 0) & (ids <= MAX_COUNTED_ID)].ravel().astype(np.int64), minlength=len(counts)
    )
    more[: len(counts)] += counts
    return more


def _usable(starts, contents, checked, findings):
    """Returns the ENTRY of each usable record, and which are, and adds to findings."""
    records = findings.num_records + np.arange(len(contents))
    tokens = checked.counts.sum(axis=1)
    for row in np.flatnonzero(tokens > MAX_TOKENS).tolist():
        checked.faults.setdefault(row, f"has {tokens[row]:,} tokens, more than {MAX_TOKENS:,}")
    findings.add_faults([(int(records[row]), text) for row, text in sorted(checked.faults.items())])
    is_usable = np.ones(len(contents), bool)
    is_usable[list(checked.faults)] = False
    found = {
        "largest_id": checked.largest_ids,
        "longest": tokens,
        "most_masked": checked.num_masked,
    }
    for name, values in found.items():
        place = int(np.argmax(np.where(is_usable, values, -1)))
        if is_usable[place] and values[place] > getattr(findings, name)[0]:
            setattr(findings, name, [int(values[place]), int(records[place])])
    shares = checked.num_masked / np.maximum(tokens, 1)
    findings.densest = max(findings.densest, float(shares[is_usable].max(initial=0)))
    findings.add_lengths(tokens[is_usable])
    entries = np.zeros(len(contents), ENTRY)
    entries["start"], entries["record"] = starts, records
    entries["size"] = [len(content) for content in contents]
    counts = np.minimum(checked.counts, MAX_TOKENS)
    entries["first"], entries["second"] = counts[:, 0], counts[:, 1] if counts.shape[1] > 1 else 0
    findings.num_records += len(contents)
    return entries[is_usable], is_usable


# ---- The cache -----------------------------------------------------------------------------------


def _write(folder, name, findings, entries):
    """Keeps an index. Returns the path of the entries. Raises OSError."""
    make_own(folder)
    content = entries.tobytes()
    path = folder / f"{name}.entries"
    write_whole(path, content, mode=0o644)
    kept = {"entries": hashlib.sha256(content).hexdigest(), "findings": asdict(findings)}
    write_sealed(folder / f"{name}.json", json.dumps(kept), name)
    return path


def _read(folder, name):
    """Returns Findings, or None if no index is kept, or not by this user's runs."""
    path = folder / f"{name}.entries"
    try:
        kept = json.loads(read_sealed(folder / f"{name}.json", name))
        check_own(path)
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != kept["entries"]:
            raise NotSealed("it is damaged")
    except OSError:
        return None
    except NotSealed as error:
        log(f"{path} is not used: {error}; the records are read again")
        return None
    return Findings(**kept["findings"])
