# SPDX-License-Identifier: Apache-2.0
"""The ids of an export's program and of the server are those that the network was trained on."""

import numpy as np
import pytest
import tensorflow as tf

from common.checkpoints.vocab import write_vocab
from common.export.decoders import questions, words
from common.export.decoders.vocabulary import open_vocabulary
from input.features import Layout, TextFeatures
from input.masking import tokenize_with_masks
from input.question_rows import rows_of_questions
from input.questions import split_at_blanks
from input.token_cache import tokenize_questions, tokenize_words
from input.tokenizers.library import LibraryTokenizer
from input.tokenizers.offsets import split_text
from input.tokenizers.wordpiece import WordPieceTokenizer
from input.word_rows import rows_of_words
from serving.readers import make_reader
from tests.reference.tiny_classifier import VOCAB
from tests.reference.toy_vocabularies import VOCABULARIES

SAMPLES = [
    "A good day, and no  joy!",
    "",
    "Z\u00f6e's fi\u0301lm: \u5317\u4eac \U0001f600 </s> [SEP] <mask>x",
    "no plot " * 9,
    " the film\twas warm.",
]
LENGTH = 14
KINDS = [*VOCABULARIES, "wordpiece"]
SETTINGS = {
    "do_lower_case": True,
    "add_special_tokens": True,
    "input_mask_is_of_padding": True,
    "max_sequence_length": LENGTH,
    "max_position_embeddings": LENGTH,
    "window_stride": 3,
    "max_query_length": 4,
}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request):
    if request.param == "wordpiece":
        return WordPieceTokenizer(VOCAB)
    return LibraryTokenizer(VOCABULARIES[request.param]())


@pytest.fixture
def folder(tokenizer, tmp_path):
    write_vocab(tmp_path, tokenizer.vocab)
    return tmp_path


def settings_of(tokenizer, **changes):
    return {**SETTINGS, "do_lower_case": tokenizer.do_lower, **changes}


@pytest.mark.parametrize("has_special", [True, False])
@pytest.mark.parametrize("texts_per_row", [1, 2])
def test_rows_of_texts_and_pairs(tokenizer, texts_per_row, has_special):
    layout = Layout(add_special_tokens=has_special, num_between=tokenizer.num_between)
    texts = [text for text in SAMPLES if text or has_special]  # a row without a token has no ids
    rows = [(text,) for text in texts]
    if texts_per_row == 2:
        rows = [(a, b) for a in texts for b in reversed(texts)]
    expected = TextFeatures(tokenizer, texts_per_row, LENGTH, layout)(tf.constant(rows))
    settings = settings_of(tokenizer, add_special_tokens=has_special, task="classification")
    reader = make_reader(settings, tokenizer.vocab, ("text_a", "text_b")[:texts_per_row])
    prepared = [reader.prepare(row).rows[0] for row in rows]
    ours = reader.features(prepared)
    for name in ("input_ids", "input_mask") if not has_special else expected:
        np.testing.assert_array_equal(ours[name][:, : expected[name].shape[1]], expected[name])
    for row, (ids, _) in zip(rows, prepared, strict=True):
        places = reader.places(row)
        assert len(places) == len(ids)
        for place in filter(None, places):
            number, begin, end = place
            assert 0 <= begin <= end <= len(row[number])


def test_places_are_those_of_the_text(tokenizer):
    text = "no plot"
    places = tokenizer_of_reader(tokenizer).places_of(text)
    assert {text[a:b] for a, b in places} <= {text[a:b] for a in range(7) for b in range(a, 8)}
    assert all(text[a:b].strip() == text[a:b] for a, b in places)


def tokenizer_of_reader(tokenizer):
    reader = make_reader(settings_of(tokenizer, task="classification"), tokenizer.vocab, ("text",))
    return reader.vocab


def test_windows_of_words(tokenizer, folder):
    spans = [split_text(text, tokenizer.do_lower).spans.tolist() for text in SAMPLES]
    of_texts = [[text[a:b] for a, b in each] for text, each in zip(SAMPLES, spans, strict=True)]
    tokens = tokenize_words(of_texts, np.full(sum(map(len, spans)), -1, np.int32), tokenizer)
    rows, _ = rows_of_words(tokens, LENGTH - 2, 3, 1)
    ids = np.split(rows.ids, rows.offsets[1:-1])
    decoder = words.Decoder(folder, settings_of(tokenizer))
    ours = decoder.rows(SAMPLES)
    assert [list(map(tuple, each)) for each in ours.words] == [list(map(tuple, s)) for s in spans]
    expected = [[tokenizer.cls_id, *each.tolist(), tokenizer.sep_id] for each in ids]
    assert [row for row, _ in ours.tokens] == expected and len(expected) > len(SAMPLES)


def test_windows_of_questions(tokenizer, folder):
    asked = ["who was\tit?", "no", " A good day and the film"]
    pairs = [(question, text) for question in asked for text in SAMPLES]
    spans = {text: split_at_blanks(text) for _, text in pairs}
    tokens, _ = tokenize_questions(pairs, spans, [""] * len(pairs), tokenizer)
    layout = Layout(num_between=tokenizer.num_between)
    library = None if tokenizer.in_graph else tokenizer
    num_special = layout.num_special_tokens(2)
    rows, question_rows = rows_of_questions(
        tokens, LENGTH, 4, 3, tokenizer.do_lower, num_special, library
    )
    parts = np.split(rows.ids, rows.offsets[1:-1])
    between = [tokenizer.sep_id] * tokenizer.num_between
    expected = [
        [tokenizer.cls_id, *a.tolist(), *between, *b.tolist(), tokenizer.sep_id]
        for a, b in zip(parts[::2], parts[1::2], strict=True)
    ]
    decoder = questions.Decoder(folder, settings_of(tokenizer))
    ours = decoder.rows(pairs)
    assert [row for row, _ in ours.tokens] == expected and len(expected) > len(pairs)
    for number in range(len(pairs)):
        assert ours.pieces[number] == question_rows.pieces_of(number, tokenizer.vocab)
        assert ours.word_of_piece[number].tolist() == question_rows.word_of_piece(number).tolist()
    for text in SAMPLES:
        assert decoder.vocab.normalized(text) == question_rows.normalize(" ".join(text.split()))


def test_texts_with_masks(tokenizer):
    mask = tokenizer.mask_token
    text = f"no {mask}, the  {mask} day"
    settings = settings_of(tokenizer, task="pretraining", max_sequence_length=40)
    reader = make_reader(settings, tokenizer.vocab, ("text",))
    ((row, _),) = reader.prepare((text,)).rows
    expected = tokenize_with_masks([(text,)], tokenizer).ids.tolist()
    assert row == [tokenizer.cls_id, *expected, tokenizer.sep_id]
    assert row.count(tokenizer.vocab.index(mask)) == 2


def test_a_word_that_no_entry_spells_is_outside(folder, tokenizer):
    decoder = words.Decoder(
        folder,
        settings_of(
            tokenizer, label_names=["B-x", "O"], has_entities=True, word_aggregation="first"
        ),
    )
    decoder.vocab.ids_of_words = lambda texts: ([tokenizer.unk_id], [1])
    rows = decoder.rows(["no joy"])
    logits = np.tile(np.array([9.0, 0.0], np.float32), (1, 3, 1))
    (found,) = decoder.decode(rows, {"logits": logits})
    assert found["tags"] == ["O", "B-x"] and [e["text"] for e in found["entities"]] == ["joy"]


def test_a_vocabulary_is_read_from_its_file(folder, tokenizer):
    found = open_vocabulary(folder, tokenizer.do_lower)
    assert list(found.entries) == list(tokenizer.vocab)
    ids = "pad_id", "cls_id", "sep_id", "num_between", "mask_token", "mask_takes_blank"
    assert [getattr(found, name) for name in ids] == [getattr(tokenizer, name) for name in ids]
