# SPDX-License-Identifier: Apache-2.0
"""Counts the words of texts, as a tokenizer splits them before it looks for pieces.

Most of a text are the same strings between white space again and again. Those are counted first,
which Python does at 30 MB a second, and each different one is normalised and split once. White
space always ends a word, so the counts are those of the tokenizer on the whole text.
"""

import re
from collections import Counter

from tokenizers import normalizers, pre_tokenizers

from input.tokenizers.entries import MAX_WORD_CHARACTERS
from input.tokenizers.unicode_tables import SPACES

MAX_STRINGS = 1_000_000  # different ones that wait to be split: about 100 MB
# Where str.split() ends a string, though BERT's clean-up deletes the character.
DELETED = "\x0b\x0c\x1c\x1d\x1e\x1f\x85"
ASCII_WORD = re.compile(r"[0-9A-Za-z]+|[!-/:-@\[-`{-~]")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")

# White space of Unicode but for line feeds, in a class of a regular expression.
BLANK = "\t\x0b-\r \x85" + "".join(chr(c) for span in SPACES for c in span if c > 0x85)
# A string with the space before it; other white space, but for line feeds.
GPT2_STRING = re.compile(rf" ?[^{BLANK}\n]+|[{BLANK}]+(?![^{BLANK}\n])|[{BLANK}]")
# GPT-2's pattern (Radford et al. 2019, encoder.py) on ASCII.
GPT2_ASCII = re.compile(
    r"'(?:s|t|re|ve|m|ll|d)| ?[A-Za-z]+| ?[0-9]+| ?[^ A-Za-z0-9]+|\s+(?!\S)|\s+"
)


def count_words(blocks, do_lower):
    """Counts the words that WordPiece cuts: cleaned, folded, split at punctuation.

    Args:
        blocks: iterable of str, whole lines each.
        do_lower: bool, as of WordPieceTokenizer.
    Returns:
        Counter of str. Words over MAX_WORD_CHARACTERS, which become [UNK], are left out.
    """
    normalizer = normalizers.BertNormalizer(lowercase=do_lower)
    splitter = pre_tokenizers.BertPreTokenizer()

    def strings_of(block):
        for character in DELETED:
            if character in block:
                block = block.replace(character, "")
        return block.split()

    def words_of(string):
        if string.isascii():
            if CONTROL.search(string):
                string = CONTROL.sub("", string)
            return ASCII_WORD.findall(string.lower() if do_lower else string)
        return [
            word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(string)) if word
        ]

    words = _count(blocks, strings_of, words_of)
    for word in [word for word in words if len(word) > MAX_WORD_CHARACTERS]:
        del words[word]
    return words


def count_byte_words(blocks, do_lower):
    """Counts the words that byte-level BPE merges: GPT-2's, with the space before them.

    Args:
        blocks: iterable of str, whole lines each, whose line ends are left out.
        do_lower: bool.
    Returns:
        Counter of str, in which each byte is a character as `pre_tokenizers.ByteLevel` writes it.
    """
    lower = normalizers.Lowercase()
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)

    def words_of(string):
        if string.isascii() and not CONTROL.search(string):
            string = string.lower() if do_lower else string
            return [word.replace(" ", "\u0120") for word in GPT2_ASCII.findall(string)]
        string = lower.normalize_str(string) if do_lower else string
        return [word for word, _ in splitter.pre_tokenize_str(string)]

    return _count(blocks, GPT2_STRING.findall, words_of)


def _count(blocks, strings_of, words_of):
    """Returns a Counter of the words of all strings of all blocks."""
    strings, words = Counter(), Counter()

    def split():
        for string, count in strings.items():
            for word in words_of(string):
                words[word] += count
        strings.clear()

    for block in blocks:
        strings.update(strings_of(block))
        if len(strings) > MAX_STRINGS:
            split()
    split()
    return words
