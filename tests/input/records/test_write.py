# SPDX-License-Identifier: Apache-2.0
"""input/records: records are Google's draw for draw, and hold what their settings say."""

import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from input.records.write import DATA_PARAMS, RecordSettings, write_records
from input.tokenizers.wordpiece import WordPieceTokenizer
from tests.reference.records import (
    blank_line_documents,
    decoded_sha256,
    read_examples,
    read_tokens,
)

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [f"{a}{b}" for a in "abcdefgh" for b in "rstuvwxyz"]
VOCAB = [*SPECIAL, *WORDS, *(f"##{word}" for word in WORDS)]
PAD, UNK, CLS, SEP, MASK = range(5)


@pytest.fixture(scope="module")
def tokenizer():
    return WordPieceTokenizer(VOCAB)


def document(number, num_lines=5):
    """Lines of words of one or two pieces, other ones in every document."""
    words = [WORDS[(number * 7 + i * 5) % len(WORDS)] for i in range(6 * num_lines)]
    words = [word + words[i - 1] if i % 4 == 3 else word for i, word in enumerate(words)]
    return [" ".join(words[6 * i : 6 * i + 6]) for i in range(num_lines)]


def written(folder, tokenizer, documents=None, **keys):
    keys = {"max_sequence_length": 24, "max_predictions_per_seq": 5, "num_output_files": 1} | keys
    documents = [document(i) for i in range(8)] if documents is None else documents
    return write_records(documents, tokenizer, RecordSettings(**keys), folder)


def unmasked(row):
    """The ids of an example before they were masked, without padding."""
    ids = row["input_ids"][: sum(row["input_mask"])]
    for position, token, weight in zip(
        row["masked_lm_positions"], row["masked_lm_ids"], row["masked_lm_weights"], strict=True
    ):
        if weight:
            ids[position] = token
    return ids


@pytest.mark.parametrize("run", ["single_piece", "whole_word"])
def test_googles_records_come_out_equal(run, shared_dir, tmp_path):
    folder = shared_dir / "fixtures" / "google_pretraining_data"
    digest = json.loads((folder / "digest.json").read_text())[run]["files"]["examples.tfrecord"]
    flags = json.loads((folder / "flags.json").read_text())["runs"][run]
    tokenizer = WordPieceTokenizer.from_vocab_file(shared_dir / "vocab" / "bert_uncased_vocab.txt")
    made = write_records(
        blank_line_documents((folder / "input.txt").read_text()),
        tokenizer,
        RecordSettings(
            max_sequence_length=flags["max_seq_length"],
            max_predictions_per_seq=flags["max_predictions_per_seq"],
            dupe_factor=flags["dupe_factor"],
            random_seed=flags["random_seed"],
            mask_whole_word=flags.get("do_whole_word_mask", False),
            num_output_files=1,
        ),
        tmp_path,
    )
    assert made.num_examples == digest["examples"]
    assert decoded_sha256(read_examples(made.paths)) == digest["decoded_sha256"]


def test_an_example_says_what_stood_there_and_which_half_is_which(tokenizer, tmp_path):
    documents = [document(i) for i in range(8)]
    rows = read_examples(written(tmp_path, tokenizer).paths)
    joined = [
        [token for line in lines for token in tokenizer.tokenize([line]).values.numpy().tolist()]
        for lines in documents
    ]
    labels = set()
    for row in rows:
        ids, size = unmasked(row), sum(row["input_mask"])
        assert len(row["input_ids"]) == len(row["input_mask"]) == len(row["segment_ids"]) == 24
        first, second = ids[1 : ids.index(SEP)], ids[ids.index(SEP) + 1 : -1]
        assert ids == [CLS, *first, SEP, *second, SEP]
        assert sum(row["segment_ids"]) == len(second) + 1
        number = sum(row["masked_lm_weights"])
        assert number == min(5, max(1, round(0.15 * size)))
        positions = row["masked_lm_positions"][: int(number)]
        assert positions == sorted(set(positions))
        assert not {CLS, SEP} & {ids[position] for position in positions}
        # In a continuation the second text follows the first in their document.
        texts = " ".join(map(str, first + second))
        follows = any(f" {texts} " in f" {' '.join(map(str, tokens))} " for tokens in joined)
        assert row["next_sentence_labels"] == [0] or not follows
        labels.add((row["next_sentence_labels"][0], follows))
    assert {(0, True), (1, False)} <= labels


def test_several_files_are_dealt_the_examples_of_one(tokenizer, tmp_path):
    (one,) = written(tmp_path / "one", tokenizer).paths
    three = written(tmp_path / "three", tokenizer, num_output_files=3, name="owt").paths
    assert [path.name for path in three] == [f"owt-{i}.tfrecords" for i in (1, 2, 3)]
    rows = read_examples([one])
    for i, path in enumerate(three):
        assert read_examples([path]) == rows[i::3]


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(tokenizer, tmp_path):
    contents = [
        written(tmp_path / str(i), tokenizer, random_seed=seed).paths[0].read_bytes()
        for i, seed in enumerate((12345, 12345, 12346))
    ]
    assert contents[0] == contents[1] != contents[2]


def test_pieces_of_a_word_are_masked_together(tokenizer, tmp_path):
    rows = read_examples(written(tmp_path, tokenizer, mask_whole_word=True).paths)
    num_pieces = 0
    for row in rows:
        ids = unmasked(row)
        number = int(sum(row["masked_lm_weights"]))
        positions = set(row["masked_lm_positions"][:number])
        for position, token in enumerate(ids):
            if VOCAB[token].startswith("##"):
                # Truncation may have cut the beginning of a word: then its piece is alone.
                if VOCAB[ids[position - 1]].startswith("["):
                    continue
                num_pieces += position in positions
                assert (position in positions) == (position - 1 in positions)
    assert num_pieces > 10


def test_no_temporary_file_stays_and_the_settings_lie_beside_the_records(tokenizer, tmp_path):
    made = written(tmp_path, tokenizer)
    assert sorted(path.name for path in tmp_path.iterdir()) == [DATA_PARAMS, "examples-1.tfrecords"]
    facts = json.loads((tmp_path / DATA_PARAMS).read_text())
    assert facts["n_docs"] == 8
    assert facts["n_examples"] == made.num_examples == len(read_examples(made.paths))
    assert (facts["dupe_factor"], facts["random_seed"]) == (10, 12345)


def test_copies_of_the_data_take_no_memory(tokenizer, tmp_path):
    """Defect P6: the original holds the corpus times dupe_factor as Python objects."""
    peaks = []
    for copies in (2, 42):
        tracemalloc.start()
        made = written(tmp_path, tokenizer, dupe_factor=copies)
        peaks.append((tracemalloc.get_traced_memory()[1], made.num_examples))
        tracemalloc.stop()
    (less, few), (more, many) = peaks
    assert many > 20 * few
    # Two numbers of 8 bytes an example, and twice that while an array grows.
    assert more - less < 40 * (many - few) + 20_000


# ---- Masked words alone --------------------------------------------------------------------------


def tokens_of(tokenizer, lines):
    return [VOCAB[i] for line in lines for i in tokenizer.tokenize([line]).values.numpy()]


@settings(max_examples=15)
@given(st.integers(0, 6), st.integers(10, 30), st.floats(0, 1), st.integers(0, 99))
def test_windows_cover_a_document_and_step_back_by_the_overlap(
    tokenizer, tmp_path_factory, overlap, length, short, seed
):
    keys = {"overlap_size": overlap, "max_sequence_length": length, "short_seq_prob": short}
    keys |= {"disable_masking": True, "dupe_factor": 1, "random_seed": seed}
    lines = document(0)
    folder = tmp_path_factory.mktemp("records")
    rows = read_tokens(written(folder, tokenizer, [lines], records="mlm_only", **keys).paths)
    assert all((row[0], row[-1]) == ("[CLS]", "[SEP]") for row in rows)
    tokens = tokens_of(tokenizer, lines)
    windows = {tuple(row[1:-1]) for row in rows}
    begin = 0
    while True:  # the window that begins here
        size = next(n for n in range(1, length) if tuple(tokens[begin : begin + n]) in windows)
        begin += size
        if begin == len(tokens):
            break
        assert size > overlap
        begin -= overlap


def test_windows_may_go_on_into_the_next_document(tokenizer, tmp_path):
    documents = [document(i, 1) for i in range(5)]  # of 8 tokens each
    keys = {"records": "mlm_only", "disable_masking": True, "dupe_factor": 1, "short_seq_prob": 0.0}
    alone = read_tokens(written(tmp_path, tokenizer, documents, **keys).paths)
    texts = [tokens_of(tokenizer, lines) for lines in documents]
    assert sorted(row[1:-1] for row in alone) == sorted(texts)
    keys["allow_cross_document_examples"] = True
    joined = read_tokens(written(tmp_path, tokenizer, documents, **keys).paths)
    assert len(joined) < 5
    count = sum(len(row) - 2 for row in joined)
    assert count == sum(map(len, texts)) + 4  # a separator between two documents


def test_separators_between_documents_are_not_masked(tokenizer, tmp_path):
    keys = {"records": "mlm_only", "allow_cross_document_examples": True}
    keys |= {"document_separator_token": WORDS[0], "max_predictions_per_seq": 20}
    rows = read_examples(written(tmp_path, tokenizer, masked_lm_prob=0.5, **keys).paths)
    separator = VOCAB.index(WORDS[0])
    assert any(separator in row["input_ids"] for row in rows)
    for row in rows:
        assert set(row) == {
            *("input_ids", "input_mask"),
            *("masked_lm_positions", "masked_lm_ids", "masked_lm_weights"),
        }
        assert separator not in row["masked_lm_ids"]


@pytest.mark.parametrize("keys", [{"overlap_size": 22}, {"min_short_seq_length": 1}])
def test_windows_that_would_not_go_on_are_refused(keys, tokenizer, tmp_path):
    with pytest.raises(UserError, match="overlap_size is"):
        written(tmp_path, tokenizer, records="mlm_only", **({"overlap_size": 4} | keys))


def test_a_vocabulary_without_the_mask_and_a_text_without_words_are_refused(tokenizer, tmp_path):
    with pytest.raises(UserError, match=r"no entry \[MASK\]"):
        written(tmp_path, WordPieceTokenizer([*SPECIAL[:4], *WORDS]))
    with pytest.raises(UserError, match="no word"):
        written(tmp_path, tokenizer, documents=[[], ["  "]])
