# SPDX-License-Identifier: Apache-2.0
"""Texts of words, and questions on texts: a long text becomes windows, each of them a row."""

import itertools

import numpy as np

from common.metrics.entities import OUTSIDE
from common.params.words import DEFAULT_STRIDE, QUESTION_FILES, TAGGED_FILES
from input.question_rows import rows_of_questions
from input.questions import split_at_blanks
from input.rows import Origins
from input.sources.conll import TAGGED_SUFFIXES
from input.sources.question_files import SUFFIXES
from input.sources.text_files import FORMATS
from input.text_reader import TextReader
from input.token_cache import tokenize_questions, tokenize_words
from input.tokenizers.offsets import split_text
from input.word_rows import rows_of_words

NO_ANSWER = "without an answer"
OF_LINES = ("", ".txt")  # ends of names of files with a text in each line


class WordReader(TextReader):
    """Reads texts with a label for each of their words."""

    suffixes, of_files = TAGGED_SUFFIXES, TAGGED_FILES
    lines = "a text to tag"
    other_name = ", or name a file with a word and its label in each line .conll"

    def reads(self, suffix):
        return suffix in self.suffixes or suffix not in (*OF_LINES, *FORMATS, ".json", ".ndjson")

    def _windows(self, cfg, tokens):
        _, layout = self._read(cfg)
        room = cfg.max_sequence_length - layout.num_special_tokens(1)
        stride = cfg.window_stride or -(-room // 2)
        num_before, in_all = int(layout.add_special_tokens), cfg.labeled_pieces == "all"
        rows, word_rows = rows_of_words(tokens, room, stride, num_before, in_all)
        return rows, {"word_rows": word_rows, "targets": {"labels": tokens.words.labels}}

    def _labels_of(self, tokens, targets, answers):
        names = [*targets.label_names, "?"]  # the last of words without a label, -1
        labels = [names[label] for label in tokens.words.labels.tolist()]
        rows = [labels[a:b] for a, b in itertools.pairwise(tokens.words.offsets.tolist())]
        return [
            " ".join(f"{n}:{label}" for n, label in enumerate(row) if label != OUTSIDE) or OUTSIDE
            for row in rows
        ]

    def _counts_of(self, tokens, targets, answers):
        return targets.counts({"labels": tokens.words.labels})

    def _tokens_of_texts(self, cfg, texts):
        spans = [split_text(text, cfg.do_lower).spans.tolist() for (text,) in texts]
        words = [[text[a:b] for a, b in each] for (text,), each in zip(texts, spans, strict=True)]
        labels = np.full(sum(map(len, words)), -1, np.int32)
        return tokenize_words(words, labels, self._read(cfg)[0]), Origins(texts, words=spans)


class QuestionReader(TextReader):
    """Reads pairs of a question and the text that may have its answer."""

    suffixes, of_files = tuple(SUFFIXES), QUESTION_FILES
    lines = "a question, a tab and the text that may have its answer"

    def _windows(self, cfg, tokens):
        sizes = cfg.max_sequence_length, cfg.longest_question, cfg.window_stride or DEFAULT_STRIDE
        tokenizer, layout = self._read(cfg)
        of_tokenizer = (
            tokenizer.do_lower,
            layout.num_special_tokens(2),
            None if tokenizer.in_graph else tokenizer,
        )
        rows, question_rows = rows_of_questions(tokens, *sizes, *of_tokenizer)
        lengths = tokens.lengths[question_rows.windows.text, 0]
        is_asked = cfg.longest_question == cfg.max_query_length
        return rows, {
            "word_rows": question_rows,
            "num_cut": lengths - question_rows.num_question,
            "cut_by": "max_query_length" if is_asked else "max_sequence_length",
            "notes": _notes_on_answers(tokens, rows, question_rows.windows.text),
        }

    def _labels_of(self, tokens, targets, answers):
        answers = answers or [()] * len(tokens)  # of records, which have windows alone
        return [" | ".join(dict.fromkeys(of_row)) or NO_ANSWER for of_row in answers]

    def _counts_of(self, tokens, targets, answers):
        if answers is None:
            return {}
        without = sum(not of_row for of_row in answers)
        return {"with an answer": len(answers) - without, NO_ANSWER: without}

    def _tokens_of_texts(self, cfg, texts):
        contexts = dict.fromkeys(context for _, context in texts)
        spans = {context: split_at_blanks(context) for context in contexts}
        tokens, _ = tokenize_questions(texts, spans, [""] * len(texts), self._read(cfg)[0])
        return tokens, Origins(texts, words=[spans[context].tolist() for _, context in texts])


def _notes_on_answers(tokens, rows, text_of_row):
    """Returns a sentence where answers are in no row: list. text_of_row: int [M], as of Windows."""
    if "answer_tokens" not in tokens.targets:
        return []
    has_answer = tokens.targets["answer_tokens"][:, 0] >= 0
    is_kept = np.zeros(len(tokens), bool)
    is_kept[text_of_row[rows.targets["start_positions"] > 0]] = True
    number = int((has_answer & ~is_kept).sum())
    if not number:
        return []
    return [
        f"answers that no window holds whole: {number:,} of {int(has_answer.sum()):,}; their rows "
        "say that there is no answer, and a smaller window_stride or longer rows keep them"
    ]
