# SPDX-License-Identifier: Apache-2.0
"""The vocabulary of a network: texts to the ids of their tokens, and where words stand.

NumPy and the package tokenizers alone, as this file is put beside an export.
"""

import functools
import json
import unicodedata
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

VOCAB_TXT, TOKENIZER_JSON = "vocab.txt", "tokenizer.json"
CONTINUATION, BLANK = "##", " "
PADS, MASKS = ("[PAD]", "<pad>"), ("[MASK]", "<mask>")


def open_vocabulary(folder, do_lower):
    """Returns the Vocabulary of an export. folder: path-like. do_lower: bool, as below."""
    path = Path(folder) / VOCAB_TXT
    if path.is_file():
        return WordPiece(read_entries(path), do_lower)
    content = json.loads((Path(folder) / TOKENIZER_JSON).read_text("utf-8"))
    return Library(content, do_lower)


def make_vocabulary(vocab, do_lower):
    """Returns a Vocabulary. vocab: list of str; if it has a `content`, that of a tokenizer.json."""
    if hasattr(vocab, "content"):
        return Library(vocab.content, do_lower, vocab)
    return WordPiece(vocab, do_lower)


def read_entries(path):
    """Returns the entries of a vocab.txt: list of str."""
    entries = Path(path).read_bytes().decode("utf-8").split("\n")
    return entries[:-1] if not entries[-1] else entries


class Vocabulary:
    """Entries and the rules by which texts become ids of them, without special tokens.

    A literal special token in a text, such as "[SEP]", is text.

    Args:
        entries: list of str, the entry of each id.
        do_lower: bool. How `split` finds words; in WordPiece words become lower case, too.
    Attributes:
        entries; pad_id, cls_id, sep_id: int.
        num_between: int, how many tokens of sep_id stand between the two texts of a row.
        library: tokenizers.Tokenizer.
    """

    num_between = 1

    def __init__(self, entries, do_lower):
        self.entries, self._splits_lower = entries, do_lower

    @property
    def mask_token(self):
        """str, what stands in the place of a word to predict; None where there is none."""
        return next((name for name in MASKS if name in self.entries), None)

    def ids_of(self, text):
        """Returns the ids of a text: list of int."""
        return self.library.encode(text, add_special_tokens=False).ids

    def places_of(self, text):
        """Returns where the tokens of a text stand: list of (first character, one after last)."""
        return self.library.encode(text, add_special_tokens=False).offsets

    def ids_of_words(self, words, is_first_bare=False):
        """Returns the ids of words, and the number of the word that each is of: lists of int.

        words: list of str. is_first_bare: bool, whether the first begins its text.
        """
        raise NotImplementedError

    def word_pieces(self, ids):
        """Returns tokens as WordPiece spells them: list of str. ids: list of int."""
        raise NotImplementedError

    def normalized(self, text):
        """Returns the words of a text as the entries spell them, joined by one blank."""
        raise NotImplementedError

    def split(self, text):
        """Returns where the words of a text stand, as BERT parts them at blanks and punctuation:
        list of (first character, the one after the last); an accent is part of its letter."""
        found = []
        for begin, end in self._splitter.encode(text, add_special_tokens=False).offsets:
            while self._splits_lower and end < len(text) and _is_mark(text[end]):
                end += 1
            found.append((begin, end))
        return found

    @functools.cached_property
    def _splitter(self):
        return _of_bert(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"), self._splits_lower)


class WordPiece(Vocabulary):
    """BERT's: longest pieces first of words in lower case or as they are."""

    mask_takes_blank = False

    def __init__(self, entries, do_lower):
        super().__init__(entries, do_lower)
        ids = {entry: number for number, entry in enumerate(entries)}
        self.pad_id, self.cls_id, self.sep_id = (ids[f"[{name}]"] for name in ("PAD", "CLS", "SEP"))
        model = models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100)
        self.library = _of_bert(model, do_lower)

    def ids_of_words(self, words, is_first_bare=False):
        del is_first_bare
        encoding = self.library.encode(words, is_pretokenized=True, add_special_tokens=False)
        return encoding.ids, encoding.word_ids

    def word_pieces(self, ids):
        return [self.entries[i] for i in ids]

    def normalized(self, text):
        text = self.library.normalizer.normalize_str(text)
        return BLANK.join(word for word, _ in self.library.pre_tokenizer.pre_tokenize_str(text))


class Library(Vocabulary):
    """Byte-level BPE, unigram and others, by a tokenizer.json.

    Args:
        content: dict, of the tokenizer.json.
        do_lower: bool, as of Vocabulary; what becomes of a text the file says.
        entries: as of Vocabulary; None: those of the file.
    Raises:
        ValueError: the package cannot read the file, there is no padding, or rows are not
            [CLS] A [SEP] B [SEP] in the names of this vocabulary.
    """

    def __init__(self, content, do_lower, entries=None):
        try:
            library = Tokenizer.from_str(json.dumps(content))
        except Exception as error:  # the package raises no narrower class
            raise ValueError(
                f"the package tokenizers cannot read it: {error}; copy or download it again"
            ) from None
        if entries is None:
            ids = library.get_vocab()
            entries = sorted(ids, key=ids.get)
        super().__init__(entries, do_lower)
        library.no_padding()
        library.no_truncation()
        library.encode_special_tokens = True
        self.library = library
        self._added = {each["content"]: each for each in content.get("added_tokens") or ()}
        # In byte-level BPE the blank before a word is a part of its first piece.
        self._needs_blank = self.ids_of("a") != self.ids_of(" a")
        single, pair = (library.encode(*texts).ids for texts in (("",), ("", "")))
        is_known = len(single) == 2 and len(pair) in (3, 4) and set(pair[1:]) == {single[1]}
        if not is_known or pair[0] != single[0]:
            raise ValueError(
                f"it puts {len(single)} special tokens around a text and {len(pair)} around a "
                "pair, where rows are [CLS] A [SEP] and [CLS] A [SEP] B [SEP]; take the tokenizer "
                "of a BERT, RoBERTa or another encoder"
            )
        self.cls_id, self.sep_id = single
        self.num_between = len(pair) - 2
        self.pad_id = self.id_of(PADS)

    def id_of(self, names):
        """Returns the id of the first of these entries that there is. Raises ValueError."""
        name = next((name for name in names if name in self.entries), None)
        if name is None:
            raise ValueError(
                f"it has no {' or '.join(names)} among its tokens; take the file that belongs to "
                "the weights"
            )
        return self.entries.index(name)

    @property
    def mask_takes_blank(self):
        """Whether the blank before mask_token is a part of it, as RoBERTa has it."""
        return self.mask_token in self._added and self._added[self.mask_token]["lstrip"]

    def is_special(self, token):
        """Whether a token of the vocabulary is no part of a text."""
        return token in self._added and bool(self._added[token].get("special"))

    def places_of(self, text):
        # Without the blank that is a part of a word's first piece.
        return [
            (first + len(text[first:end]) - len(text[first:end].lstrip()), end)
            for first, end in super().places_of(text)
        ]

    def ids_of_words(self, words, is_first_bare=False):
        rows = self.library.encode_batch_fast(
            self.in_sentence(words, is_first_bare), add_special_tokens=False
        )
        numbers = [number for number, row in enumerate(rows) for _ in row.ids]
        return [i for row in rows for i in row.ids], numbers

    def word_pieces(self, ids):
        """Returns tokens as WordPiece spells them, "##" before what continues a word: list of str.

        ids: list of int, of words that are separated by blanks. A piece whose bytes are a part of a
        character has U+FFFD in their place.
        """
        decode = self.library.decoder.decode
        # Behind another piece, since the first of a text may lose its blank.
        pieces = [decode(["a", self.entries[i]]).removeprefix("a") for i in ids]
        return [
            piece.removeprefix(BLANK) if n == 0 or piece.startswith(BLANK) else CONTINUATION + piece
            for n, piece in enumerate(pieces)
        ]

    def normalized(self, text):
        words = text.split(BLANK)
        if self.library.normalizer is not None:
            words = [self.library.normalizer.normalize_str(word) for word in words]
        return BLANK.join(part for word in words for part in word.split())

    def in_sentence(self, words, is_first_bare=False):
        """Returns the words of a text as they are to be tokenised, each alone: list of str.

        A blank belongs to the word after it. is_first_bare: bool. The first word begins the text;
        else it has a blank, too, as transformers' `is_split_into_words` with `add_prefix_space`.
        """
        if not self._needs_blank:
            return list(words)
        return [word if is_first_bare and i == 0 else BLANK + word for i, word in enumerate(words)]


def _is_mark(character):
    return unicodedata.category(character) == "Mn"


def _of_bert(model, do_lower):
    """Returns a Tokenizer that parts texts into words as BERT does. model: what becomes of them."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=do_lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer
