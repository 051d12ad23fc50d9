# SPDX-License-Identifier: Apache-2.0
"""Text -> token ids: BERT's WordPiece as TensorFlow operations.

The token cache tokenises data sets with it, and an exported model a user's texts: the same graph,
without Python, so that it can be saved and run in parallel.

The reference is Hugging Face's `tokenizers.BertWordPieceTokenizer` (Rust, 0.23), which follows
google-research/bert tokenization.py. The ids are equal on any text, with two exceptions: a literal
"[SEP]" in a text stays text, and bytes that are not UTF-8 are dropped.

1. Clean up: delete control characters, turn white space into spaces, split off CJK characters.
2. Uncased only: decompose (NFD), delete nonspacing marks (accents), lower-case.
3. Split into words at spaces and around each punctuation character.
4. Cut each word into the longest vocabulary entries from the left; a word that cannot be cut, or
   is longer than 100 characters, becomes [UNK].

Plain ASCII rows (nearly all English text) use tensorflow-text's fused operation. It differs from
the reference outside ASCII (case folding, white space, newer punctuation), so all other rows look
up their characters in `unicode_tables.py`.
"""

import functools
import hashlib
import json
import re
import unicodedata

import numpy as np
import tensorflow as tf

from common.checkpoints.tokenizer_json import LibraryVocab
from common.checkpoints.vocab import read_vocab
from common.errors import UserError
from common.platform.tf_private import fast_wordpiece_tokenizer
from input.tokenizers.entries import CLS, CONTINUATION, MASK, MAX_WORD_CHARACTERS, PAD, SEP, UNK
from input.tokenizers.unicode_tables import (
    ALONE,
    CODE_POINT,
    COMBINING,
    COUNTS,
    MARK,
    PAGE_SIZE,
    REMOVED,
    SPACES,
    character_tables,
)

ALGORITHM_VERSION = 1  # part of the fingerprint: raise it with any change that changes an id
MAX_ENTRY_BYTES = 256  # limit of tensorflow-text's trie
# BERT's uncased vocabulary has none that is unreachable.
MAX_UNREACHABLE_SHARE = 0.01
MAX_UNKNOWN_SHARE = 0.02
TOO_LONG = "a" * (4 * MAX_WORD_CHARACTERS + 1)  # over the byte limit of the trie: always [UNK]


class WordPieceTokenizer:
    """Tokenises texts with one WordPiece vocabulary.

    Args:
        vocab: list of str, the entry of each id, with [PAD], [UNK], [CLS] and [SEP].
        do_lower: bool. True for an uncased vocabulary: lower-case and without accents.
        source: str or Path, names the vocabulary in an error.
    Attributes:
        vocab, do_lower, source: the arguments.
        vocab_size: int, number of entries.
        pad_id, unk_id, cls_id, sep_id: int, ids of the special tokens.
        num_between, in_graph, mask_token, mask_takes_blank: as of LibraryTokenizer.
        fingerprint: str, SHA-256 of everything the ids depend on. Equal fingerprint, equal ids.
    Raises:
        UserError: an entry is empty, doubled or too long, or a special token is missing.
    """

    num_between, in_graph = 1, True
    mask_token, mask_takes_blank = MASK, False

    def __init__(self, vocab, do_lower=True, source="vocabulary"):
        self.vocab = list(vocab)
        self.do_lower = bool(do_lower)
        self.source = source
        _check_entries(self.vocab, source)
        self.vocab_size = len(self.vocab)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id = (
            self.vocab.index(token) for token in (PAD, UNK, CLS, SEP)
        )
        self.fingerprint = _fingerprint(self.vocab, self.do_lower)
        self._is_ready = False

    @classmethod
    def from_vocab_file(cls, path, do_lower=True):
        """Reads a vocabulary, as `read_vocab` does; its entries are checked, too."""
        vocab = read_vocab(path)
        if isinstance(vocab, LibraryVocab):
            raise UserError(f"{path}: its model is {vocab.kind!r}, where WordPiece is wanted")
        return cls(vocab, do_lower, source=path)

    @functools.cached_property
    def num_unreachable(self):
        """Number of entries that no text can contain, because it is lower-cased. Takes 30 ms."""
        bodies = [_body(entry) for entry in self.vocab if not re.fullmatch(r"\[.+\]", entry)]
        return sum(_lower(body) != body for body in bodies) if self.do_lower else 0

    def notes_on_case(self, ids):
        """What suggests that vocabulary and texts are of different case: list of sentences.

        ids: <int32>[N], tokens of the texts.
        """
        notes, size = [], f"{self.vocab_size:,} entries of {self.source}"
        if self.num_unreachable > MAX_UNREACHABLE_SHARE * self.vocab_size:
            notes.append(
                f"{self.num_unreachable:,} of {size} have capital letters or accents, which "
                "do_lower: true removes from every text; if the vocabulary is cased, write "
                "do_lower: false"
            )
        share = np.mean(ids == self.unk_id) if len(ids) else 0.0
        if share > MAX_UNKNOWN_SHARE:
            has_capitals = any(_lower(entry) != entry for entry in self.vocab if "[" not in entry)
            advice = "give the vocabulary that the weights were trained with"
            if not self.do_lower and not has_capitals:
                advice = "none of them has a capital letter, so write do_lower: true"
            notes.append(
                f"{share:.1%} of the tokens are {UNK}, words that cannot be made of the {size}; "
                f"{advice}"
            )
        return notes

    def _prepare(self):
        """Builds the tables and tries of `tokenize`, unless all tokens come from the cache.

        Import, tables and tries take half a second.
        """
        if self._is_ready:
            return
        make_trie = functools.partial(
            fast_wordpiece_tokenizer(),
            _without_unreachable(self.vocab),
            suffix_indicator=CONTINUATION,
            unknown_token=UNK,
            token_out_type=tf.int32,
        )
        with tf.init_scope(), tf.device("/cpu:0"):  # string operations exist on the CPU only
            tables = character_tables(self.do_lower)
            self._pages, self._records, self._pool = map(tf.constant, tables)
            size = MAX_WORD_CHARACTERS  # in ASCII a character is a byte, UTF-8 takes up to four
            self._ascii_trie = make_trie(max_bytes_per_word=size)
            self._word_trie = make_trie(max_bytes_per_word=4 * size, no_pretokenization=True)
        self._is_ready = True

    def tokenize(self, texts):
        """Tokenises texts, without special tokens. Runs eagerly and in a graph.

        texts: <string>[N], UTF-8. Invalid bytes are dropped.
        Returns <int32>[N, (tokens)] ragged; a text without words is an empty row.
        """
        self._prepare()
        with tf.device("/cpu:0"):
            texts = tf.ensure_shape(tf.convert_to_tensor(texts, tf.string), [None])
            is_plain = tf.strings.regex_full_match(texts, r"[\t\n\r -~]*")
            plain = tf.where(is_plain)[:, 0]  # [rows of plain ASCII]
            other = tf.where(~is_plain)[:, 0]  # [all other rows]
            plain_texts = tf.gather(texts, plain)
            plain_texts = tf.strings.lower(plain_texts) if self.do_lower else plain_texts
            ids = [
                self._ascii_trie.tokenize(plain_texts),
                self._tokenize_unicode(tf.gather(texts, other)),
            ]
            row = tf.concat([plain, other], axis=0)
            return tf.gather(tf.concat(ids, axis=0), tf.argsort(row))  # [N, (tokens)]

    @functools.cached_property
    def traced(self):
        """`tokenize` as a tf.function, which is traced once, in 0.4 s."""
        self._prepare()
        texts = tf.TensorSpec([None], tf.string)
        # AutoGraph would take another second to convert tensorflow-text.
        return tf.function(self.tokenize, input_signature=[texts], autograph=False)

    @staticmethod
    def is_special(token):
        """Whether a token of the vocabulary is no part of a text, as [PAD] or [unused7]."""
        return len(token) > 2 and token[0] == "[" and token[-1] == "]"

    def in_sentence(self, words, is_first_bare=False):
        """Returns the words of a text as `tokenize` is to be given them: as they are."""
        del is_first_bare
        return words

    def _tokenize_unicode(self, texts):
        """texts: <string>[N], any bytes. Returns <int32>[N, (tokens)]."""
        # A space before each row keeps words and runs of marks from crossing into the next row.
        texts = tf.strings.join([" ", texts])
        code_points = tf.strings.unicode_decode(texts, "UTF-8", errors="replace")  # [N, (C)]
        characters, row = self._normalize(code_points.values, code_points.value_rowids())
        words, row = _split_words(characters, row)
        words = tf.RaggedTensor.from_value_rowids(
            words, row, nrows=code_points.nrows(), validate=False
        )  # [N, (words)]
        return self._word_trie.tokenize(words).merge_dims(1, 2)  # [N, (tokens)]

    def _normalize(self, code_points, row):
        """Steps 1 and 2: cleaned, decomposed, without marks, lower-cased.

        <int32>[C] code points of all rows, <int64>[C] the row of each -> <int32>[K] packed
        characters, <int64>[K] their rows.
        """
        page = tf.gather(self._pages, code_points // PAGE_SIZE)
        record = tf.gather(self._records, page * PAGE_SIZE + code_points % PAGE_SIZE)
        start, count = record // COUNTS, record % COUNTS
        pieces = tf.ragged.range(start, start + count)  # [C, (0..4)], places in the pool
        source = pieces.value_rowids()
        # The pool has differences to the code point, so that unchanged characters share a record.
        characters = tf.gather(self._pool, pieces.values) + tf.gather(code_points, source)
        row = tf.gather(row, source)
        if not self.do_lower:
            return characters, row
        characters = _order_marks(characters)
        no_marks = tf.where(~_has(characters, MARK))[:, 0]
        return tf.gather(characters, no_marks), tf.gather(row, no_marks)


def _has(characters, flag):
    """characters: <int32>[K], packed. Returns <bool>[K]."""
    return tf.bitwise.bitwise_and(characters, flag) != 0


def _order_marks(characters):
    """Unicode's canonical ordering of <int32>[K] packed characters: sorts each run of marks by
    combining class, stably."""
    combining = tf.cast(characters // COMBINING, tf.int64)

    def sort():
        run = tf.cumsum(tf.cast(combining == 0, tf.int64))
        return tf.gather(characters, tf.argsort(run * 256 + combining, stable=True))

    is_disordered = (combining[1:] > 0) & (combining[1:] < combining[:-1])
    return tf.cond(tf.reduce_any(is_disordered), sort, lambda: characters)


def _split_words(characters, row):
    """Step 3.

    <int32>[K] packed characters of all rows, of which each begins with a space, <int64>[K] the row
    of each -> <string>[W] words in UTF-8, TOO_LONG for those over MAX_WORD_CHARACTERS, <int64>[W]
    their rows.
    """
    code_points = tf.bitwise.bitwise_and(characters, CODE_POINT)
    is_space = code_points == ord(" ")
    is_alone = _has(characters, ALONE)
    follows_end = tf.concat([[True], (is_space | is_alone)[:-1]], axis=0)
    starts_word = ~is_space & (is_alone | follows_end)
    word = tf.cumsum(tf.cast(starts_word, tf.int64)) - 1  # [K], the word of each character
    row_of_word = tf.boolean_mask(row, starts_word)  # [W]
    in_words = tf.where(~is_space)[:, 0]
    words = tf.RaggedTensor.from_value_rowids(
        tf.gather(code_points, in_words),
        tf.gather(word, in_words),
        nrows=tf.size(row_of_word, tf.int64),
        validate=False,
    )  # [W, (characters)]
    is_too_long = words.row_lengths() > MAX_WORD_CHARACTERS
    words = tf.where(is_too_long, TOO_LONG, tf.strings.unicode_encode(words, "UTF-8"))
    return words, row_of_word


def _check_entries(vocab, source):
    """Raises one UserError that lists all faults. source: str or Path, names the vocabulary."""
    if not any(vocab):
        raise UserError(f"{source}: it is empty; a vocabulary has one entry per line.")
    first_line = {}
    faults = []
    for line, entry in enumerate(vocab, start=1):
        if not entry:
            faults.append(f"line {line}: empty; remove the line or restore its entry")
        elif entry in first_line:
            faults.append(f"line {line}: {entry!r} is already in line {first_line[entry]}")
        elif len(_body(entry).encode()) > MAX_ENTRY_BYTES and _is_reachable(entry):
            faults.append(f"line {line}: over {MAX_ENTRY_BYTES} bytes; {entry[:20]!r}...")
        first_line.setdefault(entry, line)
    if vocab[0].startswith("\ufeff"):
        faults.append("line 1: begins with a byte order mark; save the file without one")
    advice = "take the vocab.txt of a BERT checkpoint"
    missing = [token for token in (PAD, UNK, CLS, SEP) if token not in first_line]
    if missing:
        faults.append(f"no entry {', '.join(missing)}; {advice}")
    if not any(_body(entry).isalnum() for entry in vocab):
        faults.append(f"no words, only special tokens and punctuation; {advice}")
    if faults:
        shown = [f"  {fault}" for fault in faults[:20]]
        if len(faults) > len(shown):
            shown.append(f"  and {len(faults) - len(shown)} more")
        count = f"{len(faults)} entr{'y' if len(faults) == 1 else 'ies'} to correct"
        raise UserError("\n".join([f"{source}: {count}", *shown]))


def _body(entry):
    """Returns an entry without the prefix of a continuation."""
    return entry.removeprefix(CONTINUATION)


def _lower(text):
    """The text in lower case and without accents, as a tokenizer with do_lower makes it."""
    if text.isascii():
        return text.lower()
    parts = unicodedata.normalize("NFD", text)
    return "".join(part.lower() for part in parts if unicodedata.category(part) != "Mn")


def _is_reachable(entry):
    """Whether a word can contain the entry: not too long, no characters that words never have."""
    body = _body(entry)
    return len(body) <= MAX_WORD_CHARACTERS and not _never_in_words().search(body)


@functools.cache
def _never_in_words():
    """Returns the pattern of characters that are removed or that separate words."""
    spans = [f"\\U{span[0]:08x}-\\U{span[-1]:08x}" for span in (*REMOVED, *SPACES)]
    return re.compile(f"[{''.join(spans)}]")


def _without_unreachable(vocab):
    """Replaces entries that no word can contain by entries that match nothing.

    The tries would match white space in an entry, and cannot be built with NUL or a long entry.
    """
    # The clean-up deletes U+FFFD from every text.
    return [entry if _is_reachable(entry) else f"\ufffd{i}" for i, entry in enumerate(vocab)]


def _fingerprint(vocab, do_lower):
    """Returns the SHA-256, hexadecimal, of vocabulary, settings and Unicode version."""
    settings = {
        "algorithm_version": ALGORITHM_VERSION,
        "do_lower": do_lower,
        "max_word_characters": MAX_WORD_CHARACTERS,
        "unicode": unicodedata.unidata_version,
        "vocab": vocab,
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
