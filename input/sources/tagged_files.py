# SPDX-License-Identifier: Apache-2.0
"""Tagged sentences in files: a word a line with its label, or JSON Lines (`conll.py`)."""

import functools

from common.errors import UserError
from input.sources.conll import parse_conll, parse_json_lines
from input.sources.file_source import FileSource, read_bytes
from input.sources.tagged import TaggedSource
from input.tokenizers.offsets import split_text

NOT_TAGGED = (".csv", ".json", ".yaml", ".parquet")  # that are surely something else
WORD, LABEL = "word", "label"  # of files without names of columns: the first and the last column
# The keys of JSON Lines that are looked for where none is given.
WORD_KEYS = ("tokens", "words", "text")
LABEL_KEYS = ("tags", "ner_tags", "labels", "label", "spans", "entities")

parse_conll = functools.lru_cache(maxsize=3)(parse_conll)  # several parts of a run ask for a file


class TaggedFileSource(TaggedSource, FileSource):
    """A TaggedSource over files.

    Args:
        cfg: InputParams: train_file, eval_file, delimiter, on_bad_row, tag_scheme, do_lower.
        processor: DataProcessor: text_keys and label_key are columns here, numbers or keys.
        targets, needs_targets: see Source.
    Raises:
        UserError: a file cannot be read, or its sentences cannot be used.
    """

    def __init__(self, cfg, processor, targets, needs_targets=True):
        super().__init__(cfg, processor, targets, needs_targets)
        self._delimiter, self._do_lower = cfg.delimiter, cfg.do_lower
        self.targets = targets.named(self._label_column())

    def _where(self, split):
        return str(self._path(split)) if self._paths[split] else str(self)

    def _settings(self, split):
        return [self._path(split).suffix.lower(), self._delimiter, self._do_lower]

    def _content(self, split):
        path = self._path(split)
        if path.suffix.lower() in NOT_TAGGED:
            raise UserError(
                f"{path} is named as {path.suffix}; tagged sentences are a word a line with its "
                "label, as CoNLL has it, or JSON Lines, named .jsonl"
            )
        return read_bytes(path)

    def _parsed(self, split, content):
        path, (word,), label = self._path(split), self.processor.text_keys, self.processor.label_key
        if path.suffix.lower() == ".jsonl":
            scheme = self._scheme or "IOB2"
            how = self._do_lower, scheme, self.needs_targets
            return _parse_json_lines(content, str(path), word, label, *how)
        columns = _column(word, "text_columns", 0), _column(label, "label_column", -1)
        return parse_conll(content, str(path), *columns, self._delimiter, self.needs_targets)

    def _labels(self):
        if self._paths["train"] is None:
            raise UserError(
                "neither label_names nor train_file is given, so the labels are unknown; write "
                "label_names, in the order of the training"
            )
        return super()._labels()


def _column(name, key, default):
    """Returns the number of a column, from 0; below 0 from the last one on."""
    if name in (WORD, LABEL):
        return default
    try:
        return int(name)
    except ValueError:
        raise UserError(
            f"{key} is {name}, but the columns of this file have no names; write a number, 0 for "
            "the first and -1 for the last"
        ) from None


@functools.lru_cache(maxsize=3)
def _parse_json_lines(content, source, word, label, do_lower, scheme, has_labels):
    words = WORD_KEYS if word == WORD else (word,)
    labels = LABEL_KEYS if label == LABEL else (label,)

    def split(text):
        return split_text(text, do_lower).spans.tolist()

    return parse_json_lines(content, source, words, labels, split, scheme, has_labels)
