# SPDX-License-Identifier: Apache-2.0
"""Trains vocabularies: WordPiece and byte-level BPE, with the trainer of the package tokenizers.

Both merge the most frequent pair of neighbouring pieces again and again (Sennrich et al. 2016,
algorithm 1). The package breaks ties by ids, and for WordPiece gives ids to the characters that
continue a word in the order of a hash table: six runs gave six vocabularies. Here each continuing
character becomes a character of its own, from the private planes of Unicode, which the clean-up
removes from every text. The package sorts those as it sorts an alphabet, so that the same words
give the same entries in the same order, whatever the number of threads.
"""

import json
from collections import Counter
from dataclasses import dataclass

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from common.console import counted
from common.errors import UserError
from common.params.vocabulary import WORDPIECE
from input.tokenizers.entries import CONTINUATION, first_entries

PRIVATE = 0xF0000  # planes 15 and 16 have 131,068 code points, more than any script that has words
MAX_COUNT = 2**31 - 1  # the trainer adds up the counts of a pair in 32 bits
LINE_WORDS = 1000  # words that the trainer is given at once


@dataclass(frozen=True)
class Vocabulary:
    """A trained vocabulary.

    Attributes:
        entries: list of str, the entry of each id.
        merges: list of (str, str), of byte-level BPE, the most frequent first; None: WordPiece.
        notes: list of str, sentences for the reader.
    """

    entries: list
    merges: list | None
    notes: list


def train_vocabulary(words, params):
    """Trains a vocabulary.

    Args:
        words: Counter of `count_words`, or of `count_byte_words` for byte-level BPE.
        params: TrainerParams.
    Returns:
        Vocabulary. WordPiece: `first_entries`; each character of the alphabet, and once more with
        ## where words have it behind their first, so that a word of known characters is never
        [UNK]; then what was merged, the most frequent first. Byte-level BPE: the special tokens,
        the 256 bytes, what was merged.
    Raises:
        UserError: there are no words, or vocab_size has no room for the alphabet.
    """
    if not words:
        raise UserError("the texts hold no words; give files with text")
    alphabet = Counter()
    for word, count in words.items():
        for character in word:
            alphabet[character] += count
    notes = []
    if params.algorithm == WORDPIECE:
        words = _without_rare_characters(words, alphabet, params.limit_alphabet, notes)
    words = _bounded(words, max(alphabet.values()), notes)
    train = _wordpiece if params.algorithm == WORDPIECE else _byte_bpe
    entries, merges = train(words, params)
    if len(entries) < params.size:
        notes.append(
            f"{len(entries):,} entries, not {params.size:,}: no further pair of pieces stands "
            f"{params.min_frequency} times in the texts; give more text, or write a smaller "
            "min_frequency"
        )
    return Vocabulary(entries, merges, notes)


def _wordpiece(words, params):
    """Returns entries, list of str, and None. words: {word: count}."""
    first = first_entries(params.special, params.unused)
    alphabet = sorted({character for word in words for character in word})
    continuing = sorted({character for word in words for character in word[1:]})
    _check_room(params.size, len(first), len(alphabet) + len(continuing))
    to_private = {ord(character): PRIVATE + i for i, character in enumerate(continuing)}
    from_private = {PRIVATE + i: character for i, character in enumerate(continuing)}
    spelled = ((word[0] + word[1:].translate(to_private), count) for word, count in words.items())
    alphabet += map(chr, from_private)
    pieces, _ = _train(spelled, params.size - len(first), params.min_frequency, alphabet)
    return [*first, *(_with_prefix(piece, from_private) for piece in pieces)], None


def _with_prefix(piece, from_private):
    prefix = CONTINUATION if ord(piece[0]) in from_private else ""
    return prefix + piece.translate(from_private)


def _byte_bpe(words, params):
    """Returns entries, list of str, and merges. words: {word: count}."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    _check_room(params.size, len(params.special), len(alphabet))
    num_pieces = params.size - len(params.special)
    pieces, merges = _train(words.items(), num_pieces, params.min_frequency, alphabet)
    return [*params.special, *pieces], merges


def _train(words, num_pieces, min_frequency, alphabet):
    """Returns pieces, list of str, and merges, list of (str, str), of pairs (word, count)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=num_pieces,
        min_frequency=min_frequency,
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_lines(words), trainer)
    vocab = tokenizer.get_vocab()
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return sorted(vocab, key=vocab.get), [tuple(pair) for pair in merges]


def _lines(words):
    """Yields texts that hold each word as often as it counts."""
    for word, count in words:
        for done in range(0, count, LINE_WORDS):
            yield f"{word} " * min(LINE_WORDS, count - done)


def _without_rare_characters(words, alphabet, limit, notes):
    """Returns the words that have no character beyond the `limit` most frequent ones: dict."""
    ordered = sorted(alphabet, key=lambda character: (-alphabet[character], character))
    rare = ordered[limit:]
    if rare:
        share = sum(alphabet[character] for character in rare) / sum(alphabet.values())
        notes.append(
            f"limit_alphabet leaves out the {counted(len(rare), 'rarest character')}, {share:.4%} "
            "of all; words with one become [UNK]"
        )
    kept = set(ordered[:limit])
    return {word: count for word, count in words.items() if kept.issuperset(word)}


def _bounded(words, most, notes):
    """Returns words whose counts fit the trainer: dict. most: int, of the commonest character."""
    divisor = most // MAX_COUNT + 1
    if divisor == 1:
        return words
    notes.append(f"all counts are divided by {divisor}, for the trainer adds up in 32 bits")
    return {word: count // divisor for word, count in words.items() if count >= divisor}


def _check_room(vocab_size, num_first, num_characters):
    needed = num_first + num_characters
    if vocab_size < needed:
        raise UserError(
            f"vocab_size is {vocab_size:,}, but the alphabet of the texts has {num_characters:,} "
            f"entries, and special and unused tokens are {num_first:,}; write {needed:,} or more, "
            "or a smaller limit_alphabet or num_unused"
        )
