# SPDX-License-Identifier: Apache-2.0
"""input/tokenizers/offsets.py: the words and places of the graph tokenizer's own tokens."""

import json
from unicodedata import normalize

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import BertWordPieceTokenizer

from input.tokenizers.offsets import split_text
from input.tokenizers.wordpiece import WordPieceTokenizer
from tests.input.tokenizers.test_wordpiece import AWKWARD_LINES, LONG_WORDS, SMALL_VOCAB

TOKENIZERS = {do_lower: WordPieceTokenizer(SMALL_VOCAB, do_lower) for do_lower in (True, False)}


def ids_of(tokenizer, texts):
    return tokenizer.tokenize(tf.constant(texts, tf.string)).to_list()


def shown(text, do_lower):
    words = split_text(text, do_lower)
    return [text[a:b] for a, b in words.spans.tolist()]


def words_of(encoding):
    """Returns where the words of a text stand by an Encoding of Hugging Face: list of tuples."""
    spans = {}
    for word, (begin, end) in zip(encoding.word_ids, encoding.offsets, strict=True):
        spans[word] = (spans.get(word, (begin,))[0], end)
    return list(spans.values())


def test_words_by_hand():
    assert shown("Don't  touch\u200b it!", True) == ["Don", "'", "t", "touch", "it", "!"]
    assert split_text("Ça va, ÉTÉ", True).strings() == ["ca", "va", ",", "ete"]
    assert shown("Ça va, ÉTÉ", True) == ["Ça", "va", ",", "ÉTÉ"]
    # The accent is a character of its own, and belongs to the letter before it.
    assert shown("cafe\u0301 b", True) == ["cafe\u0301", "b"]
    assert shown("北京 x", True) == ["北", "京", "x"]
    assert len(split_text(" \u200b\t", True)) == 0
    assert len(split_text("", False)) == 0


@pytest.mark.parametrize("do_lower", [True, False])
def test_every_word_of_awkward_lines_is_tokenised_as_within_its_line(do_lower):
    tokenizer, lines = TOKENIZERS[do_lower], [*AWKWARD_LINES, *LONG_WORDS]
    words = [shown(line, do_lower) for line in lines]
    of_words = iter(ids_of(tokenizer, [word for line in words for word in line]))
    for line, its_words, ids in zip(lines, words, ids_of(tokenizer, lines), strict=True):
        assert [i for _ in its_words for i in next(of_words)] == ids, f"{line!a}"


def test_marks_that_stay_are_in_canonical_order():
    # Combining classes 230 and 224; neither is removed, being newer than the reference's tables.
    assert split_text("a\u08d4\u302e", True).strings() == ["a\u302e\u08d4"]
    assert split_text("a\u08d4\u302e", False).strings() == ["a\u08d4\u302e"]


@pytest.mark.parametrize("do_lower", [True, False])
def test_offsets_of_awkward_lines_are_those_of_hugging_face(do_lower):
    ids = {entry: i for i, entry in enumerate(SMALL_VOCAB)}
    reference = BertWordPieceTokenizer(ids, lowercase=do_lower)
    reference._tokenizer.encode_special_tokens = True
    compared = 0
    for line in AWKWARD_LINES:
        if normalize("NFD", line) != "".join(normalize("NFD", c) for c in line):
            continue  # where marks change places, theirs stay with the places
        theirs = words_of(reference.encode(line, add_special_tokens=False))
        spans = split_text(line, do_lower).spans.tolist()
        for (first, last), (their_first, their_last) in zip(spans, theirs, strict=True):
            # It leaves the marks after a letter out, and of a character that becomes several
            # gives all the same place.
            assert first <= their_first < their_last <= last or their_first == their_last, line
            compared += 1
    assert compared > 500


texts = st.text(
    st.one_of(
        st.sampled_from("ab eéÉßẞ中국!.-[]SEP\u0301\u0323\u200b\t≠ﬁİσΣ$\ud800"), st.characters()
    ),
    max_size=20,
)


@settings(max_examples=50)
@given(texts, st.booleans())
def test_spans_of_any_text_are_in_order_and_hold_what_they_name(text, do_lower):
    spans = split_text(text, do_lower).spans
    assert (spans[:, 0] < spans[:, 1]).all()
    assert (np.diff(spans[:, 0]) >= 0).all()
    assert len(text) >= spans.max(initial=0)


def test_offsets_of_real_texts_are_those_of_hugging_face(shared_dir):
    vocab = shared_dir / "vocab" / "bert_uncased_vocab.txt"
    tokenizer = WordPieceTokenizer.from_vocab_file(vocab, True)
    reference = BertWordPieceTokenizer(str(vocab), lowercase=True)
    data = json.loads((shared_dir / "data/qa/xquad_en_dev.json").read_text("utf-8"))
    contexts = [p["context"] for article in data["data"] for p in article["paragraphs"]]
    for text, ids in zip(contexts, ids_of(tokenizer, contexts), strict=True):
        encoding = reference.encode(text, add_special_tokens=False)
        assert encoding.ids == ids
        assert shown(text, True) == [text[a:b] for a, b in words_of(encoding)]
