# SPDX-License-Identifier: Apache-2.0
"""Sentences with a label for each word as a source, wherever they come from: checks and tokens."""

import hashlib
import json

import numpy as np

from common.errors import UserError
from common.metrics.entities import usual_scheme
from common.tasks.targets import LabelColumn
from input.sources.conll import advice_on_scheme, has_tags, tag_faults
from input.sources.file_source import fingerprint_of, refuse
from input.sources.source import Source

PARSER_VERSION = 2  # part of the fingerprint: raise it with any change that changes a row


class TaggedSource(Source):
    """A Source of sentences. A class for one origin adds `_content`, `_parsed`, `_where` and
    `_settings`, and another base class that opens it.

    Args:
        cfg: InputParams: on_bad_row, tag_scheme.
        processor, targets, needs_targets: see Source.
    Raises:
        UserError: the sentences cannot be read, or cannot be used.
    """

    row_name, unit = "sentence", "line"  # in messages: a row, and what its number counts

    def __init__(self, cfg, processor, targets, needs_targets=True):
        self._scheme, self._of_split = cfg.tag_scheme, {}  # {split: (content, sentences, faults)}
        self.targets = targets  # whose labels may be named; the names are read with them
        super().__init__(cfg, processor, targets, needs_targets)

    def _content(self, split):
        """Returns bytes that change with the sentences of a split."""
        raise NotImplementedError

    def _parsed(self, split, content):
        """Returns the Sentences of a split, before their labels are checked."""
        raise NotImplementedError

    def _where(self, split):
        """Returns what messages call a split: str."""
        raise NotImplementedError

    def _settings(self, split):
        """Returns what decides how a split is read besides the keys of every origin: list."""
        raise NotImplementedError

    def _name(self, number):
        """Returns what messages call the row of a number, beside `_where`: str."""
        return f"{self.unit} {number}"

    def _label_column(self):
        name = self.processor.label_key
        return LabelColumn(self._where("train"), name, "text", read=self._labels)

    def fingerprint(self, split):
        settings = [
            *(PARSER_VERSION, self.processor.text_keys, self.processor.label_key),
            *(self._settings(split), self._skips_bad_rows),
            *(self._scheme, self.needs_targets, self.targets.label_names),
            *self.targets.settings,
        ]
        return fingerprint_of(settings, self._content(split))

    def num_rows(self, split):
        return len(self._rows(split))

    def content(self, split):
        rows = self._rows(split)
        content = json.dumps([[row.words, row.labels] for row in rows])
        return f"{len(rows):,} rows, {hashlib.sha256(content.encode()).hexdigest()[:32]}"

    def tokenize(self, split, tokenizer):
        from input.token_cache import tokenize_words  # slow: files are checked before

        rows = self._rows(split)
        number = {name: place for place, name in enumerate(self.targets.label_names)}
        labels = [number.get(label, -1) for row in rows for label in self._labels_of(row)]
        return tokenize_words([row.words for row in rows], np.array(labels, np.int32), tokenizer)

    def read_texts(self, split):
        return [(row.text,) for row in self._rows(split)]

    def word_spans(self, split):
        return [row.spans for row in self._rows(split)]

    def skipped(self, split):
        self._rows(split)
        faults = self._of_split[split][2]
        return [f"{self._where(split)}, {self._name(line)}: {text}" for line, text in faults]

    def places(self, split, rows):
        sentences = self._rows(split)
        return [f"{self._where(split)}, {self._name(sentences[row].line)}" for row in rows]

    def id_columns(self, split):
        """Returns {}: sentences have no cells beside."""
        del split
        return {}

    def _labels_of(self, row):
        return row.labels or [None] * len(row.words)

    def _labels(self):
        """Returns the labels of the words to train on: list of str."""
        parsed = self._parsed("train", self._content("train"))
        if not any(row.labels for row in parsed.rows) and not parsed.faults:
            keys = "label_column, or delimiter" if self.unit == "line" else "label_key"
            raise UserError(f"{self._where('train')} has no labels; write another {keys}")
        rows, faults = self._checked(parsed)
        self._refuse(faults, "train")
        return [label for row in rows for label in row.labels]

    def _checked(self, parsed):
        """Returns the Sentences that can be trained on or scored, and the faults of the others."""
        rows, faults = parsed.rows, list(parsed.faults)
        without = [(row.line, "has no labels") for row in rows if row.labels is None]
        rows = [row for row in rows if row.labels is not None]
        names = {label for row in rows for label in row.labels}
        names |= set(self.targets.label_names or ())  # by those of training all are scored
        if has_tags(names):
            scheme = self._scheme or usual_scheme(names)
            of_tags = tag_faults(rows, scheme)
            if of_tags and not self._skips_bad_rows:
                advice = advice_on_scheme(rows, scheme)
                of_tags[0] = of_tags[0][0], of_tags[0][1] + advice
            lines = {line for line, _ in of_tags}
            rows = [
                row
                for row in rows
                if not any(row.line_of(n) in lines for n in range(len(row.words)))
            ]
            faults += of_tags
        return rows, sorted(faults + without)

    def _rows(self, split):
        """Returns the sentences of a split that can be used: list of Sentence.

        Raises:
            UserError: there are bad ones and on_bad_row is error, or none is good.
        """
        content = self._content(split)
        known = self._of_split.get(split)
        if known and known[0] == content:
            return known[1]
        parsed = self._parsed(split, content)
        rows, faults = parsed.rows, parsed.faults
        if self.needs_targets:
            rows, faults = self._checked(parsed)
            names = set(self.targets.label_names)
            unknown = {
                row.line: (row.line_of(n), label)
                for row in rows
                for n, label in reversed(list(enumerate(row.labels)))
                if label not in names
            }
            listed = ", ".join(self.targets.label_names)
            faults = faults + [
                (line, f"label {label} is none of {listed}") for line, label in unknown.values()
            ]
            rows = [row for row in rows if row.line not in unknown]
        self._refuse(faults, split)
        if not rows:
            raise UserError(f"{self._where(split)} holds no sentence that can be used")
        self._of_split[split] = content, rows, faults
        return rows

    def _refuse(self, faults, split):
        if not self._skips_bad_rows:
            faults = [f"{self._name(number)}: {reason}" for number, reason in faults]
            refuse(faults, self._where(split), self.row_name, self.unit)
