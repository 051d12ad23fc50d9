# SPDX-License-Identifier: Apache-2.0
"""Documents of running text as a source: files, JSON Lines, or a data set of TFDS.

A corpus is cut into shards of about SHARD_BYTES at ends of documents, without being read: a shard
is a list of stretches of files, and whoever reads it looks for the next document after each end.
So any number of processes can read shards, and all of them read the same documents. No file, no
document and no line is ever held whole that is longer than the limits below.

    text     a document a file, or blank lines between documents; a sentence a line
    .jsonl   a document a line: its text, or a list of paragraphs, under one key
"""

import contextlib
import hashlib
import json
import os
import re
from dataclasses import dataclass, field

from common.console import counted
from common.errors import UserError
from common.files import UTF16_MARKS
from input.sources.texts import JSON_LINES, UTF8_MARK, find_files

SHARD_BYTES = 16_000_000
MAX_DOCUMENT_BYTES = 4_000_000  # a longer document is cut at the end of a line
MAX_LINE_BYTES = 16_000_000  # a longer line is refused
CHUNK_BYTES = 1_000_000  # read at once
MAX_LISTED = 20  # lines that cannot be used, in a message
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip"}
# . ! or ? with what closes a quotation, before a blank and what can begin a sentence; their CJK
# forms anywhere.
SENTENCE_END = re.compile(
    rb"[.!?][\"')\]]*[ \t]+(?=[\"'(\[]*[A-Z0-9\xc2-\xf4])|\xe3\x80\x82|\xef\xbc[\x81\x9f]"
)


@dataclass(frozen=True)
class Document:
    """The lines of a document that are not blank, without white space around them."""

    place: int  # in the shard, increasing: see `place_of`
    lines: list[bytes]  # UTF-8
    places: list[int]  # of each line; empty unless asked for


@dataclass(frozen=True)
class Stretch:
    """A part of a file: the documents that begin in it."""

    file: int  # number of the file
    start: int  # byte, or for TFDS record; documents begin at or after it
    end: int  # and before this one


@dataclass
class Found:
    """What is told of the documents of a shard, besides them."""

    num_empty: int = 0  # documents without text
    num_cut: int = 0  # documents that were cut
    num_faults: int = 0  # lines that cannot be used
    faults: list[str] = field(default_factory=list)  # the first of them: place and reason

    def add_fault(self, text):
        self.num_faults += 1
        if len(self.faults) < MAX_LISTED:
            self.faults.append(text)

    def refuse_faults(self):
        """Raises UserError where there are any."""
        if self.num_faults:
            listed = [f"  {fault}" for fault in self.faults]
            if self.num_faults > len(listed):
                listed.append(f"  and {self.num_faults - len(listed):,} more")
            advice = "Correct the files; or write on_bad_row: skip to leave such lines out"
            lines = counted(self.num_faults, "line")
            raise UserError("\n".join([f"{lines} cannot be used:", *listed, advice]))


def split_sentences(line):
    """Returns the sentences of a line: list of bytes. See SENTENCE_END."""
    sentences, start = [], 0
    for match in SENTENCE_END.finditer(line):
        sentences.append(line[start : match.end()].rstrip())
        start = match.end()
    return [*sentences, line[start:]] if start < len(line) else sentences


class TextCorpus:
    """Documents in files.

    Args:
        paths: list of str: files, globs or folders.
        text_key: str, of JSON Lines.
        document_boundary: "blank_line" or "file".
        skips_bad_lines: bool. Whether lines that cannot be used are left out, or refused.
        shard_bytes: int.
    Attributes:
        shards: list of lists of Stretch.
        num_bytes: int, of all files.
    Raises:
        UserError: a path names nothing, or a file cannot be read.
    """

    def __init__(
        self,
        paths,
        text_key="text",
        document_boundary="blank_line",
        skips_bad_lines=False,
        shard_bytes=SHARD_BYTES,
    ):
        self.paths, self.files = list(paths), find_files(paths)
        self.text_key, self.document_boundary = text_key, document_boundary
        self.skips_bad_lines, self.shard_bytes = skips_bad_lines, shard_bytes
        facts = [_facts_of(path) for path in self.files]
        self._sizes = [each.st_size for each in facts]
        self._times = [each.st_mtime_ns for each in facts]
        self.num_bytes = sum(self._sizes)
        self.shards = _group(self._stretches(), shard_bytes)

    def __str__(self):
        more = f" and {len(self.files) - 1:,} more files" if len(self.files) > 1 else ""
        return f"{self.files[0]}{more}"

    def reopened(self):
        """Returns the corpus as its files are now."""
        return TextCorpus(self.paths, *self.settings)

    @property
    def settings(self):
        """What decides the documents besides the files, for hashes: list."""
        return [self.text_key, self.document_boundary, self.skips_bad_lines, self.shard_bytes]

    @property
    def fingerprint(self):
        """str, which changes when a file does: by path, size and time, without reading it."""
        facts = [list(map(os.path.abspath, self.files)), self._sizes, self._times]
        return hashlib.sha256(json.dumps([facts, self.settings]).encode()).hexdigest()

    def _stretches(self):
        for file, size in enumerate(self._sizes):
            number = max(1, round(size / self.shard_bytes))
            for i in range(number):
                yield Stretch(file, size * i // number, size * (i + 1) // number), size // number

    def documents(self, shard, found, with_places=False):
        """Yields the Documents of a shard.

        Args:
            shard: one of `shards`.
            found: Found, which is added to.
            with_places: bool. Whether to tell the place of each line.
        Raises:
            UserError: a line cannot be used, and is not to be left out.
        """
        base = 0
        for stretch in shard:
            lines = _Lines(self, stretch, base, found)
            is_json = lines.path.lower().endswith(JSON_LINES)
            group = self._json_documents if is_json else self._text_documents
            yield from group(lines, found, with_places)
            base += lines.end - lines.start
        if not self.skips_bad_lines:
            found.refuse_faults()

    def place_of(self, shard, place):
        """Returns the file and line of a place of a Document: str."""
        for stretch in shard:
            lines = _Lines(self, stretch, 0, Found())
            if place < lines.end - lines.start:
                return lines.name_of(place)
            place -= lines.end - lines.start
        raise ValueError("no such place")

    def _text_documents(self, lines, found, with_places):
        kept, places, size, first = [], [], 0, None
        ends_at_blank = self.document_boundary == "blank_line"
        for place, parts in lines:
            for line in parts:
                text = line.strip()
                if text:
                    first = place if first is None else first
                    kept.append(text)
                    size += len(text)
                    if with_places:
                        places.append(place)
                is_blank = not text and not isinstance(line, _LeftOut)
                if kept and (size >= MAX_DOCUMENT_BYTES or (ends_at_blank and is_blank)):
                    found.num_cut += bool(text)
                    yield Document(first, kept, places)
                    kept, places, size, first = [], [], 0, None
                place += len(line) + 1
        if kept:
            yield Document(first, kept, places)
        elif lines.is_whole_file and first is None and not ends_at_blank:
            found.num_empty += 1

    def _json_documents(self, lines, found, with_places):
        for place, parts in lines:
            for line in parts:
                if line.strip():
                    try:
                        texts = self._texts_of(line)
                    except ValueError as fault:
                        found.add_fault(f"{lines.name_of(place)} {fault}")
                        texts = None
                    if texts is not None:
                        yield from whole_document(texts, place, found, with_places)
                place += len(line) + 1

    def _texts_of(self, line):
        """Returns the lines of a document in JSON: list of bytes. Raises ValueError."""
        try:
            value = json.loads(line)
        except RecursionError:
            raise ValueError("is nested too deeply") from None
        except ValueError as error:
            raise ValueError(f"is not JSON: {error}") from None
        if not isinstance(value, dict) or self.text_key not in value:
            kind = f"has no {self.text_key}" if isinstance(value, dict) else "is no object"
            raise ValueError(f"{kind}; text_columns names the key of the text")
        value = value[self.text_key]
        paragraphs = value if isinstance(value, list) else [value]
        if not all(isinstance(each, str) for each in paragraphs):
            raise ValueError(f"{self.text_key} is no text, and no list of paragraphs")
        try:
            return [part for each in paragraphs for part in each.encode().splitlines()]
        except UnicodeEncodeError as error:
            raise ValueError(f"{self.text_key} has half a character: {error.reason}") from None


def whole_document(texts, place, found, with_places):
    """Yields the Document of all lines, or several where it is too long."""
    kept, places, size, is_empty = [], [], 0, True
    for number, line in enumerate(texts):
        text = line.strip()
        if not text:
            continue
        if size >= MAX_DOCUMENT_BYTES:
            found.num_cut += 1
            yield Document(place, kept, places)
            kept, places, size, place = [], [], 0, place + number
        kept.append(text)
        size += len(text)
        is_empty = False
        if with_places:
            places.append(place + number)
    if is_empty:
        found.num_empty += 1
    else:
        yield Document(place, kept, places)


def _facts_of(path):
    """Returns the os.stat_result of a text file. Raises UserError where it is none."""
    try:
        with open(path, "rb") as file:
            start = file.read(6)
            facts = os.fstat(file.fileno())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if start.startswith(UTF16_MARKS):
        raise UserError(f"{path} is UTF-16; save it as UTF-8")
    kind = next((kind for mark, kind in PACKED.items() if start.startswith(mark)), None)
    if kind is not None:
        raise UserError(f"{path} is compressed ({kind}); unpack it")
    return facts


def _group(stretches, shard_bytes):
    """Returns shards, lists of Stretch, of (stretch, its size) pairs in order."""
    shards, size = [], shard_bytes
    for stretch, more in stretches:
        if size + more // 2 >= shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(stretch)
        size += more
    return shards


# ---- Lines of a part of a file -------------------------------------------------------------------


class _LeftOut(bytes):
    """Stands for a line that cannot be used, and ends no document."""


class _Lines:
    """Iterated, gives (place of the first, list of lines) again and again.

    Attributes: path; start, end: bytes, where the first document begins and the last one ends.
    """

    def __init__(self, corpus, stretch, base, found):
        self.path, self.base, self.found = corpus.files[stretch.file], base, found
        self.skips, size = corpus.skips_bad_lines, corpus._sizes[stretch.file]
        by_line = corpus.document_boundary == "file" or self.path.lower().endswith(JSON_LINES)
        with _opened(self.path) as file:
            bounds = stretch.start, stretch.end
            self.start, self.end = (_document_at(file, b, size, by_line) for b in bounds)
        self.is_whole_file = (self.start, self.end) == (0, size)
        self._counted = 0, 1  # a byte, and the number of its line

    def name_of(self, place):
        """Returns the file and line of a place, for a message."""
        return self._name_at(place - self.base + self.start)

    def _name_at(self, offset):
        before, number = self._counted if self._counted[0] <= offset else (0, 1)
        with open(self.path, "rb") as file:
            file.seek(before)
            while before < offset and (chunk := file.read(min(CHUNK_BYTES, offset - before))):
                number += chunk.count(b"\n")
                before += len(chunk)
        self._counted = before, number
        return f"{self.path}, line {number:,}"

    def __iter__(self):
        offset, rest = self.start, b""
        with _opened(self.path) as file:
            file.seek(offset)
            while offset + len(rest) < self.end:
                chunk = file.read(min(CHUNK_BYTES, self.end - offset - len(rest)))
                if not chunk:
                    raise UserError(f"{self.path} became shorter while it was read; start again")
                whole = rest + chunk
                if offset == 0 and whole.startswith(UTF8_MARK):
                    whole, offset = whole[len(UTF8_MARK) :], len(UTF8_MARK)
                *lines, rest = whole.split(b"\n")
                if lines:
                    yield self._checked(offset, lines, whole[: len(whole) - len(rest)])
                    offset += len(whole) - len(rest)
                if len(rest) > MAX_LINE_BYTES:
                    self._leave_out(offset, f"has more than {MAX_LINE_BYTES:,} bytes")
                    offset, rest = _after_line(file, self.end), b""
                    file.seek(offset)
            if rest:
                yield self._checked(offset, [rest], rest)

    def _checked(self, offset, lines, whole):
        """Returns (place, lines); those that are not UTF-8 are told and left out."""
        place = offset - self.start + self.base
        try:
            whole.decode()
        except UnicodeDecodeError:
            for i, line in enumerate(lines):
                try:
                    line.decode()
                except UnicodeDecodeError as error:
                    byte = f"{line[error.start]:#x} at its byte {error.start + 1:,}"
                    self._leave_out(offset, f"is not UTF-8: {byte}")
                    lines[i] = _LeftOut(b" " * len(line))  # as long: places after it stay
                offset += len(line) + 1
        return place, lines

    def _leave_out(self, offset, reason):
        self.found.add_fault(f"{self._name_at(offset)} {reason}")
        if not self.skips and self.found.num_faults > MAX_LISTED:
            self.found.refuse_faults()


@contextlib.contextmanager
def _opened(path):
    """Opens a file to read. Raises UserError where it cannot be read, also later on."""
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _after_line(file, end):
    """Returns where the line ends at which a file stands: the byte behind it, at most `end`."""
    while chunk := file.read(CHUNK_BYTES):
        at = chunk.find(b"\n")
        if at >= 0:
            return min(file.tell() - len(chunk) + at + 1, end)
    return end


def _document_at(file, offset, size, by_line):
    """Returns where the first document begins at or after a byte of an open file.

    by_line: bool. Whether every line may begin one; else a line after a blank one does, or the
    first after MAX_DOCUMENT_BYTES without any.
    """
    if offset <= 0 or offset >= size:
        return min(max(offset, 0), size)
    file.seek(offset - 1)
    start = _after_line(file, size)
    if by_line:
        return start
    file.seek(start)
    limit = start + MAX_DOCUMENT_BYTES
    while start < limit:
        line = file.readline(CHUNK_BYTES)
        if not line:
            return size
        start += len(line)
        if not line.endswith(b"\n"):
            start = _after_line(file, size)
            file.seek(start)
        elif not line.strip():
            return start
    return start
