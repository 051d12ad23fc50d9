# SPDX-License-Identifier: Apache-2.0
"""input/tokenizers/wordpiece.py: the ids of Hugging Face's Rust tokenizer, in any graph."""

import hashlib
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import BertWordPieceTokenizer

from common.errors import UserError
from input.tokenizers.unicode_tables import character_tables
from input.tokenizers.wordpiece import ALGORITHM_VERSION, WordPieceTokenizer

# ruff: noqa: RUF001 - letters that look like others are what is tested.
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SMALL_VOCAB = [
    *SPECIAL,
    *("un", "##aff", "##able", "aff", "cafe", "ss", "a", "##a", "b", "##b", "e", "##e", "é", "##é"),
    *("A", "##A", "中", "국", "##국", "ᄀ", "##ᅮ", "##ᆨ", "σ", "##σ", "##ς", "i", "##i", "ß"),
    *("[", "]", "sep", "SEP", "cls", ",", ".", "!", "##!", "$", "€", "##€", "°", "5", "##0"),
    # Entries that no word can hold: they keep their ids and match nothing.
    *("##", "a b", "a!b", "\u2028", "\u00a0", "\u0000", "a\u200bb", "a" * 101, "##" + "b" * 300),
    *("\u0301", "##\u0301", "##\u08d4", "##\u1dfb", "\u302e", "##\u302e", "##\u0f71", "##中"),
]

AWKWARD_LINES = [
    json.loads(line)
    for line in Path(__file__).with_name("awkward_lines.txt").read_text("utf-8").split("\n")
    if line and not line.startswith("#")
]
# The reference makes a word of more than 100 characters [UNK]. It counts characters, not bytes,
# after accents and control characters are gone and Hangul is in its jamo (three each).
LONG_WORDS = [
    *("a" * 99, "a" * 100, "a" * 101, "a" * 1000, "a" * 100 + " a " + "a" * 101 + "!"),
    *("é" * 100, "é" * 101, "e\u0301" * 100, "e\u0301" * 101, "ø" * 100, "ø" * 101),
    *("𝒳" * 100, "𝒳" * 101, "국" * 33, "국" * 34, "中" * 200, "!" * 200, "a-" * 100),
    *("a\u00ad" * 100, "a\u00ad" * 101, "😍" * 150, "b" * 60 + "é" * 40, "b" * 60 + "é" * 41),
    *("a" * 100 + "\u0301", "a" * 101 + "\u0301", "antidisestablishmentarianism" * 4),
]


class Reference:
    """Hugging Face's tokenizer, with literal special tokens as text."""

    def __init__(self, vocab, do_lower):
        ids = {entry: i for i, entry in enumerate(vocab)}
        self.tokenizer = BertWordPieceTokenizer(ids, lowercase=do_lower)
        self.tokenizer._tokenizer.encode_special_tokens = True

    def tokenize(self, texts):
        encodings = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]


def assert_same_ids(tokenizer, reference, texts):
    ids = tokenizer.tokenize(tf.constant(texts, tf.string)).to_list()
    for text, ours, theirs in zip(texts, ids, reference.tokenize(texts), strict=True):
        assert ours == theirs, f"{text!a}: {ours} is not {theirs}"


def tokens_of(tokenizer, text):
    """The vocabulary entries that a text is tokenised to."""
    return [tokenizer.vocab[i] for i in tokenizer.tokenize([text])[0].numpy()]


def with_every_character_of(texts):
    """A vocabulary in which no character of the texts becomes [UNK], in any of its forms."""
    forms = {
        form
        for character in {character for text in texts for character in text}
        for lowered in (character, character.lower())
        for form in (*lowered, *unicodedata.normalize("NFD", lowered))
    }
    return [*SPECIAL, *sorted(forms), *(f"##{form}" for form in sorted(forms))]


@pytest.fixture(scope="module")
def uncased():
    return WordPieceTokenizer(SMALL_VOCAB)


@pytest.fixture(scope="module")
def cased():
    return WordPieceTokenizer(SMALL_VOCAB, do_lower=False)


@pytest.fixture(scope="module")
def vocab_file(shared_dir):
    path = shared_dir / "vocab" / "bert_uncased_vocab.txt"
    if not path.is_file():
        pytest.skip(f"no file {path}")
    return path


@pytest.fixture(scope="module")
def google_uncased(vocab_file):
    return WordPieceTokenizer.from_vocab_file(vocab_file)


# Against the reference


@pytest.mark.parametrize("do_lower", [True, False])
def test_awkward_lines_have_the_ids_of_the_reference(do_lower):
    texts = AWKWARD_LINES + LONG_WORDS
    assert len(AWKWARD_LINES) >= 100
    vocab = with_every_character_of(texts)
    tokenizer = WordPieceTokenizer(vocab, do_lower)
    assert_same_ids(tokenizer, Reference(vocab, do_lower), texts)


def test_awkward_lines_have_the_ids_of_the_reference_with_googles_vocabulary(google_uncased):
    reference = Reference(google_uncased.vocab, do_lower=True)
    assert_same_ids(google_uncased, reference, AWKWARD_LINES + LONG_WORDS)


@pytest.mark.parametrize(
    ("config", "fields", "num_rows"),
    [("sst2", ["sentence"], 67349 + 872 + 1821), ("mnli", ["premise", "hypothesis"], 68617)],
)
def test_all_texts_of_glue_have_the_ids_of_the_reference(
    config, fields, num_rows, google_uncased, shared_dir
):
    folder = shared_dir / "tfds" / "glue" / config / "2.0.0"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}")
    # Read as the record files they are: a tenth of the time that tfds.load takes.
    records = tf.data.TFRecordDataset(sorted(map(str, folder.glob("*.tfrecord*"))))
    features = dict.fromkeys(fields, tf.io.FixedLenFeature([], tf.string))
    rows = [tf.io.parse_example(batch, features) for batch in records.batch(8192)]
    assert sum(len(batch[fields[0]]) for batch in rows) == num_rows  # all splits
    texts = sorted(
        {text.decode() for batch in rows for field in fields for text in batch[field].numpy()}
    )
    reference = Reference(google_uncased.vocab, do_lower=True)
    for start in range(0, len(texts), 8192):
        assert_same_ids(google_uncased, reference, texts[start : start + 8192])


@pytest.mark.parametrize("do_lower", [True, False])
def test_every_character_has_the_ids_of_the_reference(do_lower):
    # Planes 0 to 2 and the assigned part of 14; of the rest, which is empty or private, a sample.
    code_points = {*range(0x30000), *range(0xE0000, 0xE0200), *range(0x30000, 0x110000, 101)}
    characters = [chr(i) for i in sorted(code_points) if not 0xD800 <= i <= 0xDFFF]
    # Of the CJK characters of plane 2, which are treated alike, the vocabulary has none.
    known = [i for i in characters if not "\U00020000" <= i < "\U0002f800"]
    vocab = [*SPECIAL, *known, *(f"##{character}" for character in known)]
    texts = [
        " ".join(f"a{character}b" for character in characters[start : start + 64])
        for start in range(0, len(characters), 64)
    ]
    assert_same_ids(WordPieceTokenizer(vocab, do_lower), Reference(vocab, do_lower), texts)


any_text = st.text(max_size=30)
near_misses = st.text(alphabet=sorted({*"".join(SMALL_VOCAB), *"İΣ½ﬁ각ᄀ\ufffd\t\u1ac0\u0323 "}))
pieces = st.lists(st.sampled_from([*SMALL_VOCAB, " ", "a" * 98]), max_size=12).map("".join)


@pytest.mark.parametrize("do_lower", [True, False])
def test_any_texts_have_the_ids_of_the_reference(do_lower):
    tokenizer = WordPieceTokenizer(SMALL_VOCAB, do_lower)
    reference = Reference(SMALL_VOCAB, do_lower)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(any_text | near_misses | pieces, min_size=1, max_size=20))
    def check(texts):
        assert_same_ids(tokenizer, reference, texts)

    check()


# By hand


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("unaffable", ["un", "##aff", "##able"]),  # longest entry first, from the left
        ("UNaffable, a!", ["un", "##aff", "##able", ",", "a", "!"]),
        ("unaffably a", ["[UNK]", "a"]),  # one word that cannot be cut, not its pieces
        ("Café", ["cafe"]),
        ("cafe\u0301", ["cafe"]),
        ("a中b", ["a", "中", "b"]),
        ("국", ["ᄀ", "##ᅮ", "##ᆨ"]),  # NFD
        ("ΣΣ", ["σ", "##σ"]),  # no final sigma: each letter is lower-cased alone
        ("İ", ["i"]),
        ("ß", ["ß"]),  # lower-cased, not case-folded to ss
        ("½", ["[UNK]"]),  # NFD, not NFKD
        ("$5€50°", ["$", "[UNK]"]),  # $ is ASCII; € and ° are symbols, not punctuation
        ("€ 5€0 °", ["€", "5", "##€", "##0", "°"]),
        ("a\u00adb\u200ba\u0000b", ["a", "##b", "##a", "##b"]),
        ("a\u00a0b\u3000a\u2028b", ["a", "b", "a", "b"]),
        ("a b a!b", ["a", "b", "a", "!", "b"]),  # although "a b" and "a!b" are entries
        ("", []),
        (" \t\n", []),
        ("\u200b", []),
        ("\u0301", []),
        # Marks that are not deleted are put in order of their class (302E: 224, 08D4: 230), also
        # around a deleted one, but not across one of class 0 (0E31).
        ("a\u08d4\u302e", ["a", "##\u302e", "##\u08d4"]),
        ("a\u08d4\u0301\u302e", ["a", "##\u302e", "##\u08d4"]),
        ("a\u08d4\u0e31\u302e", ["a", "##\u08d4", "##\u302e"]),
        (b"ca\xfffe \xe4\xb8", ["cafe"]),  # neither a lone byte nor half a character is text
        (b"\xed\xa0\x80a", ["a"]),  # a surrogate is not UTF-8
    ],
)
def test_uncased_text_is_cut_as_expected(uncased, text, tokens):
    assert tokens_of(uncased, text) == tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("A a", ["A", "a"]),
        ("é e\u0301", ["é", "e", "##\u0301"]),  # accents stay, composed or not
        ("국", ["국"]),
        ("a中\u200b!", ["a", "中", "!"]),
        ("SEP sep", ["SEP", "sep"]),
    ],
)
def test_cased_text_is_cut_as_expected(cased, text, tokens):
    assert tokens_of(cased, text) == tokens


def test_a_literal_special_token_stays_text(uncased, cased):
    assert tokens_of(uncased, "a [SEP] b[CLS]") == ["a", "[", "sep", "]", "b", "[", "cls", "]"]
    assert tokens_of(uncased, "é [SEP]") == ["e", "[", "sep", "]"]
    assert tokens_of(cased, "[SEP]") == ["[", "SEP", "]"]


def test_a_word_over_100_characters_is_unknown(uncased):
    assert tokens_of(uncased, "a" * 100) == ["a"] + 99 * ["##a"]
    assert tokens_of(uncased, "é" * 100) == ["e"] + 99 * ["##e"]
    assert tokens_of(uncased, "a" * 101) == ["[UNK]"]
    assert tokens_of(uncased, "é" * 101) == ["[UNK]"]


def test_neighbours_in_the_batch_leave_a_row_unchanged():
    texts = [*AWKWARD_LINES[::7], "plain", "\ufffd", "", "more of it"]
    tokenizer = WordPieceTokenizer(with_every_character_of(texts))
    together = tokenizer.tokenize(texts).to_list()
    assert together == [tokenizer.tokenize([text]).to_list()[0] for text in texts]
    assert tokenizer.tokenize(texts[::-1]).to_list() == together[::-1]


def test_an_empty_batch_has_no_rows(uncased):
    ids = uncased.tokenize(tf.zeros([0], tf.string))
    assert ids.dtype == tf.int32
    assert ids.to_list() == []


def test_a_batch_of_the_wrong_rank_is_refused(uncased):
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=r"(?i)shape"):
        uncased.tokenize(tf.constant("one text"))


# Inside graphs

TEXTS = ["unaffable cafe", "Café 中 국", "", "a" * 101, "[SEP] \u200b"]


def test_tokenizes_in_a_data_set_whose_position_can_be_saved(uncased, tmp_path):
    dataset = tf.data.Dataset.from_tensor_slices(TEXTS).batch(2).map(uncased.tokenize)
    expected = [ids.to_list() for ids in dataset]
    assert [ids for batch in expected for ids in batch] == uncased.tokenize(TEXTS).to_list()
    iterator = iter(dataset)
    next(iterator)
    path = tf.train.Checkpoint(iterator=iterator).write(str(tmp_path / "position"))
    restored = iter(dataset)
    tf.train.Checkpoint(iterator=restored).read(path)
    assert [ids.to_list() for ids in restored] == expected[1:]


def test_tokenizes_alike_after_saving_and_loading(uncased, tmp_path):
    module = tf.Module()
    module.tokenize = tf.function(
        uncased.tokenize, input_signature=[tf.TensorSpec([None], tf.string)]
    )
    expected = uncased.tokenize(TEXTS).to_list()
    assert module.tokenize(TEXTS).to_list() == expected
    tf.saved_model.save(module, str(tmp_path))
    assert tf.saved_model.load(str(tmp_path)).tokenize(TEXTS).to_list() == expected


def test_the_graph_has_no_python_in_it(uncased):
    traced = tf.function(uncased.tokenize).get_concrete_function(tf.TensorSpec([None], tf.string))
    graph = traced.graph.as_graph_def()
    nodes = [*graph.node, *(node for body in graph.library.function for node in body.node_def)]
    assert nodes
    assert not [node.op for node in nodes if "PyFunc" in node.op]


# Vocabularies


def write_vocab(folder, content):
    path = folder / "vocab.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_vocabulary_file_has_an_entry_a_line(tmp_path):
    path = write_vocab(tmp_path, "[PAD]\n[CLS]\n\u2028\n[SEP]\n[UNK]\nword\n##s\n")
    tokenizer = WordPieceTokenizer.from_vocab_file(path)
    assert tokenizer.vocab == ["[PAD]", "[CLS]", "\u2028", "[SEP]", "[UNK]", "word", "##s"]
    assert tokenizer.vocab_size == 7
    assert (tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.unk_id) == (0, 1, 3, 4)
    assert tokenizer.tokenize(["words!"]).to_list() == [[5, 6, 4]]


def test_line_ends_and_the_last_one_make_no_difference(tmp_path):
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"]
    for content in ("\n".join(entries), "\r\n".join(entries) + "\r\n", " \n".join(entries)):
        path = write_vocab(tmp_path, content)
        assert WordPieceTokenizer.from_vocab_file(path).vocab == entries


GOOD = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"vocab\.txt: it is empty"),
        ("\n\n", r"vocab\.txt: it is empty"),
        ("[PAD]\n[UNK]\n[SEP]\na\n", r"vocab\.txt: 1 entry(.|\n)*no entry \[CLS\]"),
        ("a\nb\n", r"no entry \[PAD\], \[UNK\], \[CLS\], \[SEP\]"),
        (GOOD + "a\nb\na\n", r"vocab\.txt: 1 entry to correct\n  line 7: 'a' is already in line 5"),
        (GOOD, r"no words"),
        (GOOD + "a\n\nb\n", r"line 6: empty"),
        (GOOD + "a\nb\na\nb\n", r"2 entries to correct\n  line 7(.|\n)*  line 8"),
        (GOOD + 30 * "a\n", r"and 9 more"),  # 29 doubled, 20 shown
        ("\ufeff" + GOOD, r"line 1: begins with a byte order mark"),
        (GOOD + "中" * 90 + "\n", r"line 5: over 256 bytes"),
        (GOOD.encode() + b"caf\xe9\n", r"vocab\.txt, line 5: byte 0xe9 is not UTF-8"),
    ],
)
def test_a_vocabulary_file_that_cannot_be_used_is_refused(tmp_path, content, message):
    path = write_vocab(tmp_path, content)
    with pytest.raises(UserError, match=message):
        WordPieceTokenizer.from_vocab_file(path)


def test_a_missing_vocabulary_file_is_refused_with_the_key_to_set(tmp_path):
    with pytest.raises(UserError, match=r"none\.txt: no such vocabulary file; set vocab_file"):
        WordPieceTokenizer.from_vocab_file(tmp_path / "none.txt")


def test_a_list_is_checked_like_a_file():
    with pytest.raises(UserError, match=r"vocabulary: 1 entry to correct(.|\n)*no entry \[SEP\]"):
        WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "a"])


@pytest.mark.skipif(unicodedata.unidata_version != "14.0.0", reason="of Python 3.11's Unicode")
def test_other_tables_of_characters_need_another_algorithm_version():
    """The fingerprint has the version in place of the tables, which take a second to build."""
    digest = hashlib.sha256()
    for do_lower in (True, False):
        for table in character_tables(do_lower):
            digest.update(table.astype("<i4").tobytes())
    tables = {1: "256a51295408f9532c497a0b2e795e03651703df05c15e3002d8b65e24f16aeb"}
    assert tables[ALGORITHM_VERSION] == digest.hexdigest()


def test_the_fingerprint_tells_what_decides_the_ids(uncased, cased, tmp_path, monkeypatch):
    vocab = [*SPECIAL, "word"]
    path = write_vocab(tmp_path, "\n".join(vocab))
    same = WordPieceTokenizer.from_vocab_file(path).fingerprint
    assert same == WordPieceTokenizer(vocab).fingerprint
    assert len(same) == 64
    others = [WordPieceTokenizer(vocab[::-1]).fingerprint, uncased.fingerprint, cased.fingerprint]
    monkeypatch.setattr("input.tokenizers.wordpiece.ALGORITHM_VERSION", 2)
    others.append(WordPieceTokenizer(vocab).fingerprint)
    assert len({same, *others}) == 5


# ---- Case of vocabulary and texts ----------------------------------------------------------------

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused1]"]


def test_entries_that_no_lower_cased_text_contains_are_told():
    vocab = [*SPECIAL, "Paris", "##É", "paris", "ß"]
    tokenizer = WordPieceTokenizer(vocab, source="vocab.txt")
    (note,) = tokenizer.notes_on_case(np.array([8, 8, 9]))
    assert note.startswith("2 of 10 entries of vocab.txt have capital letters or accents")
    assert "write do_lower: false" in note
    assert WordPieceTokenizer(vocab, do_lower=False).notes_on_case(np.array([8])) == []


def test_more_than_two_in_a_hundred_unknown_tokens_are_told():
    ids = np.array([6] * 98 + [1] * 2)
    cased = WordPieceTokenizer([*SPECIAL, "paris"], do_lower=False)
    assert cased.notes_on_case(ids) == []
    (note,) = cased.notes_on_case(np.append(ids, [1, 1]))  # 4 of 102
    assert note.startswith("3.9% of the tokens are [UNK]") and "write do_lower: true" in note
    (note,) = WordPieceTokenizer([*SPECIAL, "paris"]).notes_on_case(np.array([1]))
    assert note.startswith("100.0% of the tokens") and "that the weights were trained with" in note


def test_googles_vocabulary_is_reachable_as_a_whole_where_texts_are_lower_cased(google_uncased):
    assert google_uncased.num_unreachable == 0
