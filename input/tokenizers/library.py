# SPDX-License-Identifier: Apache-2.0
"""Text -> token ids by the package tokenizers: byte-level BPE and other vocabularies.

For the token cache. The package is no TensorFlow operation, so that an exported graph cannot have
it: `in_graph` is False, and those exports take ids. WordPiece is `wordpiece.py`.
"""

import hashlib
import json

import numpy as np
import tensorflow as tf

from common.checkpoints.tokenizer_json import ROLES, LibraryVocab
from common.checkpoints.vocab import read_vocab
from common.console import counted
from common.errors import UserError
from common.export.decoders.vocabulary import Library
from input.tokenizers.wordpiece import WordPieceTokenizer

ALGORITHM_VERSION = 1  # part of the fingerprint: raise it with any change that changes an id
MAX_UNKNOWN_SHARE = 0.02
# Of the pieces of byte-level BPE. RoBERTa's file has 3 of 50,003 that no merge makes.
MAX_UNMADE_SHARE = 0.1


def open_tokenizer(vocab_file, do_lower=True):
    """Returns the tokenizer of a vocabulary. Raises UserError as `read_vocab` does.

    do_lower: bool, for WordPiece; other vocabularies say themselves what becomes of a text.
    """
    vocab = read_vocab(vocab_file)
    kind = LibraryTokenizer if isinstance(vocab, LibraryVocab) else WordPieceTokenizer
    return kind(vocab, do_lower, source=vocab_file)


class LibraryTokenizer(Library):
    """Tokenises texts with one tokenizer.json; the interface is that of WordPieceTokenizer, and
    what it knows of words and of rows is that of exports.

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
        UserError: the package cannot read the file, a special token is missing, merges are, no
            piece stands for what is unknown, or rows are not [CLS] A [SEP] B [SEP] in the names of
            this vocabulary.
    """

    in_graph = False

    def __init__(self, vocab, do_lower=True, source="vocabulary"):
        del do_lower
        self.vocab, self.source = vocab, source
        text = json.dumps(vocab.content, sort_keys=True)
        self.fingerprint = hashlib.sha256(f"{ALGORITHM_VERSION}|{text}".encode()).hexdigest()
        self.vocab_size = len(vocab)
        self.do_lower = _lower_cases(vocab.content.get("normalizer"))
        try:
            super().__init__(vocab.content, self.do_lower, vocab)
            self.unk_id = self.id_of(ROLES["unk_token"])
        except ValueError as error:
            raise UserError(f"{source}: {error}") from None
        check_whole(vocab, source)  # now that the package has read all of it

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
            each.ids for each in self.library.encode_batch_fast(texts, add_special_tokens=False)
        ]
        lengths = np.array([len(row) for row in rows], np.int64)
        ids = np.fromiter((i for row in rows for i in row), np.int32, int(lengths.sum()))
        return ids, lengths


def check_whole(vocab, source):
    """Raises UserError where a part of the file is missing without which it can still be read.

    Without its merges, byte-level BPE makes a token of every byte, and the package fails at the
    first character that no entry of a unigram vocabulary has, if no entry stands for it.

    vocab: LibraryVocab; source: names it.
    """
    model = vocab.content["model"]
    if vocab.kind == "Unigram" and type(model.get("unk_id")) is not int:
        raise UserError(
            f"{source}: unk_id of its model is {model.get('unk_id')!r:.40}, where the id of its "
            "unknown piece is wanted; copy or download it again"
        )
    if vocab.kind != "BPE" or model.get("ignore_merges") or model.get("continuing_subword_prefix"):
        return
    merges, added = model.get("merges") or (), vocab.content.get("added_tokens") or ()
    made = {"".join(pair.split(" ") if isinstance(pair, str) else pair) for pair in merges}
    special = {token["content"] for token in added}
    longer = [entry for entry in vocab if len(entry) > 1 and entry not in special]
    missing = [entry for entry in longer if entry not in made]
    if len(missing) > MAX_UNMADE_SHARE * len(longer):
        raise UserError(
            f"{source}: its {counted(len(merges), 'merge')} make {len(longer) - len(missing):,} of "
            f"{len(longer):,} pieces of several bytes, and not {missing[0]!r}; merges are missing, "
            "so copy or download the files of this vocabulary again"
        )


def _lower_cases(normalizer):
    """Whether a normalizer of a tokenizer.json, or one of its parts, lower-cases."""
    if not isinstance(normalizer, dict):
        return False
    parts = normalizer.get("normalizers")
    if isinstance(parts, list):
        return any(map(_lower_cases, parts))
    return normalizer.get("type") == "Lowercase" or normalizer.get("lowercase") is True
