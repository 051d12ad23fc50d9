# SPDX-License-Identifier: Apache-2.0
"""Text -> token ids by the package tokenizers: byte-level BPE and other vocabularies.

For the token cache. The package is no TensorFlow operation, so that an exported graph cannot have
it: `in_graph` is False, and those exports take ids. WordPiece is `wordpiece.py`.
"""

import hashlib
import json

import numpy as np
import tensorflow as tf
import tokenizers

from common.checkpoints.tokenizer_json import ROLES, LibraryVocab
from common.checkpoints.vocab import read_vocab
from common.errors import UserError
from input.tokenizers.entries import CONTINUATION
from input.tokenizers.wordpiece import WordPieceTokenizer

ALGORITHM_VERSION = 1  # part of the fingerprint: raise it with any change that changes an id
MAX_UNKNOWN_SHARE = 0.02
BLANK = " "


def open_tokenizer(vocab_file, do_lower=True):
    """Returns the tokenizer of a vocabulary. Raises UserError as `read_vocab` does.

    do_lower: bool, for WordPiece; other vocabularies say themselves what becomes of a text.
    """
    vocab = read_vocab(vocab_file)
    kind = LibraryTokenizer if isinstance(vocab, LibraryVocab) else WordPieceTokenizer
    return kind(vocab, do_lower, source=vocab_file)


class LibraryTokenizer:
    """Tokenises texts with one tokenizer.json; the interface is that of WordPieceTokenizer.

    The ids are those of transformers on any text, with two exceptions, which are WordPiece's, too:
    a literal special token such as "</s>" in a text stays text, and bytes that are not UTF-8 are
    dropped.

    Args:
        vocab: LibraryVocab.
        do_lower: bool. Not used: the file says it.
        source: str or Path, names the vocabulary in an error.
    Attributes:
        vocab, source: the arguments.
        do_lower: bool, whether the file lower-cases texts.
        vocab_size: int, number of entries.
        pad_id, unk_id, cls_id, sep_id: int, ids of the special tokens.
        num_between: int, how many tokens of sep_id stand between the two texts of a row.
        in_graph: False.
        fingerprint: str, SHA-256 of everything the ids depend on. Equal fingerprint, equal ids.
    Raises:
        UserError: the package cannot read the file, a special token is missing, or rows are not
            [CLS] A [SEP] B [SEP] in the names of this vocabulary.
    """

    in_graph = False

    def __init__(self, vocab, do_lower=True, source="vocabulary"):
        del do_lower
        self.vocab, self.source = vocab, source
        text = json.dumps(vocab.content, sort_keys=True)
        self.fingerprint = hashlib.sha256(f"{ALGORITHM_VERSION}|{text}".encode()).hexdigest()
        try:
            library = tokenizers.Tokenizer.from_str(json.dumps(vocab.content))
        except Exception as error:  # the package raises no narrower class
            raise UserError(f"{source}: the package tokenizers cannot read it: {error}") from None
        library.no_padding()
        library.no_truncation()
        library.encode_special_tokens = True  # a literal "</s>" in a text is text
        self._library = library
        added = vocab.content.get("added_tokens") or ()
        self._special = {token["content"] for token in added if token.get("special")}
        self.vocab_size = len(vocab)
        self.do_lower = _lower_cases(vocab.content.get("normalizer"))
        # In byte-level BPE the blank before a word is a part of its first piece.
        self._needs_blank = (
            library.encode("a", add_special_tokens=False).ids
            != library.encode(" a", add_special_tokens=False).ids
        )
        single, pair = (library.encode(*texts).ids for texts in (("",), ("", "")))
        is_known = len(single) == 2 and len(pair) in (3, 4) and set(pair[1:]) == {single[1]}
        if not is_known or pair[0] != single[0]:
            raise UserError(
                f"{source}: it puts {len(single)} special tokens around a text and {len(pair)} "
                "around a pair, where rows are [CLS] A [SEP] and [CLS] A [SEP] B [SEP]; take the "
                "tokenizer of a BERT, RoBERTa or another encoder"
            )
        self.cls_id, self.sep_id = single
        self.num_between = len(pair) - 2
        self.pad_id, self.unk_id = (self._id_of(role) for role in ("pad_token", "unk_token"))

    def _id_of(self, role):
        names = ROLES[role]
        token = next((name for name in names if name in self.vocab), None)
        if token is None:
            raise UserError(f"{self.source}: it has no {' or '.join(names)} among its tokens")
        return self.vocab.index(token)

    def notes_on_case(self, ids):
        """What suggests that vocabulary and texts do not belong together: list of sentences.

        ids: <int32>[N], tokens of the texts.
        """
        share = np.mean(ids == self.unk_id) if len(ids) else 0.0
        if share <= MAX_UNKNOWN_SHARE:
            return []
        return [
            f"{share:.1%} of the tokens are {self.vocab[self.unk_id]}, what cannot be made of the "
            f"{self.vocab_size:,} entries of {self.source}; give the vocabulary that the weights "
            "were trained with"
        ]

    def tokenize(self, texts):
        """Tokenises texts, without special tokens. Runs eagerly and in a graph, but not saved.

        texts: <string>[N], UTF-8. Invalid bytes are dropped.
        Returns <int32>[N, (tokens)] ragged; an empty text is an empty row.
        """
        with tf.device("/cpu:0"):
            ids, lengths = tf.numpy_function(
                self._encode, [texts], [tf.int32, tf.int64], stateful=False
            )
            ids, lengths = tf.ensure_shape(ids, [None]), tf.ensure_shape(lengths, [None])
            return tf.RaggedTensor.from_row_lengths(ids, lengths, validate=False)

    traced = tokenize  # one call of Python either way

    def _encode(self, texts):
        """object [N] of bytes -> int32 [sum of lengths], int64 [N]."""
        texts = [text.decode("utf-8", "ignore") for text in texts]
        rows = [
            each.ids for each in self._library.encode_batch_fast(texts, add_special_tokens=False)
        ]
        lengths = np.array([len(row) for row in rows], np.int64)
        ids = np.fromiter((i for row in rows for i in row), np.int32, int(lengths.sum()))
        return ids, lengths

    @property
    def mask_token(self):
        """str, what stands in the place of a word to predict; None where there is none."""
        return next((name for name in ROLES["mask_token"] if name in self.vocab), None)

    @property
    def mask_takes_blank(self):
        """Whether the blank before mask_token is a part of it, as RoBERTa has it."""
        added = self.vocab.content.get("added_tokens") or ()
        return any(each["content"] == self.mask_token and each["lstrip"] for each in added)

    def is_special(self, token):
        """Whether a token of the vocabulary is no part of a text."""
        return token in self._special

    def normalized(self, text):
        """Returns a text as its pieces spell it, but for its blanks."""
        normalizer = self._library.normalizer
        return text if normalizer is None else normalizer.normalize_str(text)

    def word_pieces(self, ids):
        """Returns tokens as WordPiece spells them, "##" before what continues a word: list of str.

        ids: list of int, of words that are separated by blanks. A piece whose bytes are a part of a
        character has U+FFFD in their place.
        """
        decode = self._library.decoder.decode
        # Behind another piece, since the first of a text may lose its blank.
        pieces = [decode(["a", self.vocab[i]]).removeprefix("a") for i in ids]
        return [
            piece.removeprefix(BLANK) if n == 0 or piece.startswith(BLANK) else CONTINUATION + piece
            for n, piece in enumerate(pieces)
        ]

    def in_sentence(self, words, is_first_bare=False):
        """Returns the words of a text as `tokenize` is to be given them: list of str.

        A blank belongs to the word after it. is_first_bare: bool. The first word begins the text;
        else it has a blank, too, as transformers' `is_split_into_words` with `add_prefix_space`.
        """
        if not self._needs_blank:
            return list(words)
        return [word if is_first_bare and i == 0 else BLANK + word for i, word in enumerate(words)]


def _lower_cases(normalizer):
    """Whether a normalizer of a tokenizer.json, or one of its parts, lower-cases."""
    if not isinstance(normalizer, dict):
        return False
    parts = normalizer.get("normalizers")
    if isinstance(parts, list):
        return any(map(_lower_cases, parts))
    return normalizer.get("type") == "Lowercase" or normalizer.get("lowercase") is True
