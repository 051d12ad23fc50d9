# SPDX-License-Identifier: Apache-2.0
"""Tokenizer: a vocabulary with its algorithm; trained, kept in a folder, text to ids and back.

    tokenizer = Tokenizer.train(files=["corpus/*.txt"], vocab_size=8000)
    tokenizer.save("vocab")
    tokenizer = Tokenizer.from_dir("vocab")
    encoding = tokenizer.encode("A new sentence.")  # encoding.ids, .tokens, .offsets
    tokenizer.decode(encoding.ids)

The package tokenizers does the work, without TensorFlow. In the graph of a network, WordPiece is
`wordpiece.py`, which gives the same ids.

A folder has vocab.txt (WordPiece) or vocab.json and merges.txt (byte-level BPE), and besides them
tokenizer.json and tokenizer_config.json, which transformers reads.
"""

import json
from pathlib import Path

import tokenizers
from pydantic import ValidationError
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from common.checkpoints.tokenizer_json import NAME, bert_tokenizer_config
from common.checkpoints.vocab import read_vocab
from common.errors import UserError
from common.files import write_whole
from common.params.vocabulary import BYTE_BPE, SPECIAL_TOKENS, WORDPIECE, TrainerParams
from input.sources.texts import GivenTexts, TextFiles
from input.tokenizers.entries import CLS, CONTINUATION, MAX_WORD_CHARACTERS, SEP, UNK
from input.tokenizers.train import train_vocabulary
from input.tokenizers.words import count_byte_words, count_words

VOCAB_TXT, VOCAB_JSON, MERGES, CONFIG = (
    *("vocab.txt", "vocab.json", "merges.txt"),
    "tokenizer_config.json",
)


class Tokenizer:
    """One vocabulary with its algorithm.

    Args:
        entries: list of str, the entry of each id.
        algorithm: "wordpiece" or "byte_bpe".
        do_lower: bool.
        special: tuple of str, the entries that stand for no text; None: those of the algorithm.
        merges: list of (str, str), of byte-level BPE.
        notes: list of str, what the training tells.
    Attributes:
        the arguments; vocab_size, unk_id: int.
    Raises:
        UserError: a special token of the algorithm is no entry.
    """

    def __init__(
        self, entries, algorithm=WORDPIECE, do_lower=True, special=None, merges=None, notes=()
    ):
        self.entries, self.algorithm, self.do_lower = list(entries), algorithm, do_lower
        own = SPECIAL_TOKENS[algorithm]
        self.special, self.merges, self.notes = tuple(special or own), merges, list(notes)
        ids = {entry: i for i, entry in enumerate(self.entries)}
        missing = [token for token in (*own[:4], *self.special) if token not in ids]
        if missing:
            raise UserError(f"the vocabulary has no entry {', '.join(dict.fromkeys(missing))}")
        make = _wordpiece if algorithm == WORDPIECE else _byte_bpe
        self._tokenizer = make(ids, do_lower, merges)
        self._tokenizer.add_special_tokens(list(self.special))
        self._tokenizer.encode_special_tokens = True  # a literal "[SEP]" in a text is text
        self.vocab_size = len(self.entries)
        self.unk_id = ids[UNK if algorithm == WORDPIECE else "<unk>"]

    @classmethod
    def train(cls, texts=None, files=None, text_columns=None, delimiter=None, **keys):
        """Trains a vocabulary. The same texts give the same one, in any order, on any machine.

        Args:
            texts: iterable of str; or
            files, text_columns, delimiter: as of TextFiles.
            keys: of the section `vocabulary`: algorithm, vocab_size, min_frequency,
                limit_alphabet, do_lower, special_tokens, num_unused.
        Returns:
            Tokenizer.
        Raises:
            UserError: a key has no such value, or the texts cannot be read or used.
        """
        if (texts is None) == (files is None):
            raise UserError("give either texts or files")
        try:
            params = TrainerParams.model_validate(keys)
        except ValidationError as error:
            fault = error.errors()[0]
            ctx = fault.get("ctx", {})
            place = [*map(str, fault["loc"]), *ctx.get("keys", ())]
            raise UserError(": ".join([*place, ctx.get("text", fault["msg"])])) from None
        files = TextFiles(files, text_columns, delimiter) if texts is None else None
        source = files or GivenTexts(texts)
        return cls.of_words(count(source, params), params)

    @classmethod
    def of_words(cls, words, params):
        """`train` with words that are counted: Counter of `count`. params: TrainerParams."""
        trained = train_vocabulary(words, params)
        return cls(
            trained.entries,
            params.algorithm,
            params.lowers,
            params.special,
            trained.merges,
            trained.notes,
        )

    @classmethod
    def from_vocab_file(cls, path, do_lower=True):
        """Reads a WordPiece vocabulary, as `read_vocab` does."""
        entries = read_vocab(path)
        special = [token for token in SPECIAL_TOKENS[WORDPIECE] if token in entries]
        try:
            return cls(entries, WORDPIECE, do_lower, special)
        except UserError as error:
            raise UserError(f"{path}: {error}; take the vocab.txt of a BERT checkpoint") from None

    @classmethod
    def from_dir(cls, folder):
        """Reads what `save` wrote."""
        folder = Path(folder)
        content = _read_json(folder / NAME)
        config = _read_json(folder / CONFIG)
        try:
            special = [token["content"] for token in content["added_tokens"]]
            do_lower, model = config["do_lower_case"], content["model"]
            ids = model["vocab"]
            entries = sorted(ids, key=ids.get)
            merges = [tuple(pair) for pair in model.get("merges", ())]
            algorithm = WORDPIECE if model["type"] == "WordPiece" else BYTE_BPE
        except (KeyError, TypeError, AttributeError):
            raise UserError(
                f"{folder} holds no tokenizer that this program saved; name the folder that "
                "--mode train_vocab or Tokenizer.save wrote"
            ) from None
        return cls(entries, algorithm, do_lower, special, merges or None)

    def files(self):
        """Returns the files of a folder: {name: content, str}."""
        content = {NAME: self._tokenizer.to_str(pretty=True) + "\n"}
        if self.algorithm == WORDPIECE:
            content[VOCAB_TXT] = "".join(f"{entry}\n" for entry in self.entries)
            config = bert_tokenizer_config(self.entries, self.do_lower)
        else:
            ids = {entry: i for i, entry in enumerate(self.entries)}
            content[VOCAB_JSON] = json.dumps(ids, ensure_ascii=False) + "\n"
            merges = ["#version: 0.2", *map(" ".join, self.merges)]
            content[MERGES] = "".join(f"{line}\n" for line in merges)
            roles = ("bos_token", "pad_token", "eos_token", "unk_token", "mask_token")
            config = {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": self.do_lower}
            config |= dict(zip(roles, SPECIAL_TOKENS[BYTE_BPE], strict=True))
        content[CONFIG] = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        return content

    def save(self, folder):
        """Writes the files into a folder, which is made."""
        for name, content in self.files().items():
            write_whole(Path(folder) / name, content)

    def encode(self, text, add_special_tokens=True):
        """Returns the encoding of a text: ids, tokens, and offsets, (first, end) of each in it.

        A special token that is added has the offsets (0, 0).
        """
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)

    def decode(self, ids, skip_special_tokens=True):
        """Returns the text of ids; as far as it was not folded, that of `encode`."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def pieces_of(self, word):
        """Returns the ids of one of the words that `count` counts: list of int."""
        return [piece.id for piece in self._tokenizer.model.tokenize(word)]

    def text_of(self, word):
        """Returns the text of one of the words that `count` counts."""
        return word if self.algorithm == WORDPIECE else decoders.ByteLevel().decode([word])

    def count(self, source):
        """Returns the words of TextFiles or their like, as this tokenizer splits them: Counter."""
        return _count(source, self.algorithm, self.do_lower)


def count(source, params):
    """Returns the words of TextFiles or their like, as TrainerParams say: Counter."""
    return _count(source, params.algorithm, params.lowers)


def _count(source, algorithm, do_lower):
    counting = count_words if algorithm == WORDPIECE else count_byte_words
    return counting(source.blocks(), do_lower)


def _wordpiece(ids, do_lower, _):
    """Returns a tokenizers.Tokenizer of BERT's WordPiece. ids: {entry: id}."""
    tokenizer = tokenizers.Tokenizer(
        models.WordPiece(
            ids,
            unk_token=UNK,
            max_input_chars_per_word=MAX_WORD_CHARACTERS,
            continuing_subword_prefix=CONTINUATION,
        )
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=do_lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
        special_tokens=[(CLS, ids[CLS]), (SEP, ids[SEP])],
    )
    tokenizer.decoder = decoders.WordPiece(prefix=CONTINUATION)
    return tokenizer


def _byte_bpe(ids, do_lower, merges):
    """Returns a tokenizers.Tokenizer of byte-level BPE, with RoBERTa's special tokens."""
    tokenizer = tokenizers.Tokenizer(models.BPE(ids, merges))
    if do_lower:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", ids["</s>"]), ("<s>", ids["<s>"]), add_prefix_space=False
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _read_json(path):
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from None
