# SPDX-License-Identifier: Apache-2.0
"""Tagged sentences in files: a word a line with its label, as CoNLL has it, and JSON Lines.

Only this project's own code and the standard library: a file is checked before TensorFlow is
imported.

    CoNLL       a word a line, its columns parted by a tab or by blanks; a line without any, blank
                or with tabs alone, ends a sentence; -DOCSTART- begins a document
    JSON Lines  {"tokens": [word, ...], "tags": [label, ...]}, or a text with the spans of its
                entities: {"text": "...", "spans": [{"start": 0, "end": 5, "label": "person"}]}
"""

import collections
import io
import itertools
import json
import re
from dataclasses import dataclass, replace

from common.console import counted
from common.errors import UserError
from common.files import utf8_text
from common.metrics.entities import encode, faults_of_tags, is_label_of, scheme_of
from common.tasks.targets import normalized
from input.sources.text_files import FORMATS, RowFault, check_utf8

TAGGED_SUFFIXES = (".conll", ".tsv", ".iob", ".iob2", ".bio", ".jsonl")
DOCUMENT = re.compile(r"-DOCSTART-(?!\w)")
BLANK = " \t\r\n\f\v"  # ASCII's alone: a word may be a blank of another kind
BLANKS = re.compile(f"[{BLANK}]+")
MAX_LABEL_CHARACTERS = 200
SPAN_KEYS = ("label", "type", "tag", "entity_group")  # of a span's type, as programs name it
TEXT = "text"  # the key beside spans


@dataclass(frozen=True)
class Sentence:
    """A sentence, or a text of JSON Lines.

    Attributes:
        words: tuple of str.
        labels: tuple of str, one a word, or None where there are none.
        line: int, on which it begins.
        lines: tuple of int, that of each word, or None: all are on `line`.
        text: str, as written, or the words joined by one blank.
        spans: tuple of (first character, the one after the last) of each word in the text.
    """

    words: tuple[str, ...]
    labels: tuple[str, ...] | None
    line: int
    text: str
    spans: tuple[tuple[int, int], ...]
    lines: tuple[int, ...] | None = None

    def line_of(self, word):
        return self.lines[word] if self.lines else self.line


@dataclass(frozen=True)
class Sentences:
    """What a file holds."""

    rows: list[Sentence]
    faults: list[tuple[int, str]]  # line and reason of each sentence that cannot be used


def joined(words, labels, line, lines=None):
    """Returns the Sentence of words without a text of their own."""
    ends = list(itertools.accumulate(len(word) + 1 for word in words))
    spans = tuple((end - len(w) - 1, end - 1) for w, end in zip(words, ends, strict=True))
    return Sentence(tuple(words), labels, line, " ".join(words), spans, lines)


def parse_conll(content, source, word_column=0, label_column=-1, delimiter=None, has_labels=True):
    """Parses a CoNLL file. Returns Sentences.

    Args:
        content: bytes.
        source: str, names the file in messages.
        word_column, label_column: int, from 0; below 0 from the last one on.
        delimiter: str, or None: a tab where the first word's line has one, else blanks.
        has_labels: bool. False: labels may be missing, and no label is a fault; a column more is
            one.
    Raises:
        UserError: the file has no sentences, or is not UTF-8.
    """
    rows, faults, sentence, found = [], [], [], []
    for number, line in enumerate(utf8_text(content, source).split("\n"), 1):
        if not line.strip(BLANK) or DOCUMENT.match(line):
            found.append((number, None))
            continue
        line = line.rstrip("\r")
        if delimiter is None:
            delimiter = "\t" if "\t" in line else " "
        cells = BLANKS.split(line.strip(BLANK)) if delimiter == " " else line.split(delimiter)
        found.append((number, cells))
    widths = collections.Counter(len(cells) for _, cells in found if cells)
    width = max(widths, key=widths.get, default=0)  # of equal ones the first
    for number, cells in [*found, (None, None)]:
        if cells is None:
            _close(sentence, rows, faults)
            sentence = []
            continue
        columns = width, word_column, label_column
        sentence.append((number, *_word_and_label(cells, *columns, has_labels)))
    if not rows and not faults:
        raise UserError(f"{source} holds no words; a line has a word and its label")
    if has_labels is False or not any(row.labels for row in rows):
        return Sentences(rows, faults)
    for row in rows:
        if row.labels is None:
            faults.append((row.line, "has a word without a label"))
    return Sentences([row for row in rows if row.labels is not None], sorted(faults))


def _word_and_label(cells, width, word_column, label_column, has_labels):
    """Returns the word, and its label or None; or a RowFault, and None."""
    if len(cells) != width:
        return RowFault(f"has {counted(len(cells), 'column')}, other lines {width}"), None
    if not -width <= word_column < width:
        what = f"has {counted(width, 'column')}, and no column {word_column} for the word"
        return RowFault(what), None
    word = cells[word_column]
    if not word:
        return RowFault("has no word"), None
    if any("\r" in cell for cell in cells):
        return RowFault("has a carriage return inside; end lines with \\n, or with \\r\\n"), None
    if not -width <= label_column < width and has_labels:
        what = f"has {counted(width, 'column')}, and no column {label_column} for the label"
        return RowFault(what), None
    if not -width <= label_column < width or label_column % width == word_column % width:
        return word, None
    try:
        return word, _label(cells[label_column])
    except RowFault as fault:
        return (fault if has_labels else word), None


def _label(label):
    """Returns a label as its name. Raises RowFault."""
    if type(label) in (int, float, bool):
        raise RowFault(f"has the label {json.dumps(label)}; write the names of labels")
    if not isinstance(label, str) or len(label) > MAX_LABEL_CHARACTERS:
        raise RowFault("has a label that is no name")
    check_utf8(label, "has a label that")
    label = normalized(label)
    if not label:
        raise RowFault("has no label")
    return label


def _close(sentence, rows, faults):
    """Adds a sentence, list of (line, word or RowFault, label), to the rows or to the faults."""
    if not sentence:
        return
    fault = next(((n, word) for n, word, _ in sentence if isinstance(word, RowFault)), None)
    if fault:
        faults.append((fault[0], str(fault[1])))
        return
    lines, words, labels = zip(*sentence, strict=True)
    rows.append(joined(words, None if None in labels else labels, lines[0], lines))


def parse_json_lines(content, source, word_keys, label_keys, split, scheme="IOB2", has_labels=True):
    """Parses JSON Lines of tokens and tags, or of texts and spans. Returns Sentences.

    Args:
        word_keys, label_keys: tuples of str, the keys of words or text, and of tags or spans; of
            several that which an object has, the first one before the others.
        split: callable on a text: where its words stand, [[first, after last], ...].
        scheme: str, in which the labels of spans are written.
        others: as of `parse_conll`.
    """
    rows, faults = [], []
    lines = io.StringIO(utf8_text(content, source), newline="\n")
    for number, value in FORMATS[".jsonl"](lines, None):
        try:
            if isinstance(value, RowFault):
                raise value
            keys = word_keys, label_keys
            rows.append(sentence_of(value, number, *keys, split, scheme, has_labels))
        except RowFault as fault:
            faults.append((number, str(fault)))
    if not rows and not faults:
        raise UserError(f"{source} is empty; an object a line is wanted")
    return Sentences(rows, faults)


def sentence_of(value, line, word_keys, label_keys, split, scheme, has_labels=True):
    """Returns the Sentence of an object. Raises RowFault; see `parse_json_lines`."""
    word_key, label_key = _key_of(value, word_keys), _key_of(value, label_keys)
    words, labels = value.get(word_key), value.get(label_key)
    has_spans = isinstance(labels, list) and any(isinstance(each, dict | list) for each in labels)
    if has_spans and TEXT in word_keys and isinstance(value.get(TEXT), str):
        word_key, words = TEXT, value[TEXT]  # tokens beside it may be of another program
    if isinstance(words, str):
        check_utf8(words, word_key)
        spans = tuple((int(a), int(b)) for a, b in split(words))
        if not spans:
            raise RowFault(f"{word_key} has no words")
        sentence = Sentence(tuple(words[a:b] for a, b in spans), None, line, words, spans)
    else:
        if not isinstance(words, list) or not words:
            raise RowFault(f"has no {word_key}, a list of words or a text")
        if not all(isinstance(word, str) and word for word in words):
            raise RowFault(f"{word_key} has a word that is no text, or empty")
        for word in words:
            check_utf8(word, f"{word_key} has a word that")
        sentence = joined(words, None, line)
    if labels is None:
        return sentence
    try:
        labels = _labels_of(sentence, isinstance(words, str), labels, label_key, scheme)
    except RowFault:
        if has_labels:
            raise
        return sentence
    return replace(sentence, labels=labels)


def _key_of(value, keys):
    """Returns the first of some keys that an object has, with a value; else the first."""
    return next((key for key in keys if value.get(key) is not None), keys[0])


def _labels_of(sentence, is_text, labels, key, scheme):
    """Returns the labels of a Sentence: tuple of str. Raises RowFault.

    is_text: bool. Whether they are spans of its text, and not a label a word.
    """
    if is_text:
        return _labels_of_spans(sentence.text, sentence.spans, labels, key, scheme)
    if not isinstance(labels, list) or len(labels) != len(sentence.words):
        number = counted(len(labels), "label") if isinstance(labels, list) else "no list of labels"
        raise RowFault(f"{key} has {number} for {counted(len(sentence.words), 'word')}")
    try:
        return tuple(map(_label, labels))
    except RowFault as fault:
        raise RowFault(f"{key} {fault}") from None


def _labels_of_spans(text, spans, entities, key, scheme):
    """Returns the label of each word of a text with character spans. Raises RowFault."""
    if not isinstance(entities, list):
        raise RowFault(f"{key} is no list of spans")
    found = []
    for entity in entities:
        start, end, kind = _span(entity, key)
        if not 0 <= start < end <= len(text):
            raise RowFault(f"{key} has a span {start} to {end} in {len(text)} characters")
        covered = [n for n, (a, b) in enumerate(spans) if a < end and b > start]
        if not covered:
            raise RowFault(f"{key} has a span {start} to {end} without a word")
        first, last = spans[covered[0]], spans[covered[-1]]
        if first[0] < start or last[1] > end:
            word = first if first[0] < start else last
            raise RowFault(
                f"{key} has a span {start} to {end}, {text[start:end]!r}, that cuts the word "
                f"{text[slice(*word)]!r}"
            )
        found.append((covered[0], covered[-1] + 1, kind))
    found.sort()
    for before, after in itertools.pairwise(found):
        if after[0] < before[1]:
            raise RowFault(f"{key} has spans that overlap at {text[slice(*spans[after[0]])]!r}")
    return tuple(encode(found, len(spans), scheme))


def _span(entity, key):
    """Returns (start, end, type) of a span: an object, or a list of three."""
    if isinstance(entity, dict):
        kind = next((entity[name] for name in SPAN_KEYS if name in entity), None)
        entity = [entity.get("start"), entity.get("end"), kind]
    is_span = isinstance(entity, list) and len(entity) == 3
    if not is_span or [type(each) for each in entity] != [int, int, str] or not entity[2].strip():
        raise RowFault(f"{key} has a span that is no start, end and label")
    return entity[0], entity[1], _label(entity[2])


def tag_faults(sentences, scheme):
    """Returns (line, reason) of sentences whose labels break a scheme, a reason each.

    scheme: one of SCHEMES. Labels that are no tags, in data that has tags, are faults, too.
    """
    faults = []
    for sentence in sentences:
        labels = sentence.labels
        strange = (n for n, label in enumerate(labels) if not is_label_of(label, scheme))
        strange = next(strange, None)
        if strange is not None:
            faults.append((sentence.line_of(strange), f"{labels[strange]} is no label of {scheme}"))
            continue
        for place, reason in faults_of_tags(labels, scheme)[:1]:
            faults.append((sentence.line_of(place), reason))
    return faults


def has_tags(labels):
    """Whether labels are those of a scheme, as O and B-person, and not such as NN. labels: str."""
    return any(re.match("[BIES]-", label) for label in labels) or "O" in labels


def advice_on_scheme(sentences, scheme):
    """Returns which scheme the labels fit where it is another one, as advice; or ""."""
    other = scheme_of([sentence.labels for sentence in sentences])
    fits = other not in (None, scheme) and not tag_faults(sentences, other)
    return f"; all labels fit {other}: write tag_scheme: {other}" if fits else ""
