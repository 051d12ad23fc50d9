# SPDX-License-Identifier: Apache-2.0
"""Questions on texts in files: of SQuAD, and JSON Lines (`squad.py`)."""

import functools

from common.errors import UserError
from common.files import sha256_once
from input.sources.file_source import FileSource, read_bytes
from input.sources.question_source import QuestionSource
from input.sources.squad import parse_question_lines, parse_squad

SUFFIXES = {".json": parse_squad, ".jsonl": parse_question_lines}
RECORDS = (".tf_record", ".tfrecord", ".tfrecords")  # the original's, to train on

_parse = functools.lru_cache(maxsize=3)(lambda parse, *arguments: parse(*arguments))


class QuestionFileSource(QuestionSource, FileSource):
    """A QuestionSource over files.

    Args:
        cfg: InputParams: train_file, eval_file, on_bad_row.
        processor, targets, needs_targets: see Source.
    Raises:
        UserError: a file cannot be read, or its questions cannot be used.
    """

    def __init__(self, cfg, processor, targets, needs_targets=True):
        super().__init__(cfg, processor, targets, needs_targets)
        self._vocab_file = cfg.vocab_file

    def tokenize(self, split, tokenizer):
        if not self._is_of_records(split):
            return super().tokenize(split, tokenizer)
        from input.sources.word_records import tokens_of_records  # slow, and imports TensorFlow

        rows, _ = self._rows(split)
        return tokens_of_records(rows, self._pieces)

    def id_columns(self, split):
        if self._is_of_records(split):
            raise UserError(
                f"{self._path(split)} holds windows of ids, which cannot be scored: a question may "
                "have several, and their texts are lost; write eval_file, the .json file that they "
                "were made from"
            )
        return super().id_columns(split)

    def _is_of_records(self, split):
        return self._path(split).suffix.lower() in RECORDS

    def _where(self, split):
        return str(self._path(split))

    def _settings(self, split):
        vocab = [sha256_once(self._vocab_file)] if self._is_of_records(split) else []
        return [self._path(split).suffix.lower(), *vocab]

    def _content(self, split):
        path = self._path(split)
        if self._is_of_records(split) and path.is_file():
            return sha256_once(path).encode()  # gigabytes, perhaps
        if path.suffix.lower() not in (*SUFFIXES, *RECORDS):
            raise UserError(
                f"{path}: its name ends in no known format; available: .json, as SQuAD has it, "
                ".jsonl, and to train on .tf_record"
            )
        return read_bytes(path)

    def _parsed(self, split, content):
        path = self._path(split)
        if self._is_of_records(split):
            from input.sources.word_records import parse_question_records

            parsed = parse_question_records(path, self._vocab_file)
            self._pieces = parsed.pieces
            return parsed
        return _parse(SUFFIXES[path.suffix.lower()], content, str(path), self.needs_targets)
