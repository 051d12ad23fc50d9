# SPDX-License-Identifier: Apache-2.0
"""input/tokenizers/train.py: the merges of the paper's algorithm, the same every time."""

import itertools
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers, trainers

from common.errors import UserError
from common.params.vocabulary import SPECIAL_TOKENS, WORDPIECE, TrainerParams
from input.tokenizers import train
from input.tokenizers.train import train_vocabulary

ROOT = Path(__file__).resolve().parents[3]
SAMPLE = ROOT / "input" / "samples" / "sst2_train.tsv"
SPECIAL = [*SPECIAL_TOKENS[WORDPIECE]]


def entries_of(words, **keys):
    keys = {"num_unused": 0, "min_frequency": 1, "vocab_size": 60} | keys
    return train_vocabulary(Counter(words), TrainerParams(**keys)).entries


def merges_by_counting(words, num_merges, min_frequency):
    """Sennrich et al. 2016, algorithm 1, with ## as BERT has it: the entries, by counting all pairs
    again after each merge. Of equally frequent pairs the one with the smaller ids is merged."""
    pieces = {word: [word[0], *(f"##{c}" for c in word[1:])] for word in words}
    alphabet = sorted({c for word in words for c in word})
    entries = alphabet + [f"##{c}" for c in sorted({c for word in words for c in word[1:]})]
    while num_merges:
        counts = Counter()
        for word, parts in pieces.items():
            for pair in itertools.pairwise(parts):
                counts[pair] += words[word]
        if not counts:
            break
        order = {pair: [entries.index(piece) for piece in pair] for pair in counts}
        pair = min(counts, key=lambda each: (-counts[each], order[each]))
        if counts[pair] < min_frequency:
            break
        joined = pair[0] + pair[1].removeprefix("##")
        if joined not in entries:
            entries.append(joined)
            num_merges -= 1
        for parts in pieces.values():
            i = 0
            while i < len(parts) - 1:
                if (parts[i], parts[i + 1]) == pair:
                    parts[i : i + 2] = [joined]
                i += 1
    return entries


def test_the_words_of_the_paper_give_its_merges_by_hand():
    words = {"low": 5, "lower": 2, "newest": 6, "widest": 3}  # Sennrich et al. 2016
    # e,s 9; es,t 9; l,o 7; lo,w 7; then n,e 6 before e,w 6 and w,est 6: n has the smallest id.
    merged = ["##es", "##est", "lo", "low", "ne"]
    entries = entries_of(words, vocab_size=5 + 10 + 8 + 5)
    assert entries == [*SPECIAL, *"deilnorstw", *(f"##{c}" for c in "deiorstw"), *merged]


@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=9), st.integers(1, 9), min_size=1),
    st.integers(1, 40),
    st.integers(1, 5),
)
@settings(max_examples=80)
def test_entries_are_those_of_the_algorithm_that_counts_all_pairs_again(words, size, least):
    room = 2 * len({c for word in words for c in word})
    ours = entries_of(words, vocab_size=5 + room + size, min_frequency=least)
    continuing = {c for word in words for c in word[1:]}
    first = len({c for word in words for c in word}) + len(continuing)
    expected = merges_by_counting(words, room + size - first, least)
    assert ours == SPECIAL + expected


def test_a_pair_rarer_than_min_frequency_stays_two_pieces():
    assert "ab" in entries_of({"ab": 2, "cd": 3}, min_frequency=2)
    assert "ab" not in entries_of({"ab": 2, "cd": 3}, min_frequency=3)


def test_byte_bpe_has_every_byte_and_merges_across_the_bytes_of_a_character():
    words = {"\u00c3\u00a9t": 5, "\u0120\u00c3\u00a9": 4}  # é as two bytes, as ByteLevel writes it
    params = TrainerParams(algorithm="byte_bpe", vocab_size=5 + 256 + 2, min_frequency=1)
    trained = train_vocabulary(Counter(words), params)
    assert trained.entries[:5] == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    assert sorted(trained.entries[5:261]) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert trained.entries[261:] == ["\u00c3\u00a9", "\u00c3\u00a9t"]  # 9 times, 5 times
    assert trained.merges == [("\u00c3", "\u00a9"), ("\u00c3\u00a9", "t")]


HASH = """
import hashlib
from input.tokenizers.tokenizer import Tokenizer

for algorithm in ("wordpiece", "byte_bpe"):
    files = ["input/samples/sst2_*.tsv"]
    keys = {"algorithm": algorithm, "vocab_size": 4000}
    tokenizer = Tokenizer.train(files=files, text_columns=["sentence"], **keys)
    print(hashlib.sha256(str(sorted(tokenizer.files().items())).encode()).hexdigest())
"""


def test_every_process_makes_the_same_files_with_any_number_of_threads():
    digests = set()
    for threads in ("1", "2", "2"):  # each with its own seed of Python's and Rust's hashes
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": "random"}
        command = [sys.executable, "-c", HASH]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout)
    assert len(digests) == 1


def test_the_entries_are_those_of_the_packages_own_trainer_but_for_ties():
    from input.tokenizers.tokenizer import Tokenizer

    lines = SAMPLE.read_text("utf-8").splitlines()
    theirs = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    theirs.normalizer = normalizers.BertNormalizer(lowercase=True)
    theirs.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=1500, min_frequency=2, special_tokens=SPECIAL, show_progress=False
    )
    theirs.train_from_iterator(lines, trainer)
    ours = Tokenizer.train(texts=lines, vocab_size=1500, num_unused=0)
    # The least frequent ones of many that are as frequent are chosen by chance there.
    assert len(theirs.get_vocab().keys() - set(ours.entries)) <= 30


def test_entries_stand_where_bert_has_them():
    entries = entries_of({"ab": 1}, num_unused=994, vocab_size=1002)
    assert entries[:2] == ["[PAD]", "[unused0]"]
    assert entries[99:105] == ["[unused98]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused99]"]
    assert entries[998:] == ["[unused993]", "a", "b", "##b"]  # as in bert-base-uncased
    few = entries_of({"ab": 1}, num_unused=2)
    assert few[:5] == ["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]"]
    more = entries_of({"ab": 1}, special_tokens=["[PAD]", *SPECIAL[1:], "[DOC]"])
    assert more[4:6] == ["[MASK]", "[DOC]"]


def test_a_limited_alphabet_keeps_the_most_frequent_characters_and_leaves_words_with_others_out():
    params = TrainerParams(limit_alphabet=2, num_unused=0, min_frequency=1, vocab_size=10)
    trained = train_vocabulary(Counter({"ab": 5, "azb": 4, "b": 1}), params)  # b 10, a 9, z 4
    assert trained.entries[5:] == ["a", "b", "##b", "ab"]
    assert "1 rarest character, 17.3913% of all" in trained.notes[0]  # 4 of 23
    assert "4" not in trained.notes[0][:20] and "9 entries, not 10" in trained.notes[1]


def test_counts_beyond_32_bits_are_divided(monkeypatch):
    words = {"ab": 10, "cd": 6, "ef": 2}
    monkeypatch.setattr(train, "MAX_COUNT", 4)
    trained = train_vocabulary(
        Counter(words), TrainerParams(num_unused=0, min_frequency=2, vocab_size=90)
    )
    assert {"ab", "cd"} <= set(trained.entries)
    assert "ef" not in trained.entries  # 2 of 10 are less than one after the division by 3
    assert "divided by 3" in trained.notes[0]


def test_a_size_below_the_alphabet_is_refused_with_the_least_that_would_do():
    with pytest.raises(UserError, match=r"vocab_size is 7, .*3 entries, .*are 5; write 8 or more"):
        entries_of({"ab": 3}, vocab_size=7)
    with pytest.raises(UserError, match="write 261 or more"):
        params = TrainerParams(algorithm="byte_bpe", vocab_size=260)
        train_vocabulary(Counter({"ab": 3}), params)


def test_texts_without_words_are_refused():
    with pytest.raises(UserError, match="no words"):
        entries_of({})
