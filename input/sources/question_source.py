# SPDX-License-Identifier: Apache-2.0
"""Questions on texts as a source, wherever they come from: their checks, their answers' tokens."""

import hashlib
import json
from dataclasses import replace

import numpy as np

from common.console import counted, log
from common.errors import UserError
from input.questions import is_in_words, split_at_blanks, tokens_of_answer, words_of_answer
from input.sources.file_source import MAX_LISTED, fingerprint_of, refuse
from input.sources.source import Source

PARSER_VERSION = 2  # part of the fingerprint: raise it with any change that changes a row
NO_TOKENS = (-1, -1)  # of a question without an answer in its text
_told = set()  # (where, hash of the content) of questions whose misplaced answers have been told


class QuestionSource(Source):
    """A Source of questions on texts. A class for one origin adds `_content`, `_parsed`, `_where`
    and `_settings`, and another base class that opens it.

    A row is a question and its text; the words of the text are those between blanks.

    Args:
        cfg: InputParams: on_bad_row.
        processor, targets, needs_targets: see Source.
    Raises:
        UserError: the questions cannot be read, or cannot be used.
    """

    unit = "line"  # what the number of a question counts, for advice

    def __init__(self, cfg, processor, targets, needs_targets=True):
        self._of_split = {}  # {split: (content, questions, faults)}
        super().__init__(cfg, processor, targets, needs_targets)

    def _content(self, split):
        """Returns bytes that change with the questions of a split."""
        raise NotImplementedError

    def _parsed(self, split, content):
        """Returns the Questions of a split."""
        raise NotImplementedError

    def _where(self, split):
        """Returns what messages call a split: str."""
        raise NotImplementedError

    def _settings(self, split):
        """Returns what decides how a split is read besides the keys of every origin: list."""
        raise NotImplementedError

    def fingerprint(self, split):
        keys = self.processor.text_keys, self.processor.label_key
        settings = [PARSER_VERSION, *keys, self._settings(split), self._skips_bad_rows]
        settings += [self.needs_targets, split == "train", *self.targets.settings]
        return fingerprint_of(settings, self._content(split))

    def num_rows(self, split):
        return len(self._rows(split)[0])

    def content(self, split):
        rows = self._rows(split)[0]
        listed = [
            [r.question, r.context, [[a.text, a.start] for a in r.answers or ()]] for r in rows
        ]
        digest = hashlib.sha256(json.dumps(listed).encode()).hexdigest()
        return f"{len(rows):,} rows, {digest[:32]}"

    def tokenize(self, split, tokenizer):
        """Tokens of question and text, with the words of the text, and the row target
        "answer_tokens" <int32>[N, 2]: the first and the last token of the first answer in the text,
        NO_TOKENS where there is none."""
        from input.token_cache import tokenize_questions  # slow: files are checked before

        rows, _ = self._rows(split)
        texts = [(row.question, row.context) for row in rows]
        answers = [row.answers[0].text if row.answers else "" for row in rows]
        spans = {row.context: split_at_blanks(row.context) for row in rows}
        tokens, ids_of_answers = tokenize_questions(texts, spans, answers, tokenizer)
        places = np.array([NO_TOKENS] * len(rows), np.int32).reshape(-1, 2)
        for n, (row, ids) in enumerate(zip(rows, ids_of_answers, strict=True)):
            words = _words_of(row, spans[row.context])
            if words is not None:
                begin, end = tokens.offsets[2 * n + 1 : 2 * n + 3]
                of_words = slice(*tokens.words.offsets[n : n + 2])
                num_pieces = tokens.words.num_pieces[of_words]
                if num_pieces[words[0] : words[1] + 1].sum():
                    places[n] = tokens_of_answer(tokens.ids[begin:end], num_pieces, words, ids)
        return replace(tokens, targets={"answer_tokens": places})

    def read_texts(self, split):
        return [(row.question, row.context) for row in self._rows(split)[0]]

    def word_spans(self, split):
        spans = {}
        return [
            spans.setdefault(row.context, split_at_blanks(row.context).tolist())
            for row in self._rows(split)[0]
        ]

    def answers(self, split):
        return [
            None if row.answers is None else [answer.text for answer in row.answers]
            for row in self._rows(split)[0]
        ]

    def skipped(self, split):
        return self._rows(split)[1]

    def places(self, split, rows):
        questions = self._rows(split)[0]
        return [questions[row].place for row in rows]

    def id_columns(self, split):
        return {"question_id": [row.id for row in self._rows(split)[0]]}

    def _rows(self, split):
        """Returns the questions of a split that can be used: list of Question; and a sentence for
        each of the others.

        A question to train on needs its answer in its text. Raises UserError where there are bad
        questions and on_bad_row is error, or none is good.
        """
        content, where = self._content(split), self._where(split)
        known = self._of_split.get(split)
        if known and known[0] == content:
            return known[1:]
        parsed = self._parsed(split, content)
        rows, faults = parsed.rows, list(parsed.faults)
        is_of_texts = parsed.pieces is None
        if split == "train" and self.needs_targets and is_of_texts:
            nowhere = [
                row
                for row in rows
                if row.answers and _words_of(row, split_at_blanks(row.context)) is None
            ]
            faults += [
                f"{row.place}: answer {row.answers[0].text!r} is not in the words of the context"
                for row in nowhere
            ]
            bad = {row.id for row in nowhere}
            rows = [row for row in rows if row.id not in bad]
        without = [row for row in rows if not row.answers]  # of windows, it stands in another one
        if without and is_of_texts and self.needs_targets and not self.targets.may_be_unanswerable:
            raise UserError(
                f"{where}: {counted(len(without), 'question')} without an answer, the first in "
                f"{without[0].place}; write version_2_with_negative: true"
            )
        if not self._skips_bad_rows:
            refuse(faults, where, "question", self.unit)
        if not rows:
            raise UserError(f"{where} holds no question that can be used")
        # A run opens a file more than once: to train on, to evaluate, to look at.
        if parsed.misplaced and (where, hash(content)) not in _told:
            _told.add((where, hash(content)))
            number = counted(len(parsed.misplaced), "answer")
            taken = "the nearest place, if any, is taken"
            log(f"{where}: {number} not at the given answer_start; {taken}")
            for sentence in parsed.misplaced[:MAX_LISTED]:
                log(f"  {sentence}")
        self._of_split[split] = content, rows, faults
        return rows, faults


def _words_of(row, spans):
    """Returns the first and the last word of a question's first answer, or None."""
    if not row.answers or row.answers[0].start < 0:
        return None
    answer = row.answers[0]
    words = words_of_answer(spans, answer)
    if words is None or not is_in_words(row.context, spans, answer, words):
        return None
    return words
