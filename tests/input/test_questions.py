# SPDX-License-Identifier: Apache-2.0
"""input/questions.py and common/tasks/span_answers.py, against google-research/bert run_squad.py
(../shared/fixtures/squad_postprocess) and by hand."""

import functools
import json

import numpy as np
import pytest
import tensorflow as tf

from common.tasks.span_answers import Context, Scored, answer, project
from input.question_rows import rows_of_questions
from input.questions import (
    Answer,
    is_in_words,
    split_at_blanks,
    tokens_of_answer,
    words_of_answer,
)
from input.token_cache import Tokens
from input.tokenizers.offsets import split_text
from input.tokenizers.wordpiece import WordPieceTokenizer
from input.windows import best_windows, cut_windows
from input.word_rows import Words

EXPECTED = {
    "expected_v1": "v1",
    "expected_v1_nbest1": "v1",
    "expected_v2_threshold0": "v2",
    "expected_v2_threshold-1.5": "v2",
}


@pytest.fixture(scope="module")
def folder(shared_dir):
    return shared_dir / "fixtures" / "squad_postprocess"


@pytest.fixture(scope="module")
def tokenizer(shared_dir):
    return WordPieceTokenizer.from_vocab_file(shared_dir / "vocab/bert_uncased_vocab.txt", True)


def read(path):
    return json.loads(path.read_text("utf-8"))


def normalize(text):
    return " ".join(split_text(text, True).strings())


class Example:
    """A question of a SQuAD file, tokenised."""

    def __init__(self, entry, context, tokenizer, settings):
        def ids_of(texts):
            return tokenizer.tokenize(tf.constant(texts)).to_list() if texts else []

        self.id, self.context = entry["id"], context
        self.words = split_at_blanks(context)
        of_words = ids_of([context[a:b] for a, b in self.words.tolist()])
        self.num_pieces = np.array([len(each) for each in of_words])
        self.ids = np.array([i for each in of_words for i in each])
        self.question = ids_of([entry["question"]])[0][: settings["max_query_length"]]
        self.room = settings["max_seq_length"] - len(self.question) - 3
        self.windows = cut_windows([len(self.ids)], self.room, settings["doc_stride"])
        self.best = best_windows(self.windows, [len(self.ids)])
        self.answer = None
        if entry["answers"]:
            first = entry["answers"][0]
            found = Answer(first["text"], first["answer_start"])
            words = words_of_answer(self.words, found)
            assert is_in_words(context, self.words, found, words)
            answer_ids = ids_of([found.text])[0]
            self.answer = tokens_of_answer(self.ids, self.num_pieces, words, answer_ids)

    @property
    def word_of_piece(self):
        return np.repeat(np.arange(len(self.words)), self.num_pieces)

    def tokens(self):
        """Returns the Tokens of the question and its text."""
        ids = np.array([*self.question, *self.ids], np.int32)
        offsets = np.cumsum([0, len(self.question), len(self.ids)])
        answer = {"answer_tokens": np.array([self.answer or (-1, -1)], np.int32)}
        labels = np.full(len(self.words), -1, np.int32)
        words = Words(np.array([0, len(self.words)]), self.num_pieces.astype(np.int32), labels)
        return Tokens(ids, offsets, answer, 2, words=words)

    def spans(self):
        """Yields (window, first token, tokens)."""
        yield from zip(
            range(len(self.windows)),
            self.windows.start.tolist(),
            self.windows.count.tolist(),
            strict=True,
        )


@pytest.fixture(scope="module")
def version_of(folder, tokenizer):
    """Returns the features of a version and the Example of each question."""

    @functools.cache
    def version_of(number):
        features = read(folder / f"features_{number}.json")
        examples = [
            Example(entry, paragraph["context"], tokenizer, features)
            for article in read(folder / f"{number}.json")["data"]
            for paragraph in article["paragraphs"]
            for entry in paragraph["qas"]
        ]
        return features, examples

    return version_of


@pytest.mark.parametrize("number", ["v1", "v2"])
def test_features_are_those_of_run_squad(version_of, tokenizer, number):
    features, examples = version_of(number)
    expected = iter(features["features"])
    sizes = [features[key] for key in ("max_seq_length", "max_query_length", "doc_stride")]
    for example in examples:
        rows, _ = rows_of_questions(example.tokens(), *sizes, do_lower=True)
        ends = [rows.targets[name] for name in ("start_positions", "end_positions")]
        positions = iter(np.stack(ends, axis=1).tolist())
        for window, start, count in example.spans():
            theirs = next(expected)
            first = len(example.question) + 2
            row = [tokenizer.cls_id, *example.question, tokenizer.sep_id]
            row += [*example.ids[start : start + count].tolist(), tokenizer.sep_id]
            assert theirs["id"] == example.id
            assert theirs["first_document_token"] == first
            padding = [0] * (features["max_seq_length"] - len(row))
            assert theirs["input_ids"] == row + padding
            assert theirs["token_to_orig_map"] == (
                example.word_of_piece[start : start + count].tolist()
            )
            is_best = example.best[start : start + count] == window
            assert theirs["token_is_max_context"] == is_best.astype(int).tolist()
            assert next(positions) == [theirs[f"train_{end}_position"] for end in ("start", "end")]
    assert next(expected, None) is None


@pytest.mark.parametrize("name", EXPECTED)
def test_answers_n_best_and_null_odds_are_those_of_run_squad(folder, version_of, tokenizer, name):
    number, expected = EXPECTED[name], read(folder / f"{name}.json")
    _, examples = version_of(number)
    logits = iter(read(folder / f"logits_{number}.json")["logits"])
    for example in examples:
        scored = []
        for window, start, count in example.spans():
            row = next(logits)
            starts, ends = (
                np.array(row[f"{side}_logits_x4096"]) / 4096 for side in ("start", "end")
            )
            is_best = example.best[start : start + count] == window
            scored.append(Scored(start, len(example.question) + 2, is_best, starts, ends))
        pieces = [tokenizer.vocab[i] for i in example.ids]
        context = Context(example.context, example.words, pieces, example.word_of_piece)
        answered = answer(
            context,
            scored,
            normalize,
            expected["n_best_size"],
            expected["max_answer_length"],
            expected["version_2_with_negative"],
        )
        chosen = answered.chosen(expected.get("null_score_diff_threshold", 0.0))
        assert ("" if chosen is None else chosen.text) == expected["predictions"][example.id]
        theirs = expected["nbest"][example.id]
        ours = [
            {
                "text": each.text,
                "probability": probability,
                "start_logit": each.start_logit,
                "end_logit": each.end_logit,
            }
            for each, probability in zip(answered.candidates, answered.probabilities, strict=True)
        ]
        assert ours == theirs, example.id
        if expected["version_2_with_negative"]:
            assert answered.null_odds == expected["null_odds"][example.id]
        for each in answered.candidates:
            if each.span is not None:  # its place in the text, whatever blanks stand there
                a, b = each.span
                assert " ".join(example.context[a:b].split()) == " ".join(each.text.split())
    assert next(logits, None) is None


def test_words_part_at_four_blanks_and_a_narrow_one():
    text = "a b\u00a0c\u202fd\t\ne "
    assert [text[a:b] for a, b in split_at_blanks(text).tolist()] == ["a", "b\u00a0c", "d", "e"]
    assert len(split_at_blanks(" ")) == len(split_at_blanks("")) == 0


def test_an_answer_within_a_word_is_its_tokens_or_else_the_word():
    # "(1895-1943)" as tokens 1 2 3 4 5, after a word of two tokens.
    ids, num_pieces = np.array([9, 8, 1, 2, 3, 4, 5]), np.array([2, 5])
    assert tokens_of_answer(ids, num_pieces, (1, 1), [2]) == (3, 3)
    assert tokens_of_answer(ids, num_pieces, (1, 1), [2, 3, 4]) == (3, 5)
    assert tokens_of_answer(ids, num_pieces, (1, 1), [7]) == (2, 6)
    assert tokens_of_answer(ids, num_pieces, (0, 1), [8, 1]) == (1, 2)


def test_a_text_is_projected_to_its_own_letters():
    def found(pieces, original):
        begin, end = project(pieces, original, normalize)
        return original[begin:end]

    assert found("smith", "Steve Smith's") == "Smith"
    assert found("muller - l", "J. Müller-L.") == "Müller-L"
    # "½" stays one character; U+200B is removed, so the numbers of characters differ.
    assert project("b", "a\u200bb", normalize) is None
    assert project("z", "ab", normalize) is None


def test_without_a_valid_pair_the_answer_is_none_where_there_may_be_none():
    context = Context("a", np.array([[0, 1]]), ["a"], np.array([0]))
    # The only token of the context is the last of the row; the best of start and end are [CLS].
    logits = np.array([3.0, 0.0, 0.0, -9.0])
    window = Scored(0, 3, np.array([True]), logits, logits)
    answered = answer(context, [window], normalize, n_best=1, may_be_unanswerable=True)
    assert answered.chosen(0.0) is None
    assert answered.null_odds == 6.0


def test_an_answer_is_in_its_words_whatever_blanks_part_it():
    """Words are parted at some blanks alone, an answer at all."""
    context = "about 10\u00a0km and\u30002 \t m"
    spans = split_at_blanks(context)
    for text in ("10\u00a0km", "km", "and\u30002 \t m"):
        answer = Answer(text, context.index(text))
        assert is_in_words(context, spans, answer, words_of_answer(spans, answer))
    answer = Answer("10 miles", 6)
    assert not is_in_words(context, spans, answer, words_of_answer(spans, answer))
