# SPDX-License-Identifier: Apache-2.0
"""One shard of a corpus to its rows: a function of the corpus, the settings and its number alone.

`input/prepared/prepare.py` calls it in several processes, and `extras/beam` on several machines.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from input.prepared.blocks import shard_bytes
from input.prepared.draws import Draws
from input.prepared.duplicates import Hashes
from input.prepared.pairing import LABELS, next_sentences, sentence_orders, windows
from input.sources.documents import Found, split_sentences

BATCH_BYTES = 500_000  # of text, tokenised at once
MAX_PIECE_BYTES = 50_000  # of a line; longer ones are tokenised in pieces
VERSION = 2  # raise it with any change that changes a row
PAIRS = {"next": next_sentences, "order": sentence_orders}
HELD_OUT = 1  # the key of draws of documents that eval_fraction holds out


@dataclass(frozen=True)
class RowSettings:
    """What decides the rows of a corpus besides its documents and the tokenizer."""

    sentence_pairs: str = "none"  # "next", "order" or "none", see `pairing.py`
    room: int = 126  # tokens of the texts of a row together, without special ones
    short_seq_prob: float = 0.0
    overlap: int = 0  # tokens that a window shares with the next; without pairs
    separator_id: int | None = None  # between documents where windows cross them; None: they do not
    sentence_boundary: str = "line"  # or "punctuation"
    seed: int = 0
    held_out_fraction: float | None = None  # of documents
    is_held_out: bool = False  # whether those are wanted, or the others
    min_duplicate_line: int = 100  # characters
    looks_for_duplicates: bool = False

    @property
    def texts_per_row(self):
        return 1 if self.sentence_pairs == "none" else 2

    @property
    def targets(self):
        return [] if self.sentence_pairs == "none" else [LABELS]


@dataclass(frozen=True)
class Shard:
    """The rows of a shard, and what is told of it."""

    content: bytes  # of its file, see `blocks.py`
    facts: dict  # JSON values, see `make_shard`
    token_counts: np.ndarray  # int64 [V], how often each id stands in the rows
    hashes: Hashes | None


def make_shard(corpus, number, tokenizer, settings, repeated=None):
    """Returns the Shard.

    Args:
        corpus: TextCorpus, or alike.
        number: int, of the shard.
        tokenizer: tokenizer with `traced`, `vocab_size` and `unk_id`.
        settings: RowSettings.
        repeated: {"documents", "lines": set of places} to leave out, or None.
    Raises:
        UserError: a file cannot be used.
    """
    found, hashes = Found(), None
    if settings.looks_for_duplicates and repeated is None:
        hashes = Hashes(settings.min_duplicate_line)
    tokens = _Tokens(tokenizer, settings)
    places = hashes is not None or repeated is not None
    for document in documents_of(corpus, number, settings, found, places):
        if hashes is not None:
            hashes.add(document)
        lines = document.lines
        if repeated is not None:
            lines = _without(document, repeated)
        if lines:
            tokens.add(lines)
    ids, bounds = tokens.collected()
    num_documents = len(bounds)
    if settings.separator_id is not None:
        ids = np.insert(ids, [each[0] for each in bounds[1:]], settings.separator_id)
        bounds = [[0, len(ids)]] if len(ids) else []
    rows = _rows_of(bounds, settings, number)
    dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.int32
    targets = {} if rows.labels is None else {LABELS: rows.labels}
    content = shard_bytes(rows, ids.astype(dtype), targets)
    lengths = (rows.spans[..., 1] - rows.spans[..., 0]).sum(axis=1)
    counts = np.bincount(ids, minlength=tokenizer.vocab_size)
    facts = {
        "rows": len(lengths),
        "tokens": int(lengths.sum()),
        "documents": num_documents,
        "sentences": tokens.num_sentences,
        "text_bytes": tokens.num_bytes,
        "empty_documents": found.num_empty + tokens.num_empty,
        "cut_documents": found.num_cut,
        "cut_tokens": rows.num_cut,
        "unknown_tokens": int(counts[tokenizer.unk_id]),
        "faults": found.num_faults,
        "first_faults": found.faults,
        "length_counts": np.bincount(lengths, minlength=settings.room + 1).tolist(),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    return Shard(content, facts, counts.astype(np.int64), hashes)


def hash_shard(corpus, number, settings):
    """Returns the Hashes of a shard."""
    hashes = Hashes(settings.min_duplicate_line)
    for document in documents_of(corpus, number, settings, Found(), with_places=True):
        hashes.add(document)
    return hashes


def documents_of(corpus, number, settings, found, with_places):
    """Yields the Documents of a shard that are on the wanted side of `held_out_fraction`."""
    documents = corpus.documents(corpus.shards[number], found, with_places)
    fraction = settings.held_out_fraction
    for ordinal, document in enumerate(documents):
        is_held_out = fraction and Draws(HELD_OUT, number, ordinal).chance(fraction)
        if fraction is None or is_held_out == settings.is_held_out:
            yield document


def _without(document, repeated):
    """Returns the lines of a Document that are to stay."""
    if document.place in repeated["documents"]:
        return []
    lines = zip(document.lines, document.places, strict=True)
    return [line for line, place in lines if place not in repeated["lines"]]


def _rows_of(bounds, settings, number):
    key = settings.seed, number
    if settings.sentence_pairs == "none":
        return windows(bounds, settings.room, settings.overlap, settings.short_seq_prob, key)
    return PAIRS[settings.sentence_pairs](bounds, settings.room, settings.short_seq_prob, key)


class _Tokens:
    """Collects the ids of documents, and where their sentences begin."""

    def __init__(self, tokenizer, settings):
        self.tokenizer = tokenizer
        self.are_sentences_needed = settings.sentence_pairs != "none"
        self.is_by_punctuation = settings.sentence_boundary == "punctuation"
        self.num_sentences = self.num_bytes = self.num_empty = 0
        self._ids, self._bounds, self._end = [np.zeros(0, np.int32)], [], 0
        self._pieces, self._sentences, self._documents, self._size = [], [], [], 0

    def add(self, lines):
        """Adds a document. lines: list of bytes."""
        if self.are_sentences_needed:
            lines = self._sentences_of(lines)
        for line in lines:
            pieces = [line] if len(line) <= MAX_PIECE_BYTES else _pieces_of(line)
            self._pieces += pieces
            self._sentences.append(len(pieces))
            self._size += len(line)
        self._documents.append(len(lines))
        if self._size >= BATCH_BYTES:
            self._tokenize()

    def collected(self):
        """Returns the ids of all, int32 [n], and increasing ints of each document."""
        self._tokenize()
        return np.concatenate(self._ids), self._bounds

    def _sentences_of(self, lines):
        if self.is_by_punctuation:  # lines end anywhere, so a blank joins them
            return split_sentences(b" ".join(lines))
        return split_sentences(lines[0]) if len(lines) == 1 else lines

    def _tokenize(self):
        if self._pieces:
            ids, lengths = ids_of(self.tokenizer, self._pieces)
            self._ids.append(ids)
            ends = np.cumsum(lengths)[np.cumsum(self._sentences) - 1] + self._end
            self._end += len(ids)
            self._split(ends.tolist())
            self.num_bytes += self._size
        self._pieces, self._sentences, self._documents, self._size = [], [], [], 0

    def _split(self, ends):
        """ends: list of int, where each sentence ends among all ids."""
        first = 0
        begin = self._bounds[-1][-1] if self._bounds else 0
        for number in self._documents:
            # A sentence without tokens is none.
            bounds = list(dict.fromkeys([begin, *ends[first : first + number]]))
            first, begin = first + number, bounds[-1]
            if len(bounds) == 1:
                self.num_empty += 1
                continue
            self.num_sentences += len(bounds) - 1
            self._bounds.append(bounds if self.are_sentences_needed else [bounds[0], bounds[-1]])


def ids_of(tokenizer, texts):
    """Returns the token ids of texts, int32 [n], and how many each has, int64 [N].

    texts: list of bytes, UTF-8.
    """
    import tensorflow as tf  # in each process after it has begun: see `prepare.py`

    ragged = tokenizer.traced(tf.constant(texts, tf.string))
    return ragged.flat_values.numpy().astype(np.int32), ragged.row_lengths().numpy()


def _pieces_of(line):
    """Returns a long line in pieces that end at white space, or else at any character.

    The tokenizer begins a word anew after white space, so the ids are those of the whole line.
    """
    pieces = []
    while len(line) > MAX_PIECE_BYTES:
        end = line.rfind(b" ", 1, MAX_PIECE_BYTES)
        if end < 0:
            end = MAX_PIECE_BYTES
            while line[end] & 0xC0 == 0x80:  # within a character of UTF-8
                end -= 1
        pieces.append(line[:end])
        line = line[end:]
    return [*pieces, line]
